"""Networks of one inference time, averages of the weights and longer trainings of `photos32`, measured on test images.

python -m experiments.base_model.analyse FOLDER

FOLDER has the Parquet files that `experiments.base_model.measure` trained on. Trainings that are absent are left out.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from experiments.base_model.measure import ALL, CANDIDATES, CONTINUED, START, TEST, TRAIN, TRAININGS
from experiments.common import fill, interval, pm, runs, score, signed
from experiments.studies import commit, hardware
from unseen_diffusion.domains.parquet import read_parquet
from unseen_diffusion.models import DiffusersModel
from unseen_diffusion.models.losses import image_losses
from unseen_diffusion.models.unet import unet_forward
from unseen_diffusion.scores.features.base import extract
from unseen_diffusion.scores.features.embedded import EmbeddedFeatures
from unseen_diffusion.scores.features.pixels import Pixels
from unseen_diffusion.scores.intervals import MeanInterval, paired_difference, t_interval
from unseen_diffusion.scores.kernel import KernelDistance, kid
from unseen_diffusion.scores.memorisation import CopyRate, copy_rate
from unseen_diffusion.solvers.sampling import denoise, invert
from unseen_diffusion.solvers.settings import SolverSettings
from unseen_diffusion.training.samples import sample
from unseen_diffusion.utils.files import atomic_path
from unseen_diffusion.utils.images import dequantise, quantise
from unseen_diffusion.utils.seeds import generator

HERE = Path(__file__).parent
DRAWS = 8  # timesteps and noises an image
AT_ONCE = 64  # images of a timed forward pass
CONTROLS = 100  # training images of the control
REPEATS = 7  # of a timed forward pass; the fastest counts
AVERAGE = "validation_loss_ema_"  # and a decay: columns of validation.csv
OWN = 0.999  # decay of `photos32`
BEFORE = 7000  # training steps of the weights that `longer` began with
SWEEP = Path("outputs/sweeps/base_model")
MODELS = {  # models of the sweep, by path: training steps of the weights
    str(START): "7000",
    str(TRAININGS / "longer" / "weights"): "10000",
    "embedded:photos32": "14500",
}
CPU = torch.device("cpu")


@dataclass
class Measuring:
    """Test and training images to measure on, and what was measured of a folder of weights, once each."""

    test: Tensor
    train: Tensor
    images: int = 500
    samples: int = 500

    def __post_init__(self) -> None:
        self.losses: dict[Path | str, Tensor] = {}
        self.samples_of: dict[Path | str, Tensor] = {}
        self.pixels = Pixels()
        self.extractor = EmbeddedFeatures()
        self.target = extract(self.extractor, self.test)

    def some(self, images: Tensor) -> Tensor:
        """A fixed selection of ``self.images`` images."""
        return images[torch.randperm(len(images), generator=generator(0, "base_model"))[: self.images]]

    def loss(self, path: Path | str) -> list[float]:
        """The loss of each of some test images."""
        if path not in self.losses:
            print(f"loss of {path}", flush=True)
            model = DiffusersModel(str(path))
            self.losses[path] = image_losses(model.network, model.loss(self.some(self.test)), 0, DRAWS)
        return self.losses[path].tolist()

    def training_loss(self, path: Path | str) -> list[float]:
        """The loss of each of as many training images."""
        model = DiffusersModel(str(path))
        return image_losses(model.network, model.loss(self.some(self.train)), 0, DRAWS).tolist()

    def copies(self, path: Path | str) -> CopyRate:
        """Share of own samples that copy training images, in pixels, because features can miss a copy."""
        return copy_rate(*(self.pixels(images) for images in (self.own(path), self.train, self.test)))

    def caught(self, path: Path | str) -> CopyRate:
        """The control: share of training images that count as copies after a round trip to t = 500 with eta 0.5."""
        model, solver = DiffusersModel(str(path)), SolverSettings(name="dpmpp_2m", grid="karras", steps=16)
        grid = solver.make_grid(model.schedule, 500)
        latents = invert(model, dequantise(self.some(self.train)[:CONTROLS]), grid, [500], solver)[500]
        back = quantise(denoise(model, latents, grid, 0.5, 0, solver=solver))
        return copy_rate(*(self.pixels(images) for images in (back, self.train, self.test)))

    def own(self, path: Path | str) -> Tensor:
        """The model's own samples, uint8."""
        if path not in self.samples_of:
            print(f"samples of {path}", flush=True)
            self.samples_of[path] = sample(Path(path), self.samples, 0, CPU)
        return self.samples_of[path]

    def features(self, path: Path | str) -> Tensor:
        """Features of the model's own samples."""
        return extract(self.extractor, self.own(path))


