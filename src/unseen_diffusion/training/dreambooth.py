"""DreamBooth (Ruiz et al. 2022, arXiv 2208.12242) with low-rank adapters, for text-conditional latent diffusion.

The references become the meaning of one prompt, ``model.condition``, by adapters on the projections of attention. Prior
preservation, which trains on images of the prompt's class as well, is left out.
"""

from typing import Any

from torch import Tensor, nn

from unseen_diffusion.models.adapters import attention_layers, check_peft, merged, with_adapters
from unseen_diffusion.models.anatomy import examine
from unseen_diffusion.models.folders import resolve
from unseen_diffusion.models.parameterisations import VariancePreserving
from unseen_diffusion.training.finetuning import LoraTuning, check_validation
from unseen_diffusion.utils.checked import settings
from unseen_diffusion.utils.errors import InputError


@settings("method.tuning")
class DreamboothTuning(LoraTuning):
    """Fine-tuning of adapters on attention, under the prompt ``model.condition``."""

    def check(self, model: dict[str, Any], validation: int) -> None:
        """Checks that the model takes prompts and has one, that peft is installed, and the validation images.

        Raises:
            InputError: the first that does not hold.
        """
        check_peft()
        if "path" not in model:
            raise InputError(f"model={model['name']}: takes no prompt; choose a text model such as sd21_base")
        anatomy = examine(resolve(model["path"], model.get("revision"), weights=False))
        if not anatomy.is_text or not isinstance(anatomy.family, VariancePreserving):
            raise InputError(
                f"model.path={model['path']}: takes no prompt, or is no Stable Diffusion 1 or 2; choose one"
            )
        if not model.get("condition"):
            raise InputError(
                "model.condition: DreamBooth gives one prompt a meaning; name it, e.g. model.condition='a photo of sks'"
            )
        check_validation(validation)

    def trainable(self, network: nn.Module, seed: int) -> nn.Module:
        """A copy of ``network`` with fresh adapters on attention."""
        return with_adapters(network, self.rank, seed, attention_layers(network))

    def tuned(self, network: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
        """The adapters, merged into a copy of ``network``."""
        return merged(network, self.rank, weights, attention_layers(network))
