"""Data flows one way, and a module imports only what stands before it on that way."""

import ast
import re
from pathlib import Path

import unseen_diffusion
from hydra_plugins import unseen_sweeper

PACKAGE = Path(unseen_diffusion.__file__).parent
# A package's modules share its place; they may import each other.
ORDER = (
    "utils",
    "domains",
    "models",
    "store",
    "solvers",
    "priors",
    "scores",
    "rejection",
    "reports",
    "training",
    "pipeline",
    "runs",
    "sweeps",
    "cli",
)


def place(module: str) -> str:
    return module.removeprefix("unseen_diffusion.").split(".")[0]


def imports_of(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            whole = node.module == "unseen_diffusion"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} if whole else {str(node.module)}
    return found


def imported(path: Path) -> set[str]:
    """Places in the order that a file imports from."""
    return {place(name) for name in imports_of(path) if name.startswith("unseen_diffusion.")}


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
        roots = {name.partition(".")[0] for name in imports_of(path)}
        assert here in ("models", "training", "pipeline") or "diffusers" not in roots, path


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
    """Only the entry points, what builds objects from configs, and the training recipes know Hydra."""
    free = {"utils/configs.py", "runs/settings.py"}
    free |= {
        path.relative_to(PACKAGE).as_posix() for name in ("sweeps", "training") for path in PACKAGE.glob(f"{name}/*")
    }
    for path in PACKAGE.rglob("*.py"):
        roots = {name.partition(".")[0] for name in imports_of(path)}
        assert path.relative_to(PACKAGE).as_posix() in free or not roots & {"hydra", "omegaconf"}, path