def weights(name: str) -> Path:
    """The finished weights of a training."""
    return TRAININGS / name / "weights"


@torch.no_grad()
def forward(model: DiffusersModel, x: Tensor) -> None:
    """One forward pass of the bare network."""
    unet_forward(model.network, x, torch.full((len(x),), 500.0), model.factor)


def seconds(models: dict[str, DiffusersModel]) -> dict[str, float]:
    """The fastest forward pass of each network; they take turns, so that other work on the machine affects all."""
    x = torch.randn((AT_ONCE, *next(iter(models.values())).shape), generator=generator(0, "timed"))
    found = dict.fromkeys(models, float("inf"))
    for _ in range(REPEATS):
        for name, model in models.items():
            started = time.perf_counter()
            forward(model, x)
            found[name] = min(found[name], time.perf_counter() - started)
    return found


def operations(model: DiffusersModel) -> float:
    """Floating-point operations of one image."""
    with FlopCounterMode(display=False) as counter:
        forward(model, torch.zeros((1, *model.shape)))
    return float(counter.get_total_flops())


def networks(measuring: Measuring, names: list[str]) -> pd.DataFrame:
    """A row per short training."""
    models = {name: DiffusersModel(str(weights(name))) for name in names}
    times = seconds(models)
    rows = []
    for name, model in models.items():
        last = pd.read_csv(TRAININGS / name / "validation.csv").iloc[-1]
        difference = paired_difference(measuring.loss(weights(name)), measuring.loss(weights("photos32")))
        row = {"training": name, "parameters": sum(p.numel() for p in model.network.parameters())}
        row |= {"operations": operations(model), "seconds": times[name], "loss": last["validation_loss"]}
        row |= {key: last[key] for key in ("kid", "kid_low", "kid_high")}
        rows.append(row | {"difference": difference.mean, "low": difference.low, "high": difference.high})
    return pd.DataFrame(rows)


def better(table: pd.DataFrame) -> list[str]:
    """The verdict by the rule of the study's protocol."""
    noise = abs(float(table.set_index("training").loc["photos32_seed_1", "difference"]))
    candidates = table[table["training"].isin(CANDIDATES) & (table["training"] != "photos32")]
    return candidates[(candidates["high"] < 0) & (candidates["difference"] < -2 * noise)]["training"].tolist()


def kid_row(step: int, found: KernelDistance) -> dict[str, float]:
    return {"step": step, "kid": found.value, "kid_low": found.low, "kid_high": found.high}


def curves(names: Sequence[str]) -> dict[str, pd.DataFrame]:
    """validation.csv of trainings that each went on from the one before; ``step`` counts from random weights."""
    found, before = {}, BEFORE
    for name in names:
        curve = pd.read_csv(TRAININGS / name / "validation.csv")
        found[name] = curve.assign(step=curve["step"] + before, own_step=curve["step"])
        before = int(found[name]["step"].iloc[-1])
    return found


def averages(measuring: Measuring, name: str, curve: pd.DataFrame) -> pd.DataFrame:
    """A training's averages of the weights: validation loss by step, and the paired difference at the end."""
    last = TRAININGS / name / f"weights-{curve['own_step'].iloc[-1]:06d}"
    others = [column for column in curve if column.startswith(AVERAGE)]
    columns = {OWN: "validation_loss"} | {float(column.removeprefix(AVERAGE)): column for column in others}
    rows = []
    for decay, column in sorted(columns.items()):
        folder = last if decay == OWN else last.with_name(f"{last.name}-ema-{decay}")
        difference = paired_difference(measuring.loss(folder), measuring.loss(last))
        row = {"training": name, "decay": decay, **dict(zip(curve["step"].astype(str), curve[column], strict=True))}
        rows.append(row | {"difference": difference.mean, "low": difference.low, "high": difference.high})
    return pd.DataFrame(rows)


