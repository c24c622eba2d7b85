"""The solvers by name: one file each, whose name is the method's name in configs. No list to edit."""

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from unseen_diffusion.solvers.base import Solver
from unseen_diffusion.utils.errors import InputError, first_line


def solvers() -> dict[str, type[Solver]]:
    """All solvers of this package by name, the lowest order and the cheapest first."""
    classes = {file.name: _solver_in(import_module(f"{__name__}.{file.name}")) for file in iter_modules(__path__)}
    return dict(sorted(classes.items(), key=lambda one: (one[1].order, one[1].nfe, one[1].extra_nfe, one[0])))


def find_solver(name: str) -> type[Solver]:
    """The class of a solver, by its name here or by the import path of your own class (``my_module.MySolver``).

    Raises:
        InputError: there is no such solver.
    """
    if "." in name:
        return _imported(name)
    if name not in {file.name for file in iter_modules(__path__)}:
        raise InputError(
            f"solver.name={name}: choose one of {', '.join(solvers())}, or give the import path of your own class"
        )
    return _solver_in(import_module(f"{__name__}.{name}"))


def _imported(path: str) -> type[Solver]:
    """The solver class at an import path."""
    module, _, name = path.rpartition(".")
    try:
        solver = getattr(import_module(module), name)
    except Exception as error:  # also whatever the module itself raises
        reason = first_line(error)
        raise InputError(f"solver.name={path}: cannot be imported ({reason}); check the path and PYTHONPATH") from error
    if not (isinstance(solver, type) and issubclass(solver, Solver)):
        raise InputError(f"solver.name={path}: give a subclass of unseen_diffusion.solvers.Solver")
    return solver


def _solver_in(module: ModuleType) -> type[Solver]:
    """The one solver that a file defines."""
    classes = [
        one
        for one in vars(module).values()
        if isinstance(one, type) and issubclass(one, Solver) and one.__module__ == module.__name__
    ]
    if len(classes) != 1:
        raise InputError(f"{module.__file__}: has {len(classes)} subclasses of Solver; define one")
    return classes[0]
