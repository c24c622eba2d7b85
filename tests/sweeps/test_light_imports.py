"""`unseen status` answers at once: it loads neither torch nor pandas."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from unseen_diffusion.sweeps.manifest import MANIFEST, Manifest, Point
from unseen_diffusion.utils.files import write_json

SCRIPT = """
import json, sys
from unseen_diffusion.sweeps import manifest, states, status
code = states.status_command(["swept"], as_json=False)
heavy = {"torch", "pandas", "diffusers", "numpy", "hydra"}
print(json.dumps({"code": code, "loaded": sorted(heavy & set(sys.modules))}))
"""


def test_status_loads_nothing_heavy(here: Path) -> None:
    """The command function included, on a sweep that has not started."""
    point = Point(["seed=0"], {"seed": 0})
    write_json(Path("swept") / MANIFEST, asdict(Manifest([], ".", None, True, [point], 0, "now")))
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "1 missing of 1" in done.stdout
    assert json.loads(done.stdout.splitlines()[-1]) == {"code": 1, "loaded": []}
