"""What several test files share beside the fixtures of conftest.py."""

from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
TinyModelFolder = Callable[..., Path]
