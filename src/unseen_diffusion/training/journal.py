"""Journal: reports the values and sheets of a running training to wandb, if tracking is on."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from unseen_diffusion.reports.tracking import RunRecord, Tracker, WandbTracker, data_below, measured

log = logging.getLogger(__name__)


class Journal:
    """Receives the reports of ``train``; after a failure it stays silent, because tracking must not stop a training."""

    def __init__(self, session: Any = None) -> None:
        """A journal that writes to a wandb run, or (None) nowhere."""
        self.session = session

    def write(self, step: int, numbers: Mapping[str, float], pictures: Mapping[str, Path] | None = None) -> None:
        """Reports the finite numbers among ``numbers``, and PNG files by name."""
        if self.session is None:
            return
        try:
            import wandb

            sheets = {name: wandb.Image(str(path), caption=f"step {step}") for name, path in (pictures or {}).items()}
            self.session.log({**measured(numbers), **sheets}, step=step)
        except Exception as error:  # wandb raises a dozen unrelated types
            log.error("wandb stopped recording (%s); the training continues", error)
            self.session = None


@contextmanager
def journal(tracker: Tracker, name: str, config: Mapping[str, Any]) -> Iterator[Journal]:
    """A journal of the training ``name``; its wandb run has the group "training"."""
    if not isinstance(tracker, WandbTracker):
        yield Journal()
        return
    with data_below(Path(tracker.folder)):
        record = RunRecord("training", name, name, config, {}, pd.DataFrame(), {})
        session: Any = None
        try:
            session = tracker.session(record)
        except Exception as error:  # as above
            log.error("wandb does not record this training (%s)", error)
        try:
            yield Journal(session)
        finally:
            _finish(session)


def _finish(session: Any) -> None:
    """Closes a wandb run, if there is one."""
    try:
        if session is not None:
            session.finish()
    except Exception as error:  # as above
        log.error("wandb did not record the end of the training (%s)", error)
