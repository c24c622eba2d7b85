"""Random streams: each belongs to (seed, purpose, index); no two purposes share one, and every one is used."""

import ast
from collections import defaultdict
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

import unseen_diffusion
from unseen_diffusion.utils.seeds import fill_normal, generator, generators, normal_rows

PACKAGE = Path(unseen_diffusion.__file__).parent
POSITION = {"generator": 1, "generators": 1, "normal_rows": 2, "uniforms": 1}  # of the purpose among the arguments
# Purposes that several places draw from, and why that is right.
SHARED = {
    "candidate": "one prior draws the candidates of a run; the row `standard` is what the standard prior draws",
    "base": "a training's samples are the base model's own domain, as in a run",
    "validation": "a training takes its own split or its own held-out images; per-image losses have an index",
}
SEEDS = st.integers(0, 2**62)
INDICES = st.integers(0, 2**40)


def purposes() -> dict[str, set[str]]:
    """Purpose -> the files that draw from its streams; found by parsing the package."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            if called in POSITION and name != "utils/seeds.py":
                purpose = node.args[POSITION[called]]
                if isinstance(purpose, ast.Constant):
                    found[str(purpose.value)].add(name)
                else:  # passed on by a function that is in POSITION itself
                    assert ast.unparse(purpose) == "purpose", f"{name}: write the purpose where the stream is drawn"
    return found


def test_no_two_purposes_share_a_stream() -> None:
    """A purpose is drawn from in one file; the exceptions say why they are the same numbers, or never meet."""
    found = purposes()
    several = {purpose for purpose, files in found.items() if len(files) > 1}
    assert several == set(SHARED), "give a new stream a purpose of its own"
    assert not [purpose for purpose in found if "/" in purpose], "a slash separates the parts of a stream's name"


def test_only_streams_draw_random_numbers() -> None:
    """No module seeds a generator by itself; workers wait and choose a shard at random, which changes no result."""
    allowed = {
        "utils/seeds.py": {"Generator"},
        "store/shards.py": {"randrange", "choice"},
        "store/claims.py": {"uniform"},
    }
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            text = ast.unparse(node.func)
            word = text.rsplit(".", 1)[-1]
            if word in allowed.get(name, ()):
                continue
            assert word not in ("Generator", "default_rng", "RandomState"), f"{name}: {text}; use utils.seeds"
            assert not text.startswith(("random.", "np.random.")), f"{name}: {text}; use utils.seeds"
            if text in ("torch.randn", "torch.rand", "torch.randint", "torch.randperm"):
                assert "generator" in {word.arg for word in node.keywords}, (
                    f"{name}:{node.lineno}: {text} has no stream"
                )
            if text == "torch.manual_seed":
                assert "generator(" in ast.unparse(node.args[0]), f"{name}: {text}; use utils.seeds"


@given(st.lists(st.tuples(SEEDS, st.sampled_from(sorted(purposes())), INDICES), min_size=2, max_size=12, unique=True))
def test_streams_of_different_names_have_different_states(names: list[tuple[int, str, int]]) -> None:
    states = [generator(*name).initial_seed() for name in names]
    assert len(set(states)) == len(names)
    assert [generator(*name).initial_seed() for name in names] == states


@given(SEEDS, st.text("abcd efg", min_size=1, max_size=9), st.lists(INDICES, min_size=1, max_size=6, unique=True))
def test_a_row_depends_on_its_own_stream_alone(seed: int, purpose: str, indices: list[int]) -> None:
    """Whatever rows are drawn with it, in whatever order: batches and workers change nothing."""
    rows = normal_rows((2, 3), seed, purpose, indices)
    for index, row, rng in zip(indices, rows, generators(seed, purpose, indices), strict=True):
        assert torch.equal(row, normal_rows((2, 3), seed, purpose, [index])[0])
        assert torch.equal(row, torch.randn(2, 3, generator=generator(seed, purpose, index)))
        assert rng.initial_seed() == generator(seed, purpose, index).initial_seed()
    assert torch.equal(normal_rows((2, 3), seed, purpose, indices[::-1]).flip(0), rows)
    streams = (generator(seed, purpose, index) for index in indices)
    assert torch.equal(fill_normal(torch.empty(len(indices), 2, 3), streams), rows)
