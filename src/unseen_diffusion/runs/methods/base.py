"""The base class of methods: a checked config with ``generate``, which returns the images of a run.

A new method is one class; its config names it by ``_target_``::

    @settings("method")
    class First(Method):
        def generate(self, run):
            return Generated(run.stages.real(run.split.tensors["validation"][: run.settings.samples]))
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from unseen_diffusion.pipeline.steps import LatentSet
from unseen_diffusion.priors import Prior
from unseen_diffusion.rejection import Tolerances
from unseen_diffusion.runs.stages import StoredPrior
from unseen_diffusion.store.artefacts import Artefact
from unseen_diffusion.training.finetuning import Tuning
from unseen_diffusion.utils.checked import settings
from unseen_diffusion.utils.errors import InputError

if TYPE_CHECKING:
    import unseen_diffusion.runs.run


@dataclass(frozen=True)
class Generated:
    """The images of a method.

    Attributes:
        images: artefact with ``images`` (n, C, H, W) uint8.
        latents: those that were denoised; None where none were.
        prior: the fitted prior, where there is one.
        selection: the record of the rejection, where there was one.
        choice: the record of the selection by images, where there was one.
        evaluations: network evaluations behind the images, spent by this run or an earlier one.
        seconds: wall time behind them, likewise.
    """

    images: Artefact
    latents: LatentSet | None = None
    prior: StoredPrior | None = None
    selection: Artefact | None = None
    choice: Artefact | None = None
    evaluations: int = 0
    seconds: float = 0.0


@settings("method")
class Method(ABC):
    """A method; a config of the ``method`` group builds one."""

    name: str
    """label in tables; comparisons pair methods by it"""
    prior: Prior | None = None
    """prior that belongs to the method; null takes that of the prior group"""
    tolerances: Tolerances | None = None
    """tolerances that belong to the method; null takes those of the tolerances group"""
    tuning: Tuning | None = None
    """how the network is fine-tuned, for methods that do so"""

    draws_from_prior: ClassVar[bool] = False
    """whether it uses a prior"""
    rejects: ClassVar[bool] = False
    """whether it applies tolerances to the prior's candidates"""
    fine_tunes: ClassVar[bool] = False
    """whether it needs ``tuning``"""
    generates: ClassVar[bool] = True
    """whether its images are scored as generated ones; False for real images"""
    own_domain: ClassVar[bool] = False
    """whether its images are the base model's own samples"""
    source: ClassVar[str] = ""
    """its name in configs that give ``source`` instead of ``_target_``; empty for new methods"""

    def __post_init__(self) -> None:
        if not self.draws_from_prior and (self.prior or self.tolerances):
            raise InputError(f"method={self.name}: draws from no prior; leave prior and tolerances out")
        if not self.rejects and self.tolerances:
            raise InputError(f"method={self.name}: applies no tolerances; leave them out")
        if self.fine_tunes != (self.tuning is not None):
            raise InputError(f"method={self.name}: give tuning to a method that fine-tunes, and to no other")

    @abstractmethod
    def generate(self, run: "unseen_diffusion.runs.run.Run") -> Generated:
        """Generates the images of a run; ``runs.run.generate`` adds their cost."""
