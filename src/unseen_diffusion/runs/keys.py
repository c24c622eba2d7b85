"""The keys of a run outside the groups to choose from: types, ranges and meanings. Imports no torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from unseen_diffusion.rejection.settings import Rejection
from unseen_diffusion.utils.checked import Count, Share, Text, described, hints, settings
from unseen_diffusion.utils.errors import InputError

GROUPS = (
    "model",
    "domain",
    "method",
    "mixing",
    "bandwidth",
    "tolerances",
    "selection",
    "prior",
    "solver",
    "scores",
    "features",
    "tracking",
    "paths",
)

Timestep = Annotated[float, Field(ge=0)]


@settings("")
class RunKeys:
    """Keys at the top of a run's config."""

    samples: Count
    """images to generate"""
    seed: Annotated[int, Field(ge=0, le=2**62)]
    """seed of candidates, rejection and denoising noise"""
    batch_size: Count | Literal["auto"]
    """images per network call; auto: 64, on CUDA 256; halved if memory runs out; changes a few bytes of images by 1"""
    deterministic: bool
    """true: the same bytes for every batch_size and number of threads; slower: 8 images at a time, and one thread of
    the CPU"""
    device: Text
    """auto, cpu, cuda, cuda:1 or mps"""
    progress: bool
    """show progress bars with the time left"""
    workers: Count
    """jobs that share the work of each run of a sweep (needs -m, docs/clusters.md); changes no result"""
    worker: Annotated[int, Field(ge=0)]
    """index of this worker; set automatically"""

    def __post_init__(self) -> None:
        if self.worker >= self.workers:
            raise InputError(f"worker={self.worker}: give a whole number between 0 and {self.workers - 1}")


@settings("mixing")
class FixedMixing:
    """One mixing step, given."""

    t: Timestep
    """mixing step: timestep of the latents, fractions allowed"""
    record: Sequence[Timestep] | None
    """more steps that the same inversion records, e.g. [250,500,750]: a sweep over them inverts once"""


@settings("bandwidth")
class FixedBandwidth:
    """One bandwidth, given."""

    eta: Share
    """0: deterministic denoising, 1: as noisy as DDPM"""


@settings("paths")
class Paths:
    """Where results and downloads go."""

    outputs: Text
    """folder of artefacts, runs, sweeps and trainings"""
    store: Text
    """folder of artefacts, or s3://BUCKET/PREFIX for machines that share no disk (docs/store.md)"""
    cache: Text
    """folder of downloaded feature networks"""

    @property
    def local_artefacts(self) -> Path:
        """The folder of artefacts on this machine if the store is a bucket."""
        return Path(self.outputs) / "artefacts"


# Parts of a config that no ``_target_`` builds.
SECTIONS: dict[str, type] = {
    "rejection": Rejection,
    "mixing": FixedMixing,
    "bandwidth": FixedBandwidth,
    "paths": Paths,
}


def run_keys(plain: Mapping[str, Any]) -> RunKeys:
    """The checked keys at the top of a config.

    Raises:
        InputError: one that does not fit, or that nothing reads.
    """
    groups = {*GROUPS, *SECTIONS}
    return RunKeys(**{key: value for key, value in plain.items() if key not in groups})


def section(plain: Mapping[str, Any], name: str) -> Any:
    """A checked section of ``SECTIONS``.

    Raises:
        InputError: a key that does not fit, is missing, or that nothing reads.
    """
    if not isinstance(plain[name], Mapping):
        raise InputError(f"{name}={plain[name]}: choose an option of this group (unseen --help)")
    for key, annotation in hints(SECTIONS[name]).items():
        if key not in plain[name]:
            raise InputError(f"{name}.{key}: required; give {described(annotation)}")
    return SECTIONS[name](**plain[name])
