"""wandb, offline unless asked otherwise, or nothing."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pandas as pd

from unseen_diffusion.errors import InputError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunRecord:
    """What a tracker gets of a finished run.

    Attributes:
        group: the sweep's name, or the run's own.
        name: of the run.
        domain: tag, and flat config entry, so that a dashboard can group by it.
        config: the resolved configuration.
        scores: flat numbers.
        table: the rows of the results.
        pictures: PNG files by name.
    """

    group: str
    name: str
    domain: str
    config: Mapping[str, Any]
    scores: Mapping[str, float]
    table: pd.DataFrame
    pictures: Mapping[str, Path]


@runtime_checkable
class Tracker(Protocol):
    """What a config of the ``tracking`` group builds."""

    def record(self, run: RunRecord) -> None:
        """Logs one finished run."""
        ...


@dataclass(frozen=True)
class NoTracker:
    """Logs nowhere; results still land as Parquet, JSON and PNG."""

    def record(self, run: RunRecord) -> None:
        log.debug("tracking=none: %s is in its folder only", run.name)


@dataclass(frozen=True)
class WandbTracker:
    """Weights & Biases.

    Attributes:
        project: wandb project.
        mode: ``offline`` (files below ``folder``; no account, prompt or network) or ``online``.
        folder: where wandb keeps its files.
        entity: wandb team; None for the account's own.
    """

    project: str
    mode: str
    folder: str
    entity: str | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("offline", "online"):
            raise InputError(f"tracking.mode={self.mode}: choose offline or online, or tracking=none")

    def record(self, run: RunRecord) -> None:
        import wandb

        Path(self.folder).mkdir(parents=True, exist_ok=True)
        # A console of wandb's own would tear the progress bars.
        settings = wandb.Settings(console="off", x_disable_stats=True, x_disable_meta=True, silent=True)
        session = wandb.init(
            project=self.project,
            entity=self.entity,
            dir=self.folder,
            mode="online" if self.mode == "online" else "offline",
            group=run.group,
            name=run.name,
            job_type="run",
            tags=[run.domain],
            config={**run.config},
            settings=settings,
        )
        with session:
            session.log({name: wandb.Image(str(path)) for name, path in run.pictures.items()})
            session.log({"results": wandb.Table(dataframe=run.table)})
            session.summary.update(dict(run.scores))
