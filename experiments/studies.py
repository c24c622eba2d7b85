"""Runs every study on the embedded models and rebuilds its results: what `make studies` calls.

python -m experiments.studies [NAME ...] [--jobs 2] [--tiny] [--analyse]

A study is one or more sweeps (`unseen run -m experiment=...`), then `experiments/NAME/analyse.py` on their folders. A
sweep that ended is not run again, one that was interrupted continues: finished stages are found in the store. `--tiny`
makes every sweep so small that all take minutes, and writes the analyses into outputs/tiny instead of the studies'
folders.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

from experiments.common import ENDED
from unseen_diffusion.cli import main as unseen_main
from unseen_diffusion.utils.files import read_json, write_json

HERE = Path(__file__).parent
SWEEPS = Path("outputs/sweeps")
TINY = (
    "samples=8",
    "domain.references=12",
    "domain.validation=6",
    "domain.heldout=8",
    "progress=false",
    "tracking=none",
    "scores.permutations=100",
)


@dataclass(frozen=True)
class Sweep:
    """One command. ``tiny`` are the overrides that make it small, beside ``TINY``."""

    name: str
    overrides: tuple[str, ...]
    tiny: tuple[str, ...] = ()


def sweep(name: str, experiment: str, *overrides: str, tiny: Sequence[str] = ()) -> Sweep:
    return Sweep(name, (f"experiment={experiment}", *overrides), tuple(tiny))


TWO = "domain=hubble,noise"
QUICK = "solver.steps=3"
SEARCH = (QUICK, "bandwidth.references=4", "bandwidth.resolution=0.2")
ONE = "model=photos32"
BANDWIDTHS = (
    sweep("bandwidth_psnr", "bandwidth", tiny=["mixing.t=250,500", TWO, *SEARCH]),
    sweep(
        "bandwidth_snr",
        "bandwidth",
        "bandwidth.minimum_psnr=null",
        "bandwidth.minimum_snr=10",
        "mixing.t=500",
        tiny=[TWO, *SEARCH],
    ),
)
TABLE1 = sweep("table1_geometry", "table1_geometry", tiny=[TWO, QUICK, "scores.geometry=8", "scores.latents=8"])
TABLE2 = sweep("table2_scores", "table2_scores", tiny=[ONE, TWO, *SEARCH])
ABLATION = (QUICK, "domain.draw=0,1", "seed=0,1", "tolerances=none,pair_distance,calibrated,random")
PRIORS = (QUICK, "domain.draw=0,1", "prior=sample_covariance,slerp")
NOVELTY = (QUICK, "mixing.t=250,750", "bandwidth.eta=0,0.5", "prior=replay,sample_covariance")
TUNING = (
    QUICK,
    "domain.references=12",
    "domain.draw=0,1",
    "domain.validation=8",
    "method.tuning.max_steps=2",
    "method.tuning.check_every=1",
    "method.tuning.batch_size=4",
)
COMPARISON = (QUICK, "domain.draw=0,1", "seed=0", "domain.heldout=20")  # of which conformal shares need 20
CHOICE = (QUICK, "mixing.t=250,500", "bandwidth.eta=0,0.5")
LARGER = ("model=photos32", "solver.steps=50")  # round trips of more images


def larger(domains: str, images: int) -> tuple[str, ...]:
    """Overrides of `reconstruct` on that many references."""
    counts = (f"domain.references={images}", f"samples={images}", f"scores.reconstructions={images}")
    return (*LARGER, f"domain={domains}", *counts)


STEPS = (125, 250, 500, 1000, 2000, 3000, 4000, 6000)
KEPT = tuple(f"outputs/training/photos32/weights-{step:06d}" for step in STEPS)  # by training.loop.keep
ALL_KEPT = f"model.path={','.join(KEPT)}"
TWO_KEPT = f"model.path={KEPT[0]},{KEPT[-1]}"
SEARCHED = ("bandwidth=search", "bandwidth.references=16", "bandwidth.resolution=0.02")
OWN_DOMAIN = (  # classes of photos32's training, and as many own samples
    "domain=cifar10",
    "domain.labels=[1,5,7,8]",
    "domain.references=200",
    "domain.heldout=200",
    "scores.latents=200",
    "samples=8",
    "bandwidth.eta=0",
)
# Study -> its sweeps, in the order in which they run. Studies may share sweeps.
STUDIES: dict[str, tuple[Sweep, ...]] = {
    "first_three": (sweep("first_three", "first_three", tiny=SEARCH),),
    "table1_geometry": (TABLE1,),
    "reconstruct": (
        sweep("reconstruct", "reconstruct", tiny=["model=photos32,untrained", TWO, "solver.steps=2,4"]),
        sweep(
            "reconstruct_100",
            "reconstruct",
            *larger("hubble,textures,digits8,turbulence", 100),
            tiny=["domain=hubble", "solver.steps=4", "scores.reconstructions=8"],
        ),
        sweep(
            "reconstruct_faces",
            "reconstruct",
            *larger("faces", 50),
            tiny=["domain=noise", "solver.steps=4", "scores.reconstructions=8"],
        ),
    ),
    "bandwidth_vs_step": BANDWIDTHS[:1],
    "bandwidth_vs_gap": (*BANDWIDTHS, TABLE1, TABLE2),
    "separability": (
        sweep("separability", "separability", tiny=["domain=hubble", "solver.steps=2,4,6", "scores.latents=8"]),
        TABLE1,
    ),
    "table2_scores": (TABLE2,),
    "criteria_ablation": (
        sweep("criteria_ablation_hubble", "criteria_ablation", "domain=hubble", tiny=ABLATION),
        sweep("criteria_ablation_textures", "criteria_ablation", "domain=textures", tiny=ABLATION),
    ),
    "priors": (
        sweep("priors_references", "priors", tiny=[*PRIORS, "domain.references=12,16"]),
        sweep(
            "priors_steps",
            "priors",
            "mixing.t=250,750",
            "domain.references=100",
            "mixing.record=[250,750]",
            tiny=[*PRIORS, "domain.references=12"],
        ),
    ),
    "novelty": (
        sweep("novelty_hubble", "novelty", "domain=hubble", tiny=NOVELTY),
        sweep("novelty_textures", "novelty", "domain=textures", tiny=NOVELTY),
    ),
    "robustness": (sweep("robustness", "robustness", tiny=["seed=range(0,8)", QUICK, "tolerances.k=4"]),),
    "paths": (sweep("paths", "paths", tiny=[ONE, TWO, QUICK, "scores.paths=2"]),),
    "tuning": (
        sweep("tuning_full", "tuning", "method=finetune_full", "method.tuning.max_steps=200", tiny=TUNING),
        sweep("tuning_lora", "tuning", "method=finetune_lora", "method.tuning.max_steps=200", tiny=TUNING),
        sweep("tuning_frozen", "tuning", "method=fitted,slerp", tiny=TUNING[:3]),
    ),
    "base_quality": (
        sweep("base_quality", "base_quality", ALL_KEPT, *SEARCHED, tiny=["domain=hubble", TWO_KEPT, *SEARCH]),
        sweep("base_quality_own", "base_quality", ALL_KEPT, *OWN_DOMAIN, tiny=[TWO_KEPT, QUICK, "scores.latents=8"]),
    ),
    "comparison": (
        sweep("comparison_100", "comparison", "domain=hubble,textures", tiny=[*COMPARISON, "domain=hubble"]),
        sweep(
            "comparison_50",
            "comparison",
            "domain=turbulence,digits8",
            "samples=50",
            tiny=[*COMPARISON, "domain=digits8"],
        ),
        sweep("comparison_faces", "comparison", "domain=faces", "domain.references=50", "samples=50", tiny=COMPARISON),
    ),
    "prior_choice": (
        sweep("prior_choice", "prior_choice", tiny=[*CHOICE, "prior=sample_covariance,slerp"]),
        sweep("prior_choice_replay", "prior_choice", "prior=replay", "tolerances=none", tiny=CHOICE),
    ),
    # Without sweeps here: its README says how its tables are made, and its analysis reads those.
    "solvers": (),
}

# Needs weights that the user trains first: only where it is named.
NAMED_ONLY = ("base_quality",)


# Sweeps are forked from a process that has imported everything: diffusers takes 8 seconds to import.
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["unseen_diffusion.runs.results", "unseen_diffusion.cli"])


def hardware() -> str:
    """Processor and cores."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def commit() -> str:
    """The commit of the checkout, with a + where files differ from it; empty outside git."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"], cwd=HERE, capture_output=True, text=True
    )
    return found.stdout.strip()


def folder(one: Sweep, tiny: bool) -> Path:
    """Where a sweep's runs are."""
    return SWEEPS / f"{'tiny' if tiny else 'study'}_{one.name}"


