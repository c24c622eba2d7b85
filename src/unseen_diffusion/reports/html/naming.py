"""Names for the runs of one report: the settings that distinguish each from the others."""

import json
from collections.abc import Sequence
from typing import Any

from unseen_diffusion.reports.html.load import Run
from unseen_diffusion.reports.rows import REPLICATE_KEYS, REPLICATES, SETTINGS, run_name, setting_text

IN_HEADINGS = ("domain", *REPLICATES)  # settings that headings name, so that a run's name need not


class Names:
    """Names for the runs of one report.

    Attributes:
        varying: settings with more than one value in the report.
        telling: those of ``varying`` that do not follow from the method.
        common: settings with one value, as text.
        extra: configuration keys that distinguish runs of equal settings.
    """

    def __init__(self, runs: Sequence[Run]):
        self.varying = [key for key in SETTINGS if len({setting_text(run.settings.get(key)) for run in runs}) > 1]
        self.telling = [
            key for key in self.varying if key not in ("prior", "tolerances") or _varies_within_a_method(runs, key)
        ]
        self.common = {
            key: setting_text(runs[0].settings.get(key))
            for key in SETTINGS
            if key not in self.varying and key != "domain"
        }
        self.extra = _keys_that_differ(runs)

    @property
    def columns(self) -> list[str]:
        """Settings that get a table column beside the method."""
        return [key for key in self.telling if key != "method"] + self.extra

    def value(self, run: Run, key: str) -> Any:
        """A setting or configuration key of a run."""
        return run.settings.get(key) if key in SETTINGS else run.flat.get(key)

    def of(self, run: Run, without: Sequence[str] = ()) -> str:
        """A run's name; leaves out the settings in ``without``."""
        keys = [key for key in (*self.telling, *self.extra) if key not in (*IN_HEADINGS, *without)]
        if keys:
            return run_name({key: self.value(run, key) for key in keys}, keys)
        return run_name({key: value for key, value in run.settings.items() if key not in without})


def _varies_within_a_method(runs: Sequence[Run], key: str) -> bool:
    """Whether runs of one method differ in a setting."""
    values: dict[str, set[str]] = {}
    for run in runs:
        values.setdefault(run.method, set()).add(setting_text(run.settings.get(key)))
    return any(len(one) > 1 for one in values.values())


def _keys_that_differ(runs: Sequence[Run]) -> list[str]:
    """Configuration keys that differ between runs whose settings differ by draw and seed at most."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        same = [setting_text(run.settings.get(key)) for key in SETTINGS if key not in REPLICATES]
        groups.setdefault(json.dumps(same), []).append(run)
    differing: list[str] = []
    for group in groups.values():
        keys = dict.fromkeys(key for run in group for key in run.flat if key not in REPLICATE_KEYS)
        differing += [
            key for key in keys if key not in differing and len({setting_text(run.flat.get(key)) for run in group}) > 1
        ]
    return differing
