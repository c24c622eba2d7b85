"""The cost model of docs/scaling.md, compared with one real run."""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.measuring import Row, normal
from unseen_diffusion.models import DiffusersModel
from unseen_diffusion.utils.files import read_json

NUMBERS = 3 * 32 * 32
RUN = (
    "domain=hubble",
    "domain.references=48",
    "domain.validation=16",
    "domain.heldout=32",
    "samples=32",
    "scores=lean",
    "tracking=none",
    "progress=false",
)


@dataclass(frozen=True)
class Plan:
    """The size of a run.

    Attributes:
        references, samples: images inverted and generated.
        up, down: network evaluations per image and direction.
        numbers: of a latent, d.
        recorded: mixing steps kept of a trajectory.
    """

    references: int
    samples: int
    up: int
    down: int
    numbers: int
    recorded: int = 1

    @property
    def evaluations(self) -> int:
        """Network function evaluations: N inversions and M samplings."""
        return self.references * self.up + self.samples * self.down

    def seconds(self, rate: float) -> float:
        """Duration at a number of evaluations per second."""
        return self.evaluations / rate

    def flops(self, macs: float) -> float:
        """Operations of a network, from the multiply-accumulates of one evaluation."""
        return 2 * macs * self.evaluations

    def dollars(self, rate: float, price: float) -> float:
        """Price, from the dollars per hour of the device."""
        return self.seconds(rate) / 3600 * price

    def bytes(self) -> dict[str, int]:
        """Bytes in the store: float32 latents at each recorded step, float32 accepted latents, 8-bit images."""
        n, m, d = self.references, self.samples, self.numbers
        return {"invert": 4 * n * d * self.recorded, "select": 4 * m * d, "denoise": m * d}


def costs(device: torch.device) -> list[Row]:
    """Evaluations, seconds and bytes of `unseen run`, predicted from N, M, steps, d and the rate of bare forwards."""
    plan = Plan(references=48, samples=32, up=16, down=16, numbers=NUMBERS)
    model = DiffusersModel("embedded:photos32", device=device)
    x, node = normal(48, *model.shape).to(device), model.schedule.node(250.0)

    def rate(calls: int = 5) -> float:
        """Images per second of wall time, as the run reports wall time; the same other load affects both."""
        started = time.perf_counter()
        for _ in range(calls):
            model.predict(x, node).eps.cpu()
        return calls * len(x) / (time.perf_counter() - started)

    rate(1)
    with TemporaryDirectory() as name:
        before, found, after = rate(), _run(Path(name), device), rate()
        sizes = {stage: _size(Path(name) / "store" / stage) for stage in plan.bytes()}
    rows = [
        _row(f"evaluations, {stage}", found["evaluations"][stage], "evaluations", predicted)
        for stage, predicted in (("invert", plan.references * plan.up), ("denoise", plan.samples * plan.down))
    ]
    spent = found["seconds"]["invert"] + found["seconds"]["denoise"]
    rows.append(_row("seconds in the network's stages", spent, "s", plan.seconds((before + after) / 2)))
    other = sum(found["seconds"].values()) - spent
    rows.append(Row("seconds in all other stages", other, "s", "", None, "scores, prior, selection"))
    return rows + [_row(f"bytes, {stage}", sizes[stage], "bytes", size) for stage, size in plan.bytes().items()]


def _row(label: str, measured: float, unit: str, predicted: float) -> Row:
    return Row(label, measured, unit, f"predicted: {predicted:.4g}", measured / predicted)


def _run(folder: Path, device: torch.device) -> dict[str, dict[str, float]]:
    """results.json of a real run with an empty store."""
    place = (f"hydra.run.dir={folder / 'run'}", f"paths.store={folder / 'store'}", f"device={device}")
    command = [sys.executable, "-m", "unseen_diffusion.cli", "run", *RUN, *place]
    subprocess.run(command, check=True, capture_output=True)
    return read_json(folder / "run" / "results.json")


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
