"""The state of a sweep and of each of its jobs, and ``unseen status``."""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from unseen_diffusion.sweeps.manifest import Manifest, read_manifest, sweep_folders
from unseen_diffusion.sweeps.status import STATES, STATUS, Status, read_status, state_of
from unseen_diffusion.utils.errors import InputError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobState:
    """A job of a sweep.

    Attributes:
        name: its folder, relative to the sweep's.
        state: one of ``STATES``.
        status: the content of its status.json, if any.
        run: name of the job that writes its results.
    """

    name: str
    state: str
    status: Status | None
    run: str

    @property
    def is_helper(self) -> bool:
        """Whether worker 0 of the same run writes the results."""
        return self.run != self.name


@dataclass(frozen=True)
class SweepState:
    """The state of a sweep and of all its jobs."""

    folder: Path
    manifest: Manifest
    jobs: list[JobState]

    @classmethod
    def of(cls, folder: Path) -> "SweepState":
        """Reads the current state from a sweep's folder."""
        manifest = read_manifest(folder)
        statuses = [(name, read_status(folder / name), run) for name, run in manifest.runs().items()]
        return cls(folder, manifest, [JobState(name, state_of(status), status, run) for name, status, run in statuses])

    def running(self) -> list[Status]:
        """The statuses of the jobs that are running."""
        return [job.status for job in self.jobs if job.status and job.state == "running"]

    def runs(self) -> list[JobState]:
        """The jobs that write results."""
        return [job for job in self.jobs if not job.is_helper]

    def pending(self, *states: str) -> list[str]:
        """Names of the jobs to start: not done nor running (or in ``states``), without helpers of finished runs."""
        states = states or tuple(state for state in STATES if state not in ("done", "running"))
        done = {job.name for job in self.runs() if job.state == "done"}
        return [job.name for job in self.jobs if job.state in states and job.run not in done]

    def tally(self) -> dict[str, int]:
        """The number of jobs in each state."""
        return {state: sum(job.state == state for job in self.jobs) for state in STATES}

    def counts(self) -> str:
        """The number of jobs in each state as text, such as "3 done, 1 failed of 4"."""
        runs = len(self.runs())
        split = f" workers of {runs} run{'s' * (runs > 1)}" if runs < len(self.jobs) else ""
        return ", ".join(f"{n} {state}" for state, n in self.tally().items() if n) + f" of {len(self.jobs)}{split}"

    def complete(self) -> bool:
        """Whether every run is done; its helpers do not count."""
        return all(job.state == "done" for job in self.runs())

    def plain(self) -> dict[str, Any]:
        """The state as JSON values."""
        jobs = [
            {
                "job": job.name,
                "run": job.run,
                "state": job.state,
                "overrides": overrides,
                "status": asdict(job.status) if job.status else None,
            }
            for job, overrides in zip(self.jobs, self.varied(), strict=True)
        ]
        return {"folder": str(self.folder), "command": self.manifest.command, "counts": self.tally(), "jobs": jobs}

    def varied(self) -> list[list[str]]:
        """For each job, the overrides that not all jobs share; empty for a search, whose points are unknown."""
        if self.manifest.trials:
            return [[] for _ in self.jobs]
        every = [point.overrides for point in self.manifest.points]
        common = set.intersection(*map(set, every)) if len(every) > 1 else set()
        return [[override for override in overrides if override not in common] for overrides in every]


def print_states(sweep: SweepState, console: Console | None = None) -> None:
    """Prints one line per job: state, time, its own overrides, and its last log line or its error."""
    console = console or Console()
    view = Table(
        title=escape(f"{os.path.relpath(sweep.folder)}: {sweep.counts()}"),
        title_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
    )
    for name, justify in (("job", "right"), ("state", "left"), ("time", "right")):
        view.add_column(name, justify="right" if justify == "right" else "left", no_wrap=True)
    view.add_column("run", no_wrap=True, overflow="ellipsis", ratio=1)
    view.add_column("last", no_wrap=True, overflow="ellipsis", ratio=1)
    for job, varied in zip(sweep.jobs, sweep.varied(), strict=True):
        status = job.status
        last = (status.error or status.activity).partition("\n")[0] if status else ""
        shown = ("" if job.name == "." else job.name, job.state, _duration(status.seconds if status else None))
        view.add_row(*map(escape, (*shown, " ".join(varied), last)))
    console.print(view)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def read_sweeps(paths: Sequence[str]) -> tuple[list[SweepState], bool]:
    """The state of every sweep, and whether all could be read; a damaged one is skipped with a warning.

    Raises:
        InputError: no sweep there, or every manifest is damaged.
    """
    sweeps: list[SweepState] = []
    refused: list[InputError] = []
    for folder in sweep_folders(paths):
        try:
            sweeps.append(SweepState.of(folder))
        except InputError as error:
            refused.append(error)
    if not sweeps:
        raise refused[0]
    for one in refused:
        log.warning("skipped: %s", one)
    for sweep in sweeps:
        for job in sweep.jobs:
            if job.status is None and (file := sweep.folder / job.name / STATUS).exists():
                log.warning("%s: damaged; its run counts as missing", file)
    return sweeps, not refused


def status_command(paths: Sequence[str], as_json: bool) -> int:
    """Prints the state of sweeps; returns 0 if every run is done, else 1."""
    sweeps, are_all = read_sweeps(paths)
    complete = are_all and all(sweep.complete() for sweep in sweeps)
    if as_json:
        print(json.dumps([sweep.plain() for sweep in sweeps], indent=2))
        return int(not complete)
    for sweep in sweeps:
        print_states(sweep)
        if sweep.pending() and not sweep.manifest.trials:
            print(f"to run what is not done: unseen resume {os.path.relpath(sweep.folder)}")
    return int(not complete)
