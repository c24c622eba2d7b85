"""The command line: a verb, then that verb's own arguments. Each verb imports what it needs when it is called."""

import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from unseen_diffusion.sweeps.help_texts import columns, group_help, run_help, train_help
from unseen_diffusion.utils.arguments import Parser
from unseen_diffusion.utils.errors import InputError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verb:
    """One verb of the command line.

    Attributes:
        summary: what it does, in one line.
        usages: command lines that call it, each with a line of explanation.
        call: takes the verb's arguments, returns the exit code.
        help: more text for ``unseen VERB --help``; None where its own parser of arguments prints the help.
    """

    summary: str
    usages: Sequence[tuple[str, str]]
    call: Callable[[list[str]], int]
    help: Callable[[], str] | None = None


MORE = (
    ("unseen --help [GROUP]", "this text; or the keys of a group's options, with meaning and range"),
    ("unseen VERB --help", "the arguments of a verb"),
    ("UNSEEN_CONF=DIR", "environment variable: the folder of your own configs, which is searched first"),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; exits with 0, or with 2 after one line about bad input, or with 1 after failed runs."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Hydra reads flags only before the first override; people write -m anywhere.
    arguments = arguments[:1] + sorted(arguments[1:], key=lambda word: word not in ("-m", "--multirun"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that knows no ± shows a question mark
    try:
        sys.exit(_dispatch(arguments))
    except InputError as error:
        print(f"unseen: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader has closed, as in `unseen ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        print("unseen: interrupted; finished stages are kept and will be reused", file=sys.stderr)
        sys.exit(130)


def _dispatch(arguments: list[str]) -> int:
    """Calls the verb, or prints help; returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(group_help(arguments[1]) if arguments[1:] else help_text())
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in VERBS:
        raise InputError(f"{name}: no such command; choose {', '.join(VERBS)} (unseen --help)")
    verb = VERBS[name]
    if verb.help is not None and {"-h", "--help"} & set(rest):
        print(f"unseen {name}: {verb.summary}\n")
        print("\n".join(columns(verb.usages, 2)) + "\n" + verb.help())
        return 0
    return verb.call(rest)


def help_text() -> str:
    """The help: every verb, every key of a run, every config group and option."""
    usages = [usage for verb in VERBS.values() for usage in verb.usages]
    title = "unseen: what can a frozen diffusion model generate that it has never seen?\n"
    return "\n".join([title, *columns([*usages, *MORE], 2), run_help()])


def _run(arguments: list[str]) -> int:
    """Starts one run or a sweep; with --dry-run, --cfg and similar flags it only prints."""
    from unseen_diffusion.sweeps.composition import hydra_task
    from unseen_diffusion.sweeps.jobs import run_job
    from unseen_diffusion.sweeps.launch import call_hydra, dry_run, start
    from unseen_diffusion.sweeps.overrides import escape_values, is_information

    if "--dry-run" in arguments:
        given = [word for word in arguments if word.startswith("--tflops")]
        rest = [word for word in arguments if word != "--dry-run" and word not in given]
        return dry_run(escape_values(rest), _speed(given))
    arguments = escape_values(arguments)
    if is_information(arguments):
        return call_hydra(hydra_task("run", run_job), arguments)
    return start(arguments)


def _speed(words: Sequence[str]) -> float:
    """The number of ``--tflops=N``; 10 without it.

    Raises:
        InputError: no number above 0.
    """
    number = words[-1].partition("=")[2] if words else "10"
    try:
        speed = float(number)
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise InputError(f"{words[-1]}: give the speed of your device in TFLOP/s, such as --tflops=20")
    return speed


def _status(arguments: list[str]) -> int:
    """Prints the state of runs and sweeps."""
    from unseen_diffusion.sweeps.states import status_command

    parser = Parser(
        prog="unseen status",
        description="Show the state of runs and sweeps. The exit code is 0 only if all runs are done.",
    )
    parser.add_argument("paths", nargs="+", help="folders of runs or sweeps, or a folder that contains several")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables, for programs")
    chosen = parser.parse_args(arguments)
    return status_command(chosen.paths, chosen.json)


def _resume(arguments: list[str]) -> int:
    """Runs the jobs of a sweep that are not done."""
    from unseen_diffusion.sweeps.launch import resume_command

    return resume_command(arguments)


def _train(overrides: list[str]) -> int:
    """Trains one network, in this process and in those that ``accelerate launch`` started beside it."""
    from unseen_diffusion.sweeps.composition import expand, hydra_task
    from unseen_diffusion.sweeps.jobs import train_job
    from unseen_diffusion.sweeps.launch import call_hydra, run_id
    from unseen_diffusion.sweeps.overrides import escape_values, is_information

    overrides = escape_values(overrides)
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
    from unseen_diffusion.reports.signatures import print_signatures
    from unseen_diffusion.reports.tables import load_results, print_table, write_table

    parser = Parser(prog="unseen table", description="Print any number of runs as one table.")
    parser.add_argument("paths", nargs="+", help="results.json files, or folders of runs")
    parser.add_argument("--save", action="append", default=[], type=Path, help="also write a .csv, .md or .tex file")
    parser.add_argument("--published", action="store_true", help="also print the values that the paper published")
    chosen = parser.parse_args(arguments)
    table = load_results(chosen.paths)
    print_table(table, f"{table['run'].nunique()} runs")
    print_signatures(chosen.paths)
    if chosen.published:
        _print_published(chosen.paths)
    for path in chosen.save:
        write_table(table, path)
        print(f"wrote {path}")
    return 0


def _print_published(paths: Sequence[str]) -> None:
    """Prints the published values beside those of the runs."""
    from unseen_diffusion.reports.published import read_published, show_published
    from unseen_diffusion.reports.result import RunResult, read_results

    show_published(read_results(paths, RunResult), read_published())


def _compare(arguments: list[str]) -> int:
    """Prints, and on request saves, methods compared over draws and seeds."""
    from unseen_diffusion.reports.comparison import show_comparison
    from unseen_diffusion.reports.figures import comparison_figure
    from unseen_diffusion.reports.tables import load_results

    parser = Parser(prog="unseen compare", description="Compare methods over reference draws and seeds.")
    parser.add_argument("paths", nargs="+", help="results.json files, or folders of runs")
    parser.add_argument(
        "--against",
        default="fitted",
        metavar="METHOD",
        help="the method that the others are compared with (%(default)s)",
    )
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
    """Makes a wandb workspace that compares domains, online or as JSON."""
    from unseen_diffusion.reports.dashboard import dashboard_command

    return dashboard_command(arguments)


def _solvers(overrides: list[str]) -> int:
    """Prints and draws the work-precision of every solver for the model and domain of a run's settings."""
    from unseen_diffusion.runs.settings import check
    from unseen_diffusion.sweeps.composition import expand
    from unseen_diffusion.sweeps.jobs import compare_solvers
    from unseen_diffusion.sweeps.launch import run_id
    from unseen_diffusion.sweeps.overrides import escape_values

    with run_id():
        sweep = expand("run", escape_values(overrides))
        if sweep.multirun:
            raise InputError("unseen solvers: one model and one domain at a time; leave out -m and sweeps")
        compare_solvers(check(sweep.points[0]), sweep.folder)
    return 0


def _convert(arguments: list[str]) -> int:
    """Converts a checkpoint of another code base to a diffusers folder."""
    from unseen_diffusion.models.conversion.command import convert_command

    return convert_command(arguments)


def _models(arguments: list[str]) -> int:
    """Lists the base models of conf/."""
    from unseen_diffusion.sweeps.catalogue import models_command

    parser = Parser(prog="unseen models", description="List base models: what is here, and how to fetch the others.")
    parser.add_argument("names", nargs="*", help="models to show; all without names")
    return models_command(parser.parse_args(arguments).names)


def _domains(arguments: list[str]) -> int:
    """Lists the domains of conf/."""
    from unseen_diffusion.sweeps.catalogue import domains_command

    parser = Parser(prog="unseen domains", description="List domains: source, split sizes and licence.")
    parser.add_argument("names", nargs="*", help="domains to show; all without names")
    return domains_command(parser.parse_args(arguments).names)


def _report(arguments: list[str]) -> int:
    """Writes any number of runs as one HTML file."""
    from unseen_diffusion.reports.html import report_command

    return report_command(arguments)


VERBS = {
    "run": Verb(
        "invert, fit, select, denoise and score: one run, or a sweep",
        (
            ("unseen run [GROUP=OPTION] [KEY=VALUE]...", "one run: invert, fit, select, denoise, score"),
            ("unseen run -m KEY=A,B,C ...", "a sweep: every combination is a run"),
            ("unseen run -m hydra/launcher=NAME ...", "a sweep in parallel: joblib, ray, submitit_slurm"),
            ("unseen run -m ... workers=8", "each run of a sweep is shared by 8 jobs (docs/clusters.md)"),
            ("unseen run ... --dry-run [--tflops=N]", "print the cost in NFE and hours, and start nothing"),
            ("unseen run --cfg job", "print the whole config of a run"),
        ),
        _run,
        run_help,
    ),
    "status": Verb(
        "show which runs are done, running, failed, interrupted, dead or missing",
        (
            (
                "unseen status FOLDER... [--json]",
                "show which runs are done, running, failed, interrupted, dead or missing",
            ),
        ),
        _status,
    ),
    "resume": Verb(
        "start the runs that are not done, in the same folder",
        (("unseen resume FOLDER... [hydra/launcher=X]", "start the runs that are not done, in the same folder"),),
        _resume,
        lambda: "\nOnly hydra/launcher and hydra.launcher.* may change; a sweep keeps its other settings.",
    ),
    "table": Verb(
        "print any number of runs as one table",
        (
            (
                "unseen table OUTPUTS... [--save FILE]",
                "print any number of runs as one table; save it as .csv, .md or .tex",
            ),
            ("unseen table OUTPUTS... --published", "the same, with the values that the paper published"),
        ),
        _table,
    ),
    "compare": Verb(
        "compare methods over reference draws and seeds, with tests",
        (("unseen compare OUTPUTS... [--save FILE]", "compare methods over reference draws and seeds, with tests"),),
        _compare,
    ),
    "report": Verb(
        "write one HTML page with tables, samples and plots",
        (("unseen report OUTPUTS... [-o report.html]", "write one HTML page with tables, samples and plots"),),
        _report,
    ),
    "dashboard": Verb(
        "make a wandb workspace that compares domains",
        (("unseen dashboard [--online]", "make a wandb workspace that compares domains"),),
        _dashboard,
    ),
    "solvers": Verb(
        "measure the accuracy of every solver per NFE, on your model and domain",
        (
            (
                "unseen solvers [GROUP=OPTION]...",
                "measure the accuracy of every solver per NFE, on your model and domain",
            ),
        ),
        _solvers,
        run_help,
    ),
    "train": Verb(
        "train a base model on your own images, or retrain a bundled network",
        (
            ("unseen train data=folder data.path=DIR", "train a base model on your own images, or resume its training"),
            ("unseen train training=OPTION ...", "retrain one of the bundled networks"),
        ),
        _train,
        train_help,
    ),
    "models": Verb(
        "list base models: what is here, and how to fetch the others",
        (("unseen models [NAME...]", "list base models: what is here, and how to fetch the others"),),
        _models,
    ),
    "domains": Verb(
        "list domains: source, split sizes and licence",
        (("unseen domains [NAME...]", "list domains: source, split sizes and licence"),),
        _domains,
    ),
    "convert": Verb(
        "convert an ADM, iDDPM or DDPM checkpoint to a diffusers folder",
        (("unseen convert CHECKPOINT FOLDER ...", "convert an ADM, iDDPM or DDPM checkpoint and verify its outputs"),),
        _convert,
    ),
}


if __name__ == "__main__":
    main()
