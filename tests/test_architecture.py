"""The order of the packages: a module imports from its own package and from those above it; rules for all files."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import unseen_diffusion
from hydra_plugins import unseen_sweeper
from support import ROOT

PACKAGE = Path(unseen_diffusion.__file__).parent
TESTS = ROOT / "tests"
# Modules of one package may import each other.
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
    """The package of a module, or the module itself where it is in none."""
    return module.removeprefix("unseen_diffusion.").split(".")[0]


def imports_of(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, inside functions too."""
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
    """The packages that a file imports from."""
    return {place(name) for name in imports_of(path) if name.startswith("unseen_diffusion.")}


def test_modules_import_one_way() -> None:
    """conventions: images -> latents -> prior -> samples -> images -> scores -> tables."""
    for path in PACKAGE.rglob("*.py"):
        here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if here == "__init__":
            continue  # imports the public names from every package
        assert here in ORDER, f"{here}: give it a place in ORDER"
        late = {name for name in imported(path) if ORDER.index(name) > ORDER.index(here)}
        assert not late, f"{path.name} imports {late}, which come later in ORDER"


def test_only_models_and_training_import_diffusers() -> None:
    """Everything else sees a diffusers network through an adapter of models/."""
    for path in PACKAGE.rglob("*.py"):
        here = path.relative_to(PACKAGE).parts[0]
        roots = {name.partition(".")[0] for name in imports_of(path)}
        assert here in ("models", "training", "pipeline") or "diffusers" not in roots, path


def calls_of(path: Path) -> Iterator[ast.Call]:
    """All calls in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield node


def test_tensors_are_written_in_one_place() -> None:
    """utils/tensors.py writes a file completely or not at all, and has one error message for a full disk."""
    writers = set()
    for path in PACKAGE.rglob("*.py"):
        names = {"safetensors.torch", "safetensors"}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):  # import safetensors.torch as other
                names |= {one.asname for one in node.names if one.asname and one.name in names}
            if isinstance(node, ast.ImportFrom) and node.module in names:
                names |= {one.asname or one.name for one in node.names if one.name == "torch"}
                writers |= {path.name for one in node.names if one.name in ("save", "save_file", "serialize_file")}
        for call in calls_of(path):
            owner, _, name = ast.unparse(call.func).rpartition(".")
            if owner in names and name in ("save", "save_file", "serialize_file"):
                writers.add(path.name)
    assert writers == {"tensors.py"}


def test_random_numbers_of_tests_and_benchmarks_have_a_seed() -> None:
    """A failure is the same failure the next time; a process that is seeded as a whole says torch.manual_seed."""
    drawing = {
        f"torch.{name}" for name in ("rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial")
    }
    for path in (one for folder in ("tests", "benchmarks", "experiments") for one in (ROOT / folder).rglob("*.py")):
        for function in units(path):
            calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
            seeded = any(ast.unparse(call.func) == "torch.manual_seed" for call in calls)
            for call in calls:
                text, where = ast.unparse(call.func), f"{path.relative_to(ROOT)}:{call.lineno}"
                if text in drawing:
                    assert seeded or "generator" in {word.arg for word in call.keywords}, f"{where}: give a generator"
                assert not text.endswith(("randn_like", "rand_like")) or seeded, f"{where}: seed torch"
                if text.endswith("default_rng") or text == "random.Random":
                    assert call.args, f"{where}: {text}() has no seed"
                elif re.fullmatch(r"(np\.)?random\.\w+", text):
                    assert text == "np.random.Generator", f"{where}: {text} has no seed"


def units(path: Path) -> Iterator[ast.AST]:
    """The outermost functions and classes' methods of a file, and the statements outside them."""
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        for node in ast.iter_child_nodes(waiting.pop()):
            if isinstance(node, ast.ClassDef):
                waiting.append(node)
            else:
                yield node


def test_assertions_of_tests_can_fail() -> None:
    """No constant, no tuple, no generator (which are true), and no ``or`` with something that is always true."""
    for path in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assert):
                parts = node.test.values if isinstance(node.test, ast.BoolOp) else [node.test]
                always = (ast.Constant, ast.Tuple, ast.GeneratorExp, ast.Lambda, ast.JoinedStr)
                assert not any(isinstance(part, always) for part in parts), f"{path}:{node.lineno}"
                assert not re.search(r"len\(.*\) >= 0$", ast.unparse(node.test)), f"{path}:{node.lineno}"


def test_no_assertions_outside_tests() -> None:
    """The package raises errors that name a value and a remedy; `python -O` would drop an assert."""
    for path in (*PACKAGE.rglob("*.py"), Path(unseen_sweeper.__file__)):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        assert not any(isinstance(node, ast.Assert) for node in nodes), path


def test_numerics_never_see_a_config() -> None:
    """Only entry points, the modules that build objects from configs, and training recipes import Hydra."""
    free = {"utils/configs.py", "runs/settings.py"}
    free |= {
        path.relative_to(PACKAGE).as_posix() for name in ("sweeps", "training") for path in PACKAGE.glob(f"{name}/*")
    }
    for path in PACKAGE.rglob("*.py"):
        roots = {name.partition(".")[0] for name in imports_of(path)}
        assert path.relative_to(PACKAGE).as_posix() in free or not roots & {"hydra", "omegaconf"}, path


STARTS = ("subprocess.run", "subprocess.call", "subprocess.check_call", "subprocess.check_output")
WAITS = ("acquire", "communicate", "join", "result", "wait")  # methods that wait as long as it takes, unless told


def test_every_wait_of_a_test_has_a_deadline() -> None:
    """Of processes, threads, events and futures: what fails elsewhere fails the test that waits for it."""
    for path in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or any(word.arg == "timeout" for word in node.keywords):
                continue
            name = ast.unparse(node.func)
            waits = isinstance(node.func, ast.Attribute) and node.func.attr in WAITS and not node.args
            assert not waits, f"{path}:{node.lineno}: give {name} a timeout"
            assert name not in STARTS, f"{path}:{node.lineno}: give {name} a timeout"


def test_no_test_imports_from_another_test() -> None:
    """Shared fixtures are in conftest.py, shared functions in tests/support."""
    for path in TESTS.rglob("*.py"):
        parts = {part for name in imports_of(path) for part in name.split(".")}
        assert not {part for part in parts if part.startswith("test_") or part in ("tests", "conftest")}, path


def test_the_tests_mirror_the_packages() -> None:
    """Each folder of tests/ is named after the package that it tests."""
    folders = {path.relative_to(TESTS).parts[0] for path in TESTS.glob("*/*.py")}
    assert folders - {"support", "experiments", "benchmarks", "robustness"} <= set(ORDER)
