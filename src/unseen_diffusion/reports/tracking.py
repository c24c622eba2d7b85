"""wandb, offline unless asked otherwise, or nothing."""

import configparser
import logging
import math
import netrc
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

import pandas as pd

from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import check_writable

log = logging.getLogger(__name__)

TABLE = "results"  # the name of the results table in wandb
HIDDEN = "[hidden]"
SECRET = re.compile(r"(^|[_.-])(token|secret|password|passwd|api[_-]?key|access[_-]?key|credentials?)($|[_.-])", re.I)
LOGIN = re.compile(r"(?<=://)[^/@\s]+:[^/@\s]+(?=@)")  # user:password of a URL
CONNECT_SECONDS = 30  # for wandb's server to answer, before a run is recorded offline
UPLOAD_SECONDS = 600  # for the last upload of a run, before it is left to `wandb sync`


@dataclass(frozen=True)
class RunRecord:
    """What a tracker gets of a finished run.

    Attributes:
        group: the sweep's name, or the run's own.
        name: of the run.
        domain: tag, and flat config entry, so that a dashboard can group by it.
        config: the resolved configuration.
        scores: flat numbers; None and NaN mean "not measured" and are left out.
        table: the rows of the results.
        pictures: PNG files by name.
    """

    group: str
    name: str
    domain: str
    config: Mapping[str, Any]
    scores: Mapping[str, float | int | None]
    table: pd.DataFrame
    pictures: Mapping[str, Path]


@runtime_checkable
class Tracker(Protocol):
    """What a config of the ``tracking`` group builds."""

    def check(self) -> None:
        """Refuses, before a run starts, what would fail at its end; writes and contacts nothing.

        Raises:
            InputError: one line naming the value and the remedy.
        """
        ...

    def record(self, run: RunRecord) -> None:
        """Logs one finished run, whose results are on disk already; a failure is one line in the log."""
        ...


