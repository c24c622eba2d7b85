"""Memory of an image of 12000 x 12000 pixels, each format in a process of its own; prints the figures."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SIDE = 12_000
LIMIT = 1.2  # GB in all; Python with the package takes 0.3 of them
CODE = r"""
import re, sys
from pathlib import Path
from unseen_diffusion.domains.folder import Folder
Folder(path=sys.argv[1]).pool(256, 3).load([0])
print(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def pixels(kind: str) -> Image.Image:
    ramp = np.arange(SIDE, dtype=np.uint16)
    counts = ramp[:, None] * 3 + ramp
    if kind == "16":
        return Image.fromarray(counts)
    grey = Image.fromarray(counts.astype(np.uint8))
    return grey.convert("P") if kind == "P" else Image.merge(kind, [grey] * len(kind))


FILES = ("RGB a.jpg", "RGB a.png", "RGB a.tif", "RGBA a.png", "P a.png", "16 a.png", "16 a.tif")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [one.split() for one in FILES], ids=FILES)
def test_a_large_image_fits_into_memory(
    kind: str, name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    pixels(kind).save(tmp_path / name, **({"compress_level": 1} if name.endswith("png") else {}))
    done = subprocess.run([sys.executable, "-c", CODE, str(tmp_path)], capture_output=True, text=True, check=True)
    peak = float(done.stdout) * 1024 / 1e9
    record_property("memory", f"{SIDE} x {SIDE} {kind} {Path(name).suffix}: {peak:.2f} GB")
    assert peak < LIMIT
