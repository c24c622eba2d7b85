"""The report: any number of runs as one self-contained HTML file. It reads results and recomputes nothing."""

from unseen_diffusion.reports.html.command import report_command
from unseen_diffusion.reports.html.load import Run, load_runs
from unseen_diffusion.reports.html.page import render, write_report

__all__ = ["Run", "load_runs", "render", "report_command", "write_report"]