def quality(measuring: Measuring, found: dict[str, pd.DataFrame]) -> tuple[pd.DataFrame, list[str]]:
    """Own quality by step along the trainings, with the losses and the memorisation at their ends."""
    ends = {BEFORE: START} | {int(curve["step"].iloc[-1]): weights(name) for name, curve in found.items()}
    first = kid_row(BEFORE, kid(measuring.features(START), measuring.target))
    own = pd.DataFrame([first, *(row for curve in found.values() for row in curve.to_dict("records"))])
    said = []
    for (step, path), (after, later) in pairwise(ends.items()):
        gain = paired_difference(measuring.loss(later), measuring.loss(path))
        said.append(f"- From {step} to {after} steps the loss of test images changes by {thousandths(gain)} x 10⁻³.")
    for step, path in ends.items():
        seen, unseen = t_interval(measuring.training_loss(path)), t_interval(measuring.loss(path))
        half = 1.96 * (seen.standard_error**2 + unseen.standard_error**2) ** 0.5
        copies, caught = measuring.copies(path), measuring.caught(path)
        gap = f"{1000 * (seen.mean - unseen.mean):+.2f} ± {1000 * half:.2f} x 10⁻³ (unpaired: different images)"
        share = f"{100 * copies.share:.1f}% ({100 * copies.low:.1f} to {100 * copies.high:.1f})"
        said.append(
            f"- After {step} steps: loss of training images less that of test images {gap}; copies of training images "
            f"among {measuring.samples} own samples {share}, among new images {100 * copies.expected:.1f}% (exact p "
            f"{copies.p_value:.2g}), among training images sent to t = 500 and back with eta 0.5 {caught.share:.0%}."
        )
    return own.drop(columns="own_step"), said


def unseen_domains() -> pd.DataFrame:
    """KID-H, copies and bandwidth of the base models by domain, in the order of ``MODELS``."""
    rows = []
    for results in runs([SWEEP]):
        generated, found = results["rows"][0], results["bandwidth"]
        steps = MODELS[results["config"]["model"]["path"]]
        row = {"domain": results["settings"]["domain"], "steps": int(steps)}
        row |= {key: generated[key] for base in ("kid_h", "copy_rate") for key in (base, f"{base}_low", f"{base}_high")}
        rows.append(row | {"eta": found["eta"], "eta_low": found["low"], "eta_high": found["high"]})
    return pd.DataFrame(rows).sort_values(["domain", "steps"], kind="stable")


def unseen_table(full: pd.DataFrame) -> pd.DataFrame:
    """The formatted table."""
    records = full.to_dict("records")
    return pd.DataFrame(
        {
            "domain": full["domain"],
            "steps": full["steps"].astype(str),
            "KID-H x1000": [score(one, "kid_h") for one in records],
            "copies": [score(one, "copy_rate") for one in records],
            "bandwidth": [interval(one["eta"], one["eta_low"], one["eta_high"]) for one in records],
        }
    )


def differing(full: pd.DataFrame) -> dict[int, list[str]]:
    """Steps -> domains on which the interval of KID-H does not overlap that of the first weights."""
    found: dict[int, list[str]] = {steps: [] for steps in sorted(full["steps"].unique())[1:]}
    for domain, part in full.groupby("domain"):
        first, *others = part.sort_values("steps").to_dict("records")
        for one in others:
            if one["kid_h_low"] > first["kid_h_high"] or first["kid_h_low"] > one["kid_h_high"]:
                found[one["steps"]].append(str(domain))
    return found


def thousandths(found: MeanInterval) -> str:
    return signed(found.mean, found.low, found.high, 1000, 2)


def network_table(full: pd.DataFrame) -> pd.DataFrame:
    """The formatted table."""
    records = full.to_dict("records")
    base = next(one["seconds"] for one in records if one["training"] == "photos32")
    return pd.DataFrame(
        {
            "training": full["training"],
            "parameters": [f"{one['parameters'] / 1e6:.1f} M" for one in records],
            "GFLOP an image": [f"{one['operations'] / 1e9:.2f}" for one in records],
            "time": [f"{one['seconds'] / base:.2f}" for one in records],
            "loss less photos32's, x 10⁻³": [
                signed(one["difference"], one["low"], one["high"], 1000, 2) if one["training"] != "photos32" else ""
                for one in records
            ],
            "own KID x1000": [pm(1000 * one["kid"], 500 * (one["kid_high"] - one["kid_low"]), 0) for one in records],
        }
    )


def average_table(full: pd.DataFrame) -> pd.DataFrame:
    """The formatted table of one training's averages."""
    steps = [name for name in full.dropna(axis="columns", how="all") if name.isdigit()]
    columns = {f"loss at {step}": [f"{value:.5f}" for value in full[step]] for step in steps}
    return pd.DataFrame(
        {
            "decay": [f"{value:g}" for value in full["decay"]],
            **columns,
            f"less {OWN}'s, x 10⁻³": [
                signed(one["difference"], one["low"], one["high"], 1000, 3) if one["decay"] != OWN else ""
                for one in full.to_dict("records")
            ],
        }
    )


