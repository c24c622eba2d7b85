"""What to call a run: the settings that tell it from the others in the same report."""

import json
from collections.abc import Sequence
from typing import Any

from unseen_diffusion.reports.html.load import REPLICATES, Run

SETTINGS = (
    "domain",
    "method",
    "prior",
    "tolerances",
    "t",
    "eta",
    "model",
    "solver",
    "features",
    "target",
    "draw",
    "seed",
)
NAMED = ("domain", "draw", "seed")  # said by headings, not in a setting's name
PLAIN = ("method", "prior", "tolerances", "model", "solver")  # values that need no key before them
DEFAULT = ("method", "prior", "t", "eta")  # names a run when no setting varies


def is_missing(value: object) -> bool:
    """None or NaN."""
    return value is None or value != value


def say(value: object) -> str:
    """A setting's value as people write it."""
    if is_missing(value):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


class Names:
    """Names for the runs of one report.

    Attributes:
        varying: keys of ``settings`` with more than one value here.
        telling: those of them that a method does not decide by itself.
        common: settings with one value, as text.
        extra: configuration keys that tell runs of equal settings apart.
    """

    def __init__(self, runs: Sequence[Run]):
        self.varying = [key for key in SETTINGS if len({say(run.settings.get(key)) for run in runs}) > 1]
        self.telling = [key for key in self.varying if key not in ("prior", "tolerances") or _free(runs, key)]
        self.common = {
            key: say(runs[0].settings.get(key)) for key in SETTINGS if key not in self.varying and key != "domain"
        }
        self.extra = _telling(runs)

    @property
    def columns(self) -> list[str]:
        """Settings worth a table column beside the method."""
        return [key for key in self.telling if key != "method"] + self.extra

    def value(self, run: Run, key: str) -> Any:
        """A setting or configuration key of a run."""
        return run.settings.get(key) if key in SETTINGS else run.flat.get(key)

    def of(self, run: Run, without: Sequence[str] = ()) -> str:
        """The setting in words; keys in ``without`` left out."""
        keys = [key for key in (*self.telling, *self.extra) if key not in (*NAMED, *without)]
        if not keys:
            keys = [key for key in DEFAULT if key not in without]
        words = [(key, say(self.value(run, key))) for key in keys]
        return ", ".join(word if key in PLAIN else f"{key} {word}" for key, word in words if word)


def _free(runs: Sequence[Run], key: str) -> bool:
    """True if a setting takes several values within one method."""
    values: dict[str, set[str]] = {}
    for run in runs:
        values.setdefault(run.method, set()).add(say(run.settings.get(key)))
    return any(len(found) > 1 for found in values.values())


def _telling(runs: Sequence[Run]) -> list[str]:
    """Configuration keys that differ between runs whose settings differ by draw and seed at most."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        same = [say(run.settings.get(key)) for key in SETTINGS if key not in ("draw", "seed")]
        groups.setdefault(json.dumps(same), []).append(run)
    found: list[str] = []
    for group in groups.values():
        keys = dict.fromkeys(key for run in group for key in run.flat if key not in REPLICATES)
        found += [k for k in keys if len({say(run.flat.get(k)) for run in group}) > 1 and k not in found]
    return found
