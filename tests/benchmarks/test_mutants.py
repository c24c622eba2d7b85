"""The mutation tool changes what it says, and chooses the tests that reach the line."""

import ast
from collections import Counter

import pytest

from benchmarks.mutants.operators import python_changes, yaml_changes
from benchmarks.mutants.run import Trace
from benchmarks.mutants.table import Mutation

CHANGED = {
    "if a < b: pass": {"if a <= b: pass", "if (not (a < b)): pass"},
    "x = a + b": {"x = a - b"},
    "x = a and not b": {"x = a or not b", "x = a and b"},
    "x = a is not b": {"x = a is b"},
    "x = f(1, key=c)": {"x = f(2, key=c)", "x = f(1)"},
    "x = {'one': a, 'two': b}": {"x = {'two': b}", "x = {'one': a}"},
    "x = 0.5": {"x = 0.55"},
    "x = True": {"x = False"},
    "x = f('seed')": {"x = f('seedx')"},
    "f(a)": {"pass"},
    "x += a": {"pass"},
    "raise InputError(f'{a + 1} of 2')": set(),
    "x: Literal[1, 2]": set(),
    "log.info('%d', 3)": set(),
    "'''A text of 3 words.'''": set(),
    "x = f(a, strict=True)": set(),
}


@pytest.mark.parametrize("source", CHANGED)
def test_every_change_of_a_line(source: str) -> None:
    changes = list(python_changes(source))
    assert {new for _, _, new, _ in changes} == CHANGED[source]
    assert all(ast.dump(ast.parse(new)) != ast.dump(ast.parse(source)) for _, _, new, _ in changes)


def test_changes_of_a_configuration() -> None:
    text = "_target_: a.B\nsteps: 16 # evaluations\nscale: 0.5\nflip: false\ncap: null\nkind: mean\nlist: [1, 2]\n"
    assert [new for _, _, new, _ in yaml_changes(text)] == [
        "steps: 17 # evaluations",
        "scale: 0.55",
        "flip: true",
        "cap: 1",
        "kind: meanx",
    ]


def test_a_mutation_changes_its_own_occurrence() -> None:
    text = "def f():\n    return 1\n\ndef g():\n    return 1\n"
    mutation = Mutation("src/unseen_diffusion/a/b.py", "constant", "return 1", "return 2", occurrence=1)
    assert mutation.apply(text) == "def f():\n    return 1\n\ndef g():\n    return 2\n"
    assert (mutation.package, mutation.line(text), mutation.line("")) == ("a", 5, 0)


def test_the_most_specific_tests_come_first_and_import_lines_use_the_file() -> None:
    file = "src/unseen_diffusion/a/b.py"
    trace = Trace(
        seconds={"tests/x.py::wide": 1.0, "tests/x.py::narrow": 1.0, "tests/a/y.py::other": 1.0},
        reached={file: {2: {"tests/x.py::wide", "tests/x.py::narrow"}, 3: {"tests/x.py::wide"}}},
        breadth=Counter({"tests/x.py::wide": 100, "tests/x.py::narrow": 3}),
    )
    mutation = Mutation(file, "constant", "x = 1", "x = 2", 0)
    everything = ["tests/x.py::narrow", "tests/x.py::wide", "tests/a/y.py::other"]
    assert trace.tests(mutation, 2) == everything
    assert trace.tests(mutation, 1) == everything  # runs at import: no test of its own
    assert trace.tests(mutation, 3) == ["tests/x.py::wide", "tests/a/y.py::other"]
