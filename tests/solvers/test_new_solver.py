"""A new solver is one source file, one config and one test: here is one, in a temporary folder."""

import sys
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from support.commands import TINY, run
from support.options import option
from unseen_diffusion.models.analytic import GaussianModel, natural_gaussian
from unseen_diffusion.solvers import methods
from unseen_diffusion.solvers.fixed_point import FixedPoint
from unseen_diffusion.solvers.methods import find_solver, solvers
from unseen_diffusion.solvers.methods.ddim_implicit import ImplicitSettings
from unseen_diffusion.solvers.sampling import invert
from unseen_diffusion.solvers.settings import SolverSettings, make_solver, restore_settings
from unseen_diffusion.solvers.work_precision import Pair, all_pairs
from unseen_diffusion.utils.errors import InputError

SOURCE = '''\
"""The explicit midpoint rule in v = sigma / alpha."""

from unseen_diffusion.solvers.base import Solver, euler_step, is_boundary, predict_at, to_node


class Midpoint(Solver):
    """Second order: two evaluations per step, one at the clean image."""

    order, nfe, extra_nfe = 2, 2, -1

    def __call__(self, model, x, here, there):
        first = predict_at(model, x, here)
        if is_boundary(here, there):
            return to_node(first, there)
        middle = model.schedule.node_at_noise((here.noise_to_signal + there.noise_to_signal) / 2)
        second = predict_at(model, euler_step(x, here, middle, first.eps), middle)
        return euler_step(x, here, there, second.eps)
'''
CONFIG = """\
# The midpoint rule: second order, two evaluations an interval
_target_: unseen_diffusion.solvers.SolverSettings
name: {name}
grid: karras
steps: 31 # NFE per direction
clean_end: full
"""


@pytest.fixture
def midpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a solver whose file lies beside those of the package."""
    (tmp_path / "midpoint.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "unseen_diffusion.solvers.methods.midpoint", raising=False)
    return "midpoint"


def latents(model: GaussianModel, settings: SolverSettings) -> torch.Tensor:
    images = torch.linspace(-0.5, 0.5, 128).reshape(2, 1, 8, 8)
    return invert(model, images, settings.make_grid(model.schedule, 500.0), [500.0], settings)[500.0]


def test_a_file_beside_the_others_is_a_solver(midpoint: str) -> None:
    """Found by name, listed by order and cost, measured by ``unseen solvers``; it spends what it declares."""
    model = natural_gaussian(8, 1, 0.5, 1.0)
    fine = latents(model, SolverSettings(name="rk4", grid="karras", steps=401))
    model.evaluations = 0
    errors = []
    for steps in (21, 41, 81):
        settings = SolverSettings(name=midpoint, grid="karras", steps=steps)
        errors.append(float((latents(model, settings) - fine).abs().max()))
    assert model.evaluations == 2 * (21 + 41 + 81)
    assert all(b < 0.5 * a for a, b in pairwise(errors))
    assert list(solvers()) == ["ddim", "ddim_implicit", "dpmpp_2m", "trapezoid", "heun", "midpoint", "rk4"]
    assert Pair("midpoint", "karras") in all_pairs()
    with pytest.raises(InputError, match=r"solver\.steps=2: give 3 or more to midpoint"):
        SolverSettings(name=midpoint, grid="karras", steps=2)


def test_a_class_of_your_own_runs_from_the_command_line(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file on PYTHONPATH, its config in $UNSEEN_CONF."""
    (here / "mine.py").write_text(SOURCE, encoding="utf-8")
    (here / "conf" / "solver").mkdir(parents=True)
    (here / "conf" / "solver" / "midpoint.yaml").write_text(CONFIG.format(name="mine.Midpoint"), encoding="utf-8")
    monkeypatch.setenv("UNSEEN_CONF", str(here / "conf"))
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    assert run("run", *TINY, "solver=midpoint") == 0
    assert list((here / "outputs").rglob("results.json"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.Solver", r"solver\.name=absent\.Solver: cannot be imported \(No module named 'absent'\)"),
        ("json.Solver", r"solver\.name=json\.Solver: cannot be imported"),
        (".Solver", r"solver\.name=\.Solver: cannot be imported"),
        ("pathlib.Path", r"solver\.name=pathlib\.Path: give a subclass of"),
    ],
)
def test_what_is_no_solver_is_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        SolverSettings(name=name, grid="karras", steps=8)
    assert "\n" not in str(caught.value)


def test_a_file_defines_one_solver(midpoint: str, tmp_path: Path) -> None:
    (tmp_path / "midpoint.py").write_text(SOURCE.replace("(Solver)", ""), encoding="utf-8")
    with pytest.raises(InputError, match=r"midpoint\.py: has 0 subclasses of Solver; define one"):
        make_solver(midpoint)


@pytest.mark.parametrize("name", solvers())
def test_settings_are_restored_from_their_values(name: str) -> None:
    """As a saved unseen domain keeps them: equal, and of the same class."""
    settings = SolverSettings(name=name, grid="log_snr", steps=40)
    assert restore_settings(asdict(settings)) == settings


def test_settings_with_more_fields_are_restored_as_such() -> None:
    settings = option("solver", "ddim_implicit", steps=12, iterations=3, tolerance=0.1)
    restored = restore_settings(asdict(settings))
    assert isinstance(restored, ImplicitSettings)
    assert restored == settings
    with pytest.raises(InputError, match=r"solver\.damping: nothing reads this key"):
        restore_settings(asdict(settings) | {"damping": 0.5})


def test_a_file_imports_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of a saved domain may come from anywhere: a module that they name is not run."""
    (tmp_path / "stranger.py").write_text("raise SystemExit('executed')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match=r"solver\.name=stranger\.Solver: import stranger first"):
        restore_settings({"name": "stranger.Solver", "grid": "karras", "steps": 8, "clean_end": "full"})


def test_implicit_costs_follow_its_fixed_point() -> None:
    assert find_solver("ddim_implicit").nfe == FixedPoint().iterations
