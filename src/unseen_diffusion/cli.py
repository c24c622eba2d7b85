"""The command line: a verb, then that verb's own arguments."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from unseen_diffusion.utils.errors import InputError

log = logging.getLogger(__name__)

HELP = """\
unseen: what can a frozen diffusion model generate that it has never seen?

  unseen run [GROUP=OPTION] [KEY=VALUE]...    one run: invert, fit, select, denoise, score
  unseen run -m KEY=A,B,C ...                 a sweep; every combination is a run
  unseen status FOLDER... [--json]            done, running, failed, dead and missing runs of sweeps
  unseen resume FOLDER... [hydra/launcher=X]  runs what is not done, in the same folder
  unseen table OUTPUTS... [--save FILE]       any number of runs as one table (.csv, .md, .tex)
  unseen compare OUTPUTS... [--save FILE]     methods over reference draws and seeds, with tests
  unseen report OUTPUTS... [-o report.html]   one HTML page that needs nothing else
  unseen dashboard [--online]                 a wandb workspace that compares domains
  unseen solvers [GROUP=OPTION]...            accuracy of every solver per evaluation, on your model and domain
  unseen train data=folder data.path=DIR      a base model of your own images; resumes where it was stopped
  unseen train training=OPTION ...            an embedded network again
  unseen convert CHECKPOINT FOLDER ...        an ADM, iDDPM or DDPM checkpoint as a model folder, proven equal
  unseen --help                               this text

  unseen run --cfg job                        prints the whole config
  unseen run -m hydra/launcher=NAME ...       in parallel: joblib, ray, submitit_slurm (docs/clusters.md)
  unseen run -m hydra/launcher=NAME workers=8 each run on 8 of its jobs, which share the work
  UNSEEN_CONF=DIR                             a folder of your own configs, searched first
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; exits with 0, or with 2 after one line about bad input, or with 1 after failed runs."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    verbs: dict[str, Callable[[list[str]], int]] = {
        "run": _run,
        "status": _status,
        "resume": _resume,
        "table": _table,
        "compare": _compare,
        "report": _report,
        "dashboard": _dashboard,
        "solvers": _solvers,
        "train": _train,
        "convert": _convert,
    }
    # Hydra reads flags only before the first override; people write -m anywhere.
    arguments = arguments[:1] + sorted(arguments[1:], key=lambda word: word not in ("-m", "--multirun"))
    try:
        if not arguments or arguments[0] in ("-h", "--help", "help"):
            print(help_text())
            sys.exit(0 if arguments else 2)
        if arguments[0] not in verbs:
            raise InputError(f"{arguments[0]}: no such command; choose {', '.join(verbs)} (unseen --help)")
        sys.exit(verbs[arguments[0]](arguments[1:]))
    except InputError as error:
        print(f"unseen: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # of `unseen ... | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        print("unseen: interrupted; finished stages are kept and will be reused", file=sys.stderr)
        sys.exit(130)


def help_text() -> str:
    """The help, with every key of a run, every config group and option, and the comments of conf/ on them."""
    from unseen_diffusion.sweeps.composition import options, run_keys

    lines = [HELP, "Keys of a run, with their defaults:\n", *_columns(run_keys(), 2), "\nGroups of `unseen run`:"]
    for group, entries in options().items():
        lines += [f"\n  {group}", *_columns(entries, 4)]
    return "\n".join(lines)


def _columns(entries: Sequence[tuple[str, str]], indent: int) -> list[str]:
    """A line each, the comments below one another, but for very long names."""
    width = min(30, max(len(name) for name, _ in entries))
    return [f"{'':{indent}}{name:<{width}}  {line}".rstrip() for name, line in entries]


def _run(arguments: list[str]) -> int:
    """One run or a sweep; --help, --cfg and their like only print."""
    from unseen_diffusion.sweeps.composition import as_meant, hydra_task, is_information
    from unseen_diffusion.sweeps.jobs import run_job
    from unseen_diffusion.sweeps.launch import call_hydra, start

    arguments = as_meant(arguments)
    if is_information(arguments):
        return call_hydra(hydra_task("run", run_job), arguments)
    return start(arguments)


def _status(arguments: list[str]) -> int:
    """How far runs and sweeps are."""
    from unseen_diffusion.sweeps.manifest import status_command

    parser = argparse.ArgumentParser(
        prog="unseen status", description="How far runs and sweeps are; exit code 0 only if all runs are done."
    )
    parser.add_argument("paths", nargs="+", help="folders of runs or sweeps, or one that holds several")
    parser.add_argument("--json", action="store_true", help="for programs")
    chosen = parser.parse_args(arguments)
    return status_command(chosen.paths, chosen.json)


def _resume(arguments: list[str]) -> int:
    """Runs what is not done."""
    from unseen_diffusion.sweeps.launch import resume_command

    return resume_command(arguments)


def _train(overrides: list[str]) -> int:
    """Trains one network, in this process and in those that ``accelerate launch`` started beside it."""
    from unseen_diffusion.sweeps.composition import as_meant, expand, hydra_task, is_information
    from unseen_diffusion.sweeps.jobs import train_job
    from unseen_diffusion.sweeps.launch import call_hydra, run_id

    overrides = as_meant(overrides)
    task = hydra_task("train", train_job)
    if is_information(overrides):
        return call_hydra(task, overrides)
    from unseen_diffusion.training.tasks import check_training

    with run_id():
        for point in expand("train", overrides).points:
            check_training(point)
        if int(os.environ.get("RANK", "0")) > 0:  # the first process alone keeps Hydra's folder and log
            overrides = [*overrides, "hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none"]
        return call_hydra(task, overrides)


def _table(arguments: list[str]) -> int:
    """Prints, and on request saves, the table of any number of runs."""
    from unseen_diffusion.reports.tables import load_results, print_table, write_table

    parser = argparse.ArgumentParser(prog="unseen table", description="Any number of runs as one table.")
    parser.add_argument("paths", nargs="+", help="results.json files, or folders of runs")
    parser.add_argument("--save", action="append", default=[], type=Path, help="also write a .csv, .md or .tex file")
    chosen = parser.parse_args(arguments)
    table = load_results(chosen.paths)
    print_table(table, f"{table['run'].nunique()} runs")
    for path in chosen.save:
        write_table(table, path)
        print(f"wrote {path}")
    return 0


def _compare(arguments: list[str]) -> int:
    """Prints, and on request saves, methods compared over draws and seeds."""
    from unseen_diffusion.reports.comparison import show_comparison
    from unseen_diffusion.reports.figures import comparison_figure
    from unseen_diffusion.reports.tables import load_results

    parser = argparse.ArgumentParser(prog="unseen compare", description="Methods over reference draws and seeds.")
    parser.add_argument("paths", nargs="+", help="results.json files, or folders of runs")
    parser.add_argument("--against", default="fitted", metavar="METHOD", help="the method to pair the others with")
    parser.add_argument("--save", action="append", default=[], type=Path, help="also write a .csv, .md or .tex file")
    parser.add_argument("--figure", type=Path, help="also draw the scores with their intervals: .png, .svg or .pdf")
    chosen = parser.parse_args(arguments)
    table = load_results(chosen.paths)
    known = sorted(set(table["method"].dropna()))
    if chosen.against not in (*known, "fitted"):
        raise InputError(f"--against {chosen.against}: no such method in these runs; choose one of {', '.join(known)}")
    frame = show_comparison(table, f"{table['run'].nunique()} runs", chosen.save, chosen.against)
    if chosen.figure:
        comparison_figure(frame, chosen.figure)
    for path in [*chosen.save, *([chosen.figure] if chosen.figure else [])]:
        print(f"wrote {path}")
    return 0


def _dashboard(arguments: list[str]) -> int:
    """A wandb workspace that compares domains, saved online or as JSON."""
    from unseen_diffusion.reports.dashboard import dashboard_command

    return dashboard_command(arguments)


def _solvers(overrides: list[str]) -> int:
    """Prints and draws the work-precision of every solver for the model and domain of a run's settings."""
    from unseen_diffusion.runs.settings import check
    from unseen_diffusion.sweeps.composition import as_meant, expand
    from unseen_diffusion.sweeps.jobs import compare_solvers
    from unseen_diffusion.sweeps.launch import run_id

    with run_id():
        sweep = expand("run", as_meant(overrides))
        if sweep.multirun:
            raise InputError("unseen solvers: one model and one domain at a time; leave out -m and sweeps")
        compare_solvers(check(sweep.points[0]), sweep.folder)
    return 0


def _convert(arguments: list[str]) -> int:
    """Converts a checkpoint of another code base to a diffusers folder."""
    from unseen_diffusion.models.conversion.command import convert_command

    return convert_command(arguments)


def _report(arguments: list[str]) -> int:
    """Writes any number of runs as one HTML file."""
    from unseen_diffusion.reports.html import report_command

    return report_command(arguments)


if __name__ == "__main__":
    main()
