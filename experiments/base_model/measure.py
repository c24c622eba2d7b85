"""Trains the candidates of the study `base_model`, one after the other, with `unseen train`.

python -m experiments.base_model.measure FOLDER [NAME ...]

FOLDER has cifar10-*-train.parquet and cifar10-*-test.parquet. A finished training is not run again, and an interrupted
one continues.
"""

import argparse
import subprocess
import sys
from pathlib import Path

TRAININGS = Path("outputs/training/base_model")
START = Path("experiments/base_model/weights")  # 7000 steps
TEST = "cifar10-*-test.parquet"
TRAIN = "cifar10-*-train.parquet"
SHORT = (
    "training.loop.steps=1000",
    "training.loop.batch_size=32",
    "training.loop.warmup_steps=100",
    "training.loop.ema_decay=0.99",
    "training.loop.ema_others=[0.0,0.999]",
    "training.loop.bf16=false",
    "training.quality_samples=200",
)


def network(factor: int, channels: list[int], attention: list[int], layers: int, head: int, groups: int) -> list[str]:
    """Overrides of a candidate's network."""
    values = {
        "pixel_unshuffle": factor,
        "block_out_channels": channels,
        "attention": [bool(level) for level in attention],
        "layers_per_block": layers,
        "attention_head_dim": head,
        "norm_num_groups": groups,
    }
    return [f"training.network.{key}={str(value).replace(' ', '').lower()}" for key, value in values.items()]


# Networks of the same inference time on one CPU core, as near as whole channels allow.
CANDIDATES = {
    "photos32": [],
    "deep": network(2, [48, 64, 128], [0, 1, 1], 2, 32, 16),
    "all_pixels": network(1, [16, 32, 96, 128], [0, 0, 1, 1], 1, 32, 8),
    "two_levels": network(2, [56, 112], [0, 1], 1, 28, 8),
    "wide_end": network(2, [48, 96, 160], [0, 1, 1], 1, 32, 16),
    "middle_attention": network(2, [64, 96, 152], [0, 0, 0], 1, 8, 8),
    "unshuffle_4": network(4, [144, 176], [1, 1], 1, 16, 16),
}
OTHERS = {
    "photos32_seed_1": ["training.loop.seed=1"],
    "no_flips": ["training.flip=false"],
    "min_snr": ["training.min_snr=5"],
}
LONGER = [
    f"training.start={START}",
    "training.loop.steps=3000",
    "training.loop.learning_rate=5e-4",
    "training.loop.warmup_steps=200",
    "training.loop.ema_others=[0.0,0.99,0.9995,0.9998]",
    "training.loop.keep=[1000,2000,3000]",
]
LONGEST = [
    f"training.start={TRAININGS}/longer/weights",
    "training.loop.steps=4500",
    "training.loop.learning_rate=5e-4",
    "training.loop.warmup_steps=200",
    "training.loop.sample_every=4500",
    "training.loop.ema_others=[0.0,0.9998]",
    "training.loop.keep=[4500]",
]
CONTINUED = {"longer": LONGER, "longest": LONGEST}  # each continues where the previous one ended
ALL = {name: [*SHORT, *own] for name, own in (CANDIDATES | OTHERS).items()} | CONTINUED


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"candidates to train, among {', '.join(ALL)}; default: all"
    )
    chosen = parser.parse_args()
    if unknown := [name for name in chosen.names if name not in ALL]:
        parser.error(f"{unknown[0]}: no such training; choose of {', '.join(ALL)}")
    data = [f"training.data.path={chosen.folder / TRAIN}", f"training.data.test_path={chosen.folder / TEST}"]
    for name in chosen.names or ALL:
        if (TRAININGS / name / "weights" / "README.md").exists():
            continue
        where = [f"training.folder={TRAININGS / name}", "tracking=none"]
        command = [Path(sys.executable).with_name("unseen"), "train", "training=photos32", *data, *ALL[name], *where]
        if code := subprocess.run(command, check=False).returncode:
            print(f"{name}: exit code {code}")
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
