"""The ceiling: real images of the domain in place of generated ones."""

from typing import TYPE_CHECKING, ClassVar

from unseen_diffusion.runs.methods.base import Generated, Method
from unseen_diffusion.utils.checked import settings

if TYPE_CHECKING:
    import unseen_diffusion.runs.run


@settings("method")
class RealImages(Method):
    """The references themselves, scored as if they had been generated."""

    source: ClassVar = "real"
    generates: ClassVar = False

    def generate(self, run: "unseen_diffusion.runs.run.Run") -> Generated:
        return Generated(run.stages.real(run.split.tensors["references"][: run.settings.samples]))