@dataclass(frozen=True)
class NoTracker:
    """Logs nowhere; results still land as Parquet, JSON and PNG."""

    def check(self) -> None:
        """Nothing can fail."""

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
        pictures: also the sheets of samples and reconstructions, as copies of their PNG files.
    """

    project: str
    mode: str
    folder: str
    entity: str | None = None
    pictures: bool = True

    def __post_init__(self) -> None:
        if self.mode not in ("offline", "online"):
            raise InputError(f"tracking.mode={self.mode}: choose offline or online, or tracking=none")
        if not isinstance(self.pictures, bool):
            raise InputError(f"tracking.pictures={self.pictures}: choose true or false")
        check_project("tracking.project", self.project)

    def check(self) -> None:
        check_writable("tracking.folder", Path(self.folder))
        if self.mode == "online" and not has_key():
            raise InputError(
                "tracking.mode=online: no wandb key found; run `wandb login`, set WANDB_API_KEY, "
                "or choose tracking.mode=offline"
            )

    def record(self, run: RunRecord) -> None:
        try:
            with data_below(Path(self.folder)), self._session(run) as session:
                session.log(self._logged(run))
        except Exception as error:
            # The run is finished and its results are written: tracking must not turn it into a failure.
            log.error("wandb did not record all of %s (%s); its results are in its folder", run.name, _line(error))

    def _logged(self, run: RunRecord) -> dict[str, Any]:
        """All of a run as one step: numbers in the history are what panels are made of."""
        import wandb

        pictures = run.pictures if self.pictures else {}
        return {
            **measured(run.scores),
            **{name: wandb.Image(str(path), caption=run.name) for name, path in pictures.items()},
            TABLE: wandb.Table(dataframe=run.table.astype(object).where(run.table.notna(), None)),
        }

    def _session(self, run: RunRecord) -> Any:
        """A wandb run; offline where the server cannot be had, to be uploaded later."""
        import wandb

        if self.mode == "online":
            try:
                return self._init(run, "online")
            except wandb.Error as error:
                below = Path(self.folder) / "wandb"
                log.warning(
                    "wandb: %s; recorded offline, upload with: wandb sync %s/offline-run-*", _line(error), below
                )
        return self._init(run, "offline")

    def _init(self, run: RunRecord, mode: str) -> Any:
        import wandb

        settings = wandb.Settings(
            console="off",  # a console of wandb's own would tear the progress bars
            silent=True,
            x_disable_stats=True,
            x_disable_meta=True,
            disable_code=True,
            disable_git=True,
            init_timeout=CONNECT_SECONDS,
            finish_timeout=UPLOAD_SECONDS,
            finish_timeout_raises=True,
        )
        return wandb.init(
            project=self.project,
            entity=self.entity,
            dir=str(Path(self.folder).absolute()),  # wandb's service keeps the directory it was started in
            mode="online" if mode == "online" else "offline",
            group=run.group,
            name=run.name,
            job_type="run",
            tags=[run.domain[:64]],  # wandb's longest tag
            config=without_secrets(run.config, secrets()),
            settings=settings,
        )


def _line(error: BaseException) -> str:
    """An error as one line of bounded length."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def measured(scores: Mapping[str, Any]) -> dict[str, float | int]:
    """The finite numbers among ``scores``: others would draw empty or broken panels."""
    return {
        name: value
        for name, value in scores.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def check_project(key: str, project: str) -> None:
    """Names that wandb would refuse when a run has ended.

    Raises:
        InputError: empty, longer than 128 characters, or with one of ``/\\#?%:``.
    """
    if not project or len(project) > 128 or any(character in project for character in "/\\#?%:"):
        raise InputError(f"{key}={project}: give a name of 1 to 128 characters without / \\ # ? % :")


@contextmanager
def data_below(folder: Path) -> Iterator[None]:
    """Keeps wandb's copies of tables below ``folder`` too, rather than in the home folder.

    ``wandb sync`` reads them there; a home folder that cannot be written to would otherwise fail the run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = os.environ.get("WANDB_DATA_DIR")
    os.environ["WANDB_DATA_DIR"] = before or str(folder.absolute())
    try:
        yield
    finally:
        if before is None:
            del os.environ["WANDB_DATA_DIR"]


def has_key() -> bool:
    """Whether wandb finds a key without asking: the environment, its settings file, or a netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    settings = configparser.ConfigParser(default_section="default", interpolation=None)
    home = Path(os.environ.get("WANDB_CONFIG_DIR", "~/.config/wandb")).expanduser()
    standard = [Path("~/.netrc").expanduser(), Path("~/_netrc").expanduser()]
    files = [Path(os.environ["NETRC"]).expanduser()] if "NETRC" in os.environ else standard
    try:
        settings.read(home / "settings")
        server = os.environ.get("WANDB_BASE_URL") or settings.defaults().get("base_url", "https://api.wandb.ai")
        entries = [netrc.netrc(file).authenticators(urlsplit(server).netloc) for file in files if file.is_file()]
    except (OSError, configparser.Error, netrc.NetrcParseError):
        return False  # wandb could not read it either
    return "api_key" in settings.defaults() or any(entry and entry[2] for entry in entries)


def secrets() -> list[str]:
    """Values of environment variables that are named like secrets, longest first."""
    values = {value for name, value in os.environ.items() if SECRET.search(name) and len(value) >= 8}
    return sorted(values, key=len, reverse=True)


def without_secrets(value: Any, known: Sequence[str] = ()) -> Any:
    """A configuration without tokens: by the name of a key, by ``known`` values, and in URLs.

    Args:
        value: nested mappings, lists and plain values.
        known: texts to hide wherever they occur.
    """
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if inner is not None and SECRET.search(str(key)) else without_secrets(inner, known)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_secrets(inner, known) for inner in value]
    if isinstance(value, str):
        for text in known:
            value = value.replace(text, HIDDEN)
        return LOGIN.sub(HIDDEN, value)
    return value
