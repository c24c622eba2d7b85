"""What became of one malformed input: refused in one line, accepted, or a traceback."""

import io
import logging
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

from unseen_diffusion.utils.errors import InputError


class Accepted(BaseException):
    """Raised in place of the work that would follow the checks."""


@dataclass(frozen=True)
class Outcome:
    """How a call ended.

    Attributes:
        kind: ``refused``, ``accepted``, ``failed`` (exit code 1) or ``traceback``.
        text: the line that it was refused with, or the stack.
        warnings: lines that the package logged.
    """

    kind: str
    text: str
    warnings: tuple[str, ...] = ()

    def names(self, words: Sequence[str]) -> bool:
        """Whether the refusal is one line that has one of the words."""
        return "\n" not in self.text and any(word in self.text for word in words)


class Warnings(logging.Handler):
    """Keeps the package's warnings during a block."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def __enter__(self) -> "Warnings":
        logging.getLogger("unseen_diffusion").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("unseen_diffusion").removeHandler(self)


def outcome(call: Callable[[], Any]) -> Outcome:
    """Calls, and says how it ended. ``main`` exits with 2 where it refuses."""
    said, out = io.StringIO(), io.StringIO()
    with Warnings() as log:
        kind, text = "accepted", ""
        try:
            with redirect_stderr(said), redirect_stdout(out):
                call()
        except InputError as error:
            kind, text = "refused", str(error)
        except Accepted:
            pass
        except SystemExit as end:
            kind = {0: "accepted", None: "accepted", 2: "refused"}.get(end.code, "failed")
            text = said.getvalue().strip()
        except BaseException:
            kind, text = "traceback", traceback.format_exc()
    return Outcome(kind, text, tuple(log.lines))
