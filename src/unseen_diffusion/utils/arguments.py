"""Command lines of the verbs that are not Hydra's: bad ones are refused in one line, like all other input."""

import argparse
import math
from collections.abc import Sequence
from typing import Any, NoReturn

from unseen_diffusion.utils.errors import InputError


class Parser(argparse.ArgumentParser):
    """argparse's parser, which raises InputError, and takes no empty value (as of a variable that is not set)."""

    def error(self, message: str) -> NoReturn:
        """Raises InputError with the verb and the reason."""
        raise InputError(f"{self.prog}: {message}; {self.prog} --help lists the arguments")

    def parse_args(self, args: Sequence[str], namespace: Any = None) -> Any:  # type: ignore[override]
        """The arguments.

        Raises:
            InputError: an argument that is unknown, missing, or empty.
        """
        for at, word in enumerate(args):
            if not word.strip() or (word.startswith("--") and word.endswith("=")):
                shown = word or f"'' (argument {at + 1})"
                raise InputError(f"{self.prog}: {shown}: empty, perhaps from a variable that is not set; give a value")
        return super().parse_args(args, namespace)


def positive(text: str) -> float:
    """A finite number above 0, as argparse's ``type``."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: give a number above 0")
    return value
