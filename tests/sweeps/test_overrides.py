"""Quoting: any text, and any path that exists, arrives in a run as it was written on the command line."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unseen_diffusion.sweeps.overrides import each_once, escape_values, keys_of, parse, quoted, values_of

ORDINARY = st.characters(min_codepoint=32, max_codepoint=0x2FF)
TEXT = st.text(ORDINARY, max_size=20) | st.text("\\'\"a,={}[]$ ~", max_size=8)


@given(TEXT)
def test_quoted_text_is_read_as_it_is(text: str) -> None:
    """Quotes, backslashes, commas and brackets are ordinary characters between quotes."""
    (override,) = parse([f"domain.path={quoted(text)}"])
    assert override.value() == text
    assert not override.is_sweep_override()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("names")


NAMES = st.text("ab1.,=-_+[]{}()' ~é", min_size=1, max_size=10).map(lambda name: f"d{name}")


@given(name=NAMES)
def test_a_path_that_exists_needs_no_quotes(folder: Path, name: str) -> None:
    """Folders with commas, brackets, quotes and spaces in their names."""
    path = folder / name
    path.mkdir(exist_ok=True)
    (word,) = escape_values([f"domain.path={path}"])
    (override,) = parse([word])
    assert override.value() == os.fspath(path)
    assert keys_of([word]) == ["domain.path"]


@given(st.lists(st.integers(-99, 99), min_size=2, max_size=6, unique=True))
def test_the_values_of_a_sweep_are_its_parts(values: list[int]) -> None:
    (override,) = parse([f"seed={','.join(map(str, values))}"])
    assert values_of(override) == [f"seed={value}" for value in values]


@given(st.lists(st.lists(st.text("ab", max_size=3), min_size=1, max_size=4, unique=True), min_size=1, max_size=4))
def test_every_value_occurs_once_more_than_the_first_ones(swept: list[list[str]]) -> None:
    """One run of all first values, then one run for each other value."""
    runs = each_once(*swept)
    assert runs[0] == [values[0] for values in swept]
    assert len(runs) == 1 + sum(len(values) - 1 for values in swept)
    for at, values in enumerate(swept):
        assert {run[at] for run in runs} == set(values)
    assert all(sum(a != b for a, b in zip(run, runs[0], strict=True)) == 1 for run in runs[1:])
