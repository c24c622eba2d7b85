"""Data flows one way, and a module imports only what stands before it on that way."""

import ast
import re
from pathlib import Path

import unseen_diffusion
from hydra_plugins import unseen_sweeper

PACKAGE = Path(unseen_diffusion.__file__).parent
# A package's modules share its place; they may import each other.
ORDER = (
    "errors",
    "seeds",
    "precision",
    "batching",
    "optimisation",
    "files",
    "tensors",
    "images",
    "domains",
    "schedules",
    "grids",
    "models",
    "steppers",
    "implicit",
    "solvers",
    "work_precision",
    "priors",
    "geometry",
    "rejection",
    "tuning",
    "methods",
    "pipeline",
    "features",
    "scores",
    "latents",
    "objects",
    "bucket",
    "claims",
    "shards",
    "store",
    "stages",
    "forgetting",
    "scoring",
    "searches",
    "tables",
    "comparison",
    "figures",
    "report",
    "tracking",
    "dashboard",
    "settings",
    "runs",
    "results",
    "workers",
    "training",
    "statuses",
    "sweeps",
    "composition",
    "jobs",
    "launches",
    "cli",
)


def place(module: str) -> str:
    return module.removeprefix("unseen_diffusion.").split(".")[0]


def imported(path: Path) -> set[str]:
    """Places in the order that a file imports from."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("unseen_diffusion"):
            names = (
                [f"{node.module}.{a.name}" for a in node.names] if node.module == "unseen_diffusion" else [node.module]
            )
            found |= {place(name or "") for name in names}
    return found


def test_modules_import_one_way() -> None:
    """conventions: images -> latents -> prior -> samples -> images -> scores -> tables."""
    for path in PACKAGE.rglob("*.py"):
        here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if here == "__init__":
            continue  # the public names, from everywhere
        assert here in ORDER, f"{here}: give it a place in ORDER"
        late = {name for name in imported(path) if ORDER.index(name) > ORDER.index(here)}
        assert not late, f"{path.name} imports {late}, which stand after it"


def test_only_models_and_training_import_diffusers() -> None:
    """One adapter per kind of foreign network: nothing else touches diffusers."""
    for path in PACKAGE.rglob("*.py"):
        here = path.relative_to(PACKAGE).parts[0]
        text = path.read_text(encoding="utf-8")
        assert here in ("models", "training", "pipeline") or "import diffusers" not in text
        assert here in ("models", "training", "pipeline") or "from diffusers" not in text


def test_tensors_are_written_in_one_place() -> None:
    """Whole or not at all, with one error for a full disk."""
    writes = re.compile(r"safetensors\.torch(\.save| import (\w+, )*save)")
    paths = PACKAGE.rglob("*.py")
    assert [path.name for path in paths if writes.search(path.read_text(encoding="utf-8"))] == ["tensors.py"]


def test_no_assertions_outside_tests() -> None:
    """Errors name a value and a remedy, with -O too."""
    for path in (*PACKAGE.rglob("*.py"), Path(unseen_sweeper.__file__)):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        assert not any(isinstance(node, ast.Assert) for node in nodes), path


def test_numerics_never_see_a_config() -> None:
    """Only the entry points, the settings and the training recipes know Hydra."""
    free = {"composition.py", "settings.py", "jobs.py", "cli.py", "loop.py"}
    for path in PACKAGE.rglob("*.py"):
        if path.name in free or path.parent.name == "training":
            continue
        text = path.read_text(encoding="utf-8")
        assert "omegaconf" not in text, path
        assert "import hydra" not in text, path
