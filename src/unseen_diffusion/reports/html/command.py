"""``unseen report``: any number of runs as one HTML file."""

from pathlib import Path

from unseen_diffusion.reports.comparison import compare, is_comparison
from unseen_diffusion.reports.html.load import load_runs
from unseen_diffusion.reports.html.page import write_report
from unseen_diffusion.reports.tables import load_results
from unseen_diffusion.utils.arguments import Parser
from unseen_diffusion.utils.errors import InputError

SUFFIXES = (".html", ".htm")


def report_command(arguments: list[str]) -> int:
    """Writes the report of the runs below the given paths; 0 when done.

    Raises:
        InputError: no runs there, an artefact of theirs is missing, or the output is not an HTML file.
    """
    parser = Parser(prog="unseen report", description="Write any number of runs as one HTML file.")
    parser.add_argument("paths", nargs="+", help="results.json files, or folders of runs")
    parser.add_argument("-o", "--output", type=Path, default=Path("report.html"), help="default: report.html")
    parser.add_argument("--title", default="What was never seen", help="heading of the page")
    chosen = parser.parse_args(arguments)
    if chosen.output.suffix not in SUFFIXES or chosen.output.is_dir():
        raise InputError(f"{chosen.output}: the report is one HTML file; give a name such as report.html")
    runs = load_runs(chosen.paths)
    table = load_results(chosen.paths)
    shown = write_report(runs, chosen.output, chosen.title, compare(table) if is_comparison(table) else None)
    print(f"wrote {chosen.output}: {len(shown)} runs, {chosen.output.stat().st_size / 1e6:.1f} MB")
    return 0
