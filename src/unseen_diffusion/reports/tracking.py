"""Tracking of finished runs: Weights & Biases (wandb), offline by default, or none."""

import configparser
import logging
import netrc
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable
from urllib.parse import urlsplit

from unseen_diffusion.reports.result import PICTURES, RunResult
from unseen_diffusion.reports.rows import tracking_name
from unseen_diffusion.utils.checked import Text, is_number, settings
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import check_writable

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

TABLE = "results"  # the name of the results table in wandb
HIDDEN = "[hidden]"
SECRET = re.compile(r"(^|[_.-])(token|secret|password|passwd|api[_-]?key|access[_-]?key|credentials?)($|[_.-])", re.I)
LOGIN = re.compile(r"(?<=://)[^/@\s]+:[^/@\s]+(?=@)")  # user:password of a URL
CONNECT_SECONDS = 30  # seconds to wait for wandb's server before a run is recorded offline
UPLOAD_SECONDS = 600  # seconds to wait for a run's last upload; after that, use `wandb sync`


@dataclass(frozen=True)
class RunRecord:
    """A finished run, as trackers log it.

    Attributes:
        group: the sweep's name, or the run's own.
        name: the run's name.
        domain: the run's tag; a dashboard groups by it.
        config: the settings and the resolved configuration.
        scores: numbers by name; None and NaN mean "not measured" and are left out.
        table: the rows of the results.
        pictures: PNG files by name.
    """

    group: str
    name: str
    domain: str
    config: Mapping[str, Any]
    scores: Mapping[str, float | int | None]
    table: "pd.DataFrame"
    pictures: Mapping[str, Path]


def record_of(result: RunResult, table: "pd.DataFrame", group: str) -> RunRecord:
    """Builds the record of a result that trackers log.

    Args:
        result: of the finished run.
        table: its rows.
        group: the sweep's name.
    """
    scores = {f"{row['row']}/{k}": v for row in result.rows for k, v in row.items() if k not in ("row", "images")}
    scores |= {f"geometry/{name}": value["mean"] for name, value in result.geometry.items()}
    for name in ("psnr", "ssim"):
        scores |= {f"{name}/{eta}": value[name] for eta, value in result.reconstruction.items()}
    if result.bandwidth is not None:
        scores |= {f"bandwidth/{end}": result.bandwidth[end] for end in ("low", "high")}
    scores |= {"evaluations": result.evaluations["total"]}
    pictures = {Path(name).stem: result.folder / name for name in PICTURES}
    return RunRecord(
        group=group,
        name=tracking_name(result.settings),
        domain=result.domain,
        config={**result.settings, "config": result.config},
        scores=scores,
        table=table,
        pictures={name: path for name, path in pictures.items() if path.is_file()},
    )


@runtime_checkable
class Tracker(Protocol):
    """The base class of trackers; a config of the ``tracking`` group builds one."""

    def check(self) -> None:
        """Raises an error before a run starts if tracking would fail at its end; writes and contacts nothing.

        Raises:
            InputError: one line with the value and the remedy.
        """
        ...

    def record(self, run: RunRecord) -> None:
        """Logs one finished run, whose results are on disk already; a failure becomes one line in the log."""
        ...


@settings("tracking")
class NoTracker:
    """Tracks nothing; each run's folder still holds its results as JSON, Parquet and PNG files."""

    def check(self) -> None:
        """Does nothing: this tracker cannot fail."""

    def record(self, run: RunRecord) -> None:
        log.debug("tracking=none: the results of %s are only in its folder", run.name)


@settings("tracking")
class WandbTracker:
    """Tracks runs in Weights & Biases."""

    project: Text
    """wandb project"""
    mode: Literal["offline", "online"]
    """offline writes files only, without account, prompt or network; online uploads and needs `wandb login`"""
    folder: Text
    """folder for wandb's files"""
    entity: Text | None
    """wandb team; null takes the account's default"""
    pictures: bool
    """whether to log the sheets of samples and reconstructions, as copies of their PNG files"""

    def __post_init__(self) -> None:
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
            with data_below(Path(self.folder)), self.session(run) as session:
                session.log(self._logged(run))
        except Exception as error:
            # The run is finished and its results are written: tracking must not turn it into a failure.
            log.error(
                "wandb did not record all of %s (%s); the results are complete in its folder", run.name, _line(error)
            )

    def _logged(self, run: RunRecord) -> dict[str, Any]:
        """Everything about a run as one step of its history: wandb draws panels from the history."""
        import wandb

        pictures = run.pictures if self.pictures else {}
        return {
            **measured(run.scores),
            **{name: wandb.Image(str(path), caption=run.name) for name, path in pictures.items()},
            TABLE: wandb.Table(dataframe=run.table.astype(object).where(run.table.notna(), None)),
        }

    def session(self, run: RunRecord) -> Any:
        """Opens a wandb run; without a connection to the server it is recorded offline, for a later upload."""
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
            console="off",  # wandb's own console would break the progress bars
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
    """The finite numbers among ``scores``; other values would give empty or broken panels."""
    return {name: value for name, value in scores.items() if is_number(value)}


def check_project(key: str, project: str) -> None:
    """Raises an error for a project name that wandb would reject at the end of a run.

    Raises:
        InputError: empty, longer than 128 characters, or with one of ``/\\#?%:``.
    """
    if not project or len(project) > 128 or any(character in project for character in "/\\#?%:"):
        raise InputError(f"{key}={project}: give a name of 1 to 128 characters without / \\ # ? % :")


@contextmanager
def data_below(folder: Path) -> Iterator[None]:
    """Lets wandb keep its copies of tables below ``folder`` instead of the home folder.

    ``wandb sync`` reads them there. A home folder without write access would otherwise fail the run.
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
    """Whether wandb finds an API key without a prompt: in the environment, its settings file or a netrc file."""
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
    """Values of environment variables whose names look like secrets, longest first."""
    values = {value for name, value in os.environ.items() if SECRET.search(name) and len(value) >= 8}
    return sorted(values, key=len, reverse=True)


def without_secrets(value: Any, known: Sequence[str] = ()) -> Any:
    """A configuration with its secrets hidden: values of suspicious keys, ``known`` texts, and logins in URLs.

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


def words_without_secrets(words: Sequence[str], known: Sequence[str] = ()) -> list[str]:
    """The same of a command line: also the values of ``key=value`` whose key is suspicious."""
    found = []
    for word in words:
        key, equals, value = word.partition("=")
        found.append(
            f"{key}={HIDDEN}" if equals and value and SECRET.search(key.lstrip("+~")) else without_secrets(word, known)
        )
    return found
