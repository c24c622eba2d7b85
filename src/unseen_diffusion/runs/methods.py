"""Where a run's images come from: the full method, and the baselines it has to beat."""

from dataclasses import dataclass

from unseen_diffusion.priors import Prior
from unseen_diffusion.rejection import Tolerances
from unseen_diffusion.training.finetuning import Tuning
from unseen_diffusion.utils.errors import InputError

# prior: latents drawn from a prior, within tolerances. noised: references under the forward process's noise.
# base: the model's own latents. tuned: those of the model fine-tuned on the references. real: no model at all.
SOURCES = ("prior", "noised", "base", "tuned", "real")


@dataclass(frozen=True)
class Method:
    """A config of the ``method`` group.

    Attributes:
        name: in tables; comparisons pair methods by it.
        source: one of ``SOURCES``.
        prior: the prior that belongs to the method; None takes the run's own.
        tolerances: likewise.
        tuning: how the model is tuned, for the source ``tuned`` alone.
    """

    name: str
    source: str = "prior"
    prior: Prior | None = None
    tolerances: Tolerances | None = None
    tuning: Tuning | None = None

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise InputError(f"method.source={self.source}: choose one of {', '.join(SOURCES)}")
        if self.source != "prior" and (self.prior or self.tolerances):
            raise InputError(
                f"method={self.name}: source={self.source} draws from no prior; leave prior and tolerances out"
            )
        if (self.source == "tuned") != (self.tuning is not None):
            raise InputError(f"method={self.name}: give tuning with source=tuned, and with no other")
