"""Functions and constants that several test files use; fixtures are in conftest.py."""

from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
TinyModelFolder = Callable[..., Path]