def draw(shown: pd.DataFrame, own: pd.DataFrame | None, averaged: pd.DataFrame | None) -> Figure:
    """Networks, own quality by step, averages by step."""
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    part = shown[shown["training"] != "photos32"].iloc[::-1]
    value, low, high = (1000 * part[name] for name in ("difference", "low", "high"))
    left.errorbar(value, part["training"], xerr=[value - low, high - value], fmt="o", ms=4, capsize=2)
    left.axvline(0, color="0.6", lw=0.8)
    left.set_xlabel("loss less that of photos32's network, x 10⁻³\n(1000 steps of 32; better to the left)")
    earlier = pd.read_csv(HERE.parent / "base_quality" / "results.csv").drop_duplicates("step")
    earlier = earlier.rename(columns={f"own_{name}": name for name in ("kid", "kid_low", "kid_high")})
    parts = [("from scratch (base_quality: 200 samples)", earlier)]
    parts += [] if own is None else [("from photos32 on (500 samples)", own)]
    for label, one in parts:
        value, low, high = (1000 * one[name] for name in ("kid", "kid_low", "kid_high"))
        middle.errorbar(one["step"], value, [value - low, high - value], fmt=".-", capsize=2, label=label)
    middle.set(xlabel="training step", ylabel="own KID x1000", yscale="log")
    middle.legend(frameon=False, fontsize=8)
    if averaged is not None:
        steps = [name for name in averaged if name.isdigit()]
        for number, (decay, part) in enumerate(averaged.groupby("decay")):
            curve = part[steps].mean()  # of the trainings, which have no step in common
            right.plot([int(step) for step in steps], curve, ".-", color=f"C{number}", label=f"{decay:g}")
        right.set(xlabel="training step", ylabel="validation loss")
        right.legend(frameon=False, fontsize=8, title="decay of the average")
    for axis in (left, middle, right):
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def analyse(measuring: Measuring, out: Path) -> None:
    """Writes tables and figure into ``out``, and fills its README, from the trainings that have ended."""
    done = [name for name in ALL if (weights(name) / "README.md").exists()]
    full = networks(measuring, [name for name in done if name not in CONTINUED])
    lines = [f"*commit {commit()}; {hardware()}, one thread a training.*", "", "**Networks.**", ""]
    markdown = partial(pd.DataFrame.to_markdown, index=False, disable_numparse=True)
    lines += [markdown(network_table(full)), ""]
    lines += [f"Better by the protocol's rule: {', '.join(better(full)) or 'none'}.", ""]
    found = curves([name for name in CONTINUED if name in done])
    own = averaged = None
    if found:
        tables = [averages(measuring, name, curve) for name, curve in found.items()]
        for table in tables:
            lines += [f"**Averages along `{table['training'].iloc[0]}`.**", "", markdown(average_table(table)), ""]
        averaged = pd.concat(tables)
        own, said = quality(measuring, found)
        kids = [pm(1000 * one["kid"], 500 * (one["kid_high"] - one["kid_low"]), 0) for one in own.to_dict("records")]
        steps = own["step"].astype(int).astype(str)
        lines += ["**Longer.**", "", f"- Own KID x1000 at steps {', '.join(steps)}: {', '.join(kids)}.", *said, ""]
    domains = unseen_domains() if SWEEP.exists() else None
    if domains is not None:
        lines += ["**Unseen domains.**", "", markdown(unseen_table(domains)), ""]
        for after, differ in differing(domains).items():
            lines += [
                f"After {after} steps KID-H differs from that after {BEFORE} on {', '.join(differ) or 'none of them'}.",
                "",
            ]
    for name, frame in (("networks", full), ("longer", own), ("averages", averaged), ("domains", domains)):
        if frame is not None:
            with atomic_path(out / f"{name}.csv") as path:
                frame.to_csv(path, index=False, float_format="%.6g")
    with atomic_path(out / "figure.png") as path:
        draw(full, own, averaged).savefig(path, format="png", dpi=130)
    fill(out / "README.md", "\n".join([*lines, "![figure](figure.png)"]))


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    test, train = (read_parquet(str(folder / name), 32, 3)[0] for name in (TEST, TRAIN))
    analyse(Measuring(test, train), HERE)


if __name__ == "__main__":
    main()