def unseen(arguments: Sequence[str], where: Path) -> None:
    """The command `unseen`, in a process of its own; what it prints goes to the sweep's studies.log."""
    with (where / "studies.log").open("ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.environ["UNSEEN_RUN_ID"] = where.name
    unseen_main(arguments)


def last_of_each(overrides: Sequence[str]) -> list[str]:
    """The last override of every key: Hydra would combine two sweeps of the same one."""
    return list({override.partition("=")[0]: override for override in overrides}.values())


def run(one: Sweep, tiny: bool) -> bool:
    """Runs a sweep unless it has ended as it is now; True where every point is done."""
    where = folder(one, tiny)
    overrides = last_of_each([*one.overrides, *((*TINY, *one.tiny) if tiny else ())])
    command = ["unseen", "run", "-m", *overrides]
    if (where / ENDED).exists():
        if read_json(where / ENDED)["command"] == " ".join(command):
            return True
        (where / ENDED).unlink()
    print(f"{datetime.now():%H:%M} {' '.join(command)}", flush=True)
    source, begun, started = commit(), datetime.now(UTC), time.monotonic()
    where.mkdir(parents=True, exist_ok=True)
    process = PROCESSES.Process(target=unseen, args=(command[1:], where))
    process.start()
    process.join()
    code = process.exitcode
    if code:
        print(f"{one.name}: exit code {code}; see {where}/studies.log", flush=True)
        return False
    record = {
        "commit": source,
        "command": " ".join(command),
        "hardware": hardware(),
        "begun": begun.isoformat(timespec="seconds"),
        "minutes": round((time.monotonic() - started) / 60, 1),
    }
    write_json(where / ENDED, record)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(STUDIES)}; default: all but {NAMED_ONLY[0]}"
    )
    parser.add_argument("--jobs", type=int, default=2, help="sweeps side by side, one thread each")
    parser.add_argument("--tiny", action="store_true", help="minutes instead of hours; results go to outputs/tiny")
    parser.add_argument("--analyse", action="store_true", help="only rebuild tables and figures from finished sweeps")
    chosen = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive")  # read by the processes of sweeps
    if unknown := [name for name in chosen.names if name not in STUDIES]:
        parser.error(f"{unknown[0]}: no such study; choose of {', '.join(STUDIES)}")
    names = chosen.names or [name for name in STUDIES if name not in NAMED_ONLY]
    sweeps = list(dict.fromkeys(one for name in names for one in STUDIES[name]))
    if not chosen.analyse:
        with ThreadPoolExecutor(chosen.jobs) as pool:
            list(pool.map(lambda one: run(one, chosen.tiny), sweeps))
    failed = [name for name in names if not analyse(name, chosen.tiny)]
    from experiments.scoreboard import write_scoreboard

    write_scoreboard(Path("outputs/tiny") if chosen.tiny else HERE)
    for name in failed:
        print(f"{name}: not analysed, its sweeps have not all ended")
    return int(bool(failed))


def analyse(name: str, tiny: bool) -> bool:
    """Table, figure and verdict of a study from its sweeps' folders; False where one of them has not ended."""
    folders = [folder(one, tiny) for one in STUDIES[name]]
    if not all((path / ENDED).exists() for path in folders):
        return False
    import_module(f"experiments.{name}.analyse").analyse(folders, Path("outputs/tiny") / name if tiny else HERE / name)
    return True


if __name__ == "__main__":
    sys.exit(main())
