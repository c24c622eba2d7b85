"""Where a run's images come from: the full method, and the baselines it has to beat."""

from dataclasses import dataclass

from unseen_diffusion.errors import InputError
from unseen_diffusion.priors import Prior
from unseen_diffusion.rejection import Tolerances

# prior: latents drawn from a prior, within tolerances. noised: references under the forward process's noise.
# base: the model's own latents. real: no model at all.
SOURCES = ("prior", "noised", "base", "real")


@dataclass(frozen=True)
class Method:
    """A config of the ``method`` group.

    Attributes:
        name: in tables; comparisons pair methods by it.
        source: one of ``SOURCES``.
        prior: the prior that belongs to the method; None takes the run's own.
        tolerances: likewise.
    """

    name: str
    source: str = "prior"
    prior: Prior | None = None
    tolerances: Tolerances | None = None

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise InputError(f"method.source={self.source}: choose one of {', '.join(SOURCES)}")
        if self.source != "prior" and (self.prior or self.tolerances):
            raise InputError(
                f"method={self.name}: source={self.source} draws from no prior; leave prior and tolerances out"
            )
