"""The HTML page of the report: its sections, and the file that holds them."""

import base64
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pandas import DataFrame

from unseen_diffusion.reports.html.galleries import Gallery, gallery
from unseen_diffusion.reports.html.load import Run, first_of_settings
from unseen_diffusion.reports.html.naming import Names
from unseen_diffusion.reports.html.plots import Plots, geometry_plots, response_plots
from unseen_diffusion.reports.html.published import published_bases, published_table
from unseen_diffusion.reports.html.scores import estimate, show
from unseen_diffusion.reports.html.tables import (
    Table,
    acceptance_table,
    comparison_table,
    reconstruction_table,
    results_table,
)
from unseen_diffusion.reports.published import notes, read_published
from unseen_diffusion.reports.result import RESULTS
from unseen_diffusion.reports.rows import REPLICATES, run_name
from unseen_diffusion.reports.signatures import signature_lines
from unseen_diffusion.reports.yardstick import yardstick_lines
from unseen_diffusion.utils.digests import raw_digest
from unseen_diffusion.utils.errors import InputError, first_line
from unseen_diffusion.utils.files import atomic_path

log = logging.getLogger(__name__)

CAUGHT = 0.9  # least share of replayed references detected as copies for copy rates to be trusted
MOST_GEOMETRIES = 12  # settings per domain whose latent geometry is drawn, at most


@dataclass(frozen=True)
class DomainPart:
    """The section of one domain."""

    name: str
    source: str
    licence: str
    facts: list[str]
    gallery: Gallery
    reconstructions: Table | None
    acceptance: Table | None
    geometries: list[Plots]
    left_out: list[str]
    signs: list[str]


@dataclass(frozen=True)
class Provenance:
    """The provenance of one run: its name, its folder, and labelled texts."""

    name: str
    folder: str
    like: str
    parts: list[tuple[str, str]]


def render(runs: Sequence[Run], title: str, comparison: DataFrame | None = None) -> str:
    """The whole page as HTML.

    Args:
        runs: at least one, as ``load_runs`` gives them.
        title: heading.
        comparison: means over draws and seeds, shown first (see ``comparison_table``).

    Raises:
        InputError: an artefact of the runs is missing.
    """
    names = Names(runs)
    domains = list(dict.fromkeys(run.domain for run in runs))
    by_domain = {name: [run for run in runs if run.domain == name] for name in domains}
    responses = [
        (name, plots)
        for i, (name, members) in enumerate(by_domain.items())
        for setting in ("eta", "t")
        if (plots := response_plots(members, names, setting, f"response-{i}"))
    ]
    features = "" if "features" in names.varying else runs[0].features
    script, style = (Markup(_resource(name)) for name in ("sort.js", "style.css"))
    return _template().render(
        title=title,
        written=f"{datetime.now(UTC):%Y-%m-%d}",
        version=version("unseen-diffusion"),
        runs=len(runs),
        settings=len(first_of_settings(runs)),
        common=[(key, value) for key, value in names.common.items() if value],
        features=features or "the extractor named in each line",
        targets=_targets(runs),
        comparison=None if comparison is None or comparison.empty else comparison_table(comparison, features),
        results=results_table(runs, names),
        published=published_table(runs),
        published_notes=notes(runs, read_published()) if published_bases(runs) else [],
        responses=responses,
        domains=[
            domain_part(members, names, 1 / len(domains), f"domain-{i}") for i, members in enumerate(by_domain.values())
        ],
        provenance=provenance(runs, names),
        style=style,
        script=script,
        script_hash=base64.b64encode(raw_digest([script])).decode(),
    )


def write_report(runs: Sequence[Run], path: Path, title: str, comparison: DataFrame | None = None) -> Sequence[Run]:
    """Writes the page into one file that needs nothing else; returns the runs that it shows.

    A run whose results.json was damaged by hand is skipped with one warning line.

    Raises:
        InputError: an artefact of the runs is missing, or all are damaged.
    """
    try:
        text = render(runs, title, comparison)
    except InputError:
        raise
    except Exception:  # values of another kind than a run writes raise many types
        intact = _intact(runs, title)
        if len(intact) == len(runs):  # no single run is to blame
            raise
        runs, text = intact, render(intact, title, comparison)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return runs


def _intact(runs: Sequence[Run], title: str) -> list[Run]:
    """The runs of which a page of their own can be made; the others are named in warnings.

    Raises:
        InputError: none is left.
    """
    intact: list[Run] = []
    refused: list[str] = []
    for run in runs:
        try:
            render([run], title)
            intact.append(run)
        except Exception as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            refused.append(f"{run.folder / RESULTS}: damaged ({reason}); run this point again")
    if not intact:
        raise InputError(refused[0])
    for line in refused:
        log.warning("skipped: %s", line)
    return intact


def domain_part(runs: Sequence[Run], names: Names, share: float, prefix: str) -> DomainPart:
    """The section of one domain, with pictures within ``share`` of the budget."""
    firsts = first_of_settings(runs)
    images = runs[0].images
    drawn = _geometries(firsts, names, prefix)
    left_out = []
    if len(drawn) > MOST_GEOMETRIES:
        left_out.append(f"latent geometry of {len(drawn) - MOST_GEOMETRIES} of {len(drawn)} settings")
    pictures = gallery(runs, names, share)
    return DomainPart(
        runs[0].domain,
        str(images.get("source") or ""),
        str(images.get("licence") or ""),
        caveats(runs),
        pictures,
        reconstruction_table(firsts, names),
        acceptance_table(firsts, names),
        drawn[:MOST_GEOMETRIES],
        pictures.left_out + left_out,
        signature_lines(runs),
    )


def _geometries(runs: Iterable[Run], names: Names, prefix: str) -> list[Plots]:
    """Plots of the latent geometry, one set per distinct artefact."""
    distinct: dict[str, Run] = {}
    for run in runs:
        distinct.setdefault(str(run.detail("geometry")), run)
    plots = [geometry_plots(run, names, f"{prefix}-{i}") for i, run in enumerate(distinct.values())]
    return [plot for plot in plots if plot]


def caveats(runs: Sequence[Run]) -> list[str]:
    """How far the scores of a domain can be trusted, judged by its comparison rows."""
    facts = []
    replays = _values(runs, "replay", "copy_rate")
    if not replays:
        facts.append("No replayed references were scored here: whether copies would be caught is unknown.")
    else:
        verdict = (
            "so a low copy rate is reliable here" if min(replays) >= CAUGHT else "so a low copy rate proves little here"
        )
        facts.append(
            f"The copy rate recognises {_range('copy_rate', replays)} of the replayed references as copies, {verdict}."
        )
    floor = _values(runs, "held_out", "fid_h")
    if floor:
        scores = _range("fid_h", floor)
        facts.append(f"FID-H of as many real images is {scores}; differences of that size mean nothing.")
    else:
        facts.append("No real images were scored here: the floor of FID-H and KID-H at these sizes is unknown.")
    return [*facts, *yardstick_lines(runs)]


def _range(score: str, values: Sequence[float]) -> str:
    return " to ".join(dict.fromkeys(show(score, value) for value in (min(values), max(values))))


def _values(runs: Sequence[Run], kind: str, score: str) -> list[float]:
    """A score of a comparison row, or of the method of the same name, in all runs."""
    rows = [row for run in runs for row in run.rows if row["row"] == kind]
    rows += [run.generated for run in runs if run.method == kind]
    return [found.value for row in rows if (found := estimate(row, score)) is not None]


def _targets(runs: Sequence[Run]) -> str:
    """The name of the images that scores compare with, H in the page."""
    targets = {run.settings.get("target") for run in runs}
    if targets == {"validation"}:
        return "validation images"
    return "held-out images" if "validation" not in targets else "held-out or validation images, as each line says"


def provenance(runs: Sequence[Run], names: Names) -> list[Provenance]:
    """The provenance of every run; repetitions of a setting list only their differences from its first run."""
    found = []
    firsts: dict[str, Run] = {}
    for run in runs:
        first = firsts.setdefault(run.setting, run)
        replicate = run_name(run.settings, REPLICATES)
        name = ", ".join(filter(None, (run.domain, names.of(run), replicate)))
        parts = [("settings", _json(run.settings))]
        if run is first:
            parts += [("configuration", _json(run.config)), ("environment", _json(run.environment))]
        spent = {name: part for name, part in (("evaluations", run.evaluations), ("seconds", run.seconds)) if part}
        parts.append(("spent by this run (network evaluations, seconds per stage)", _json(spent)))
        parts.append(("artefacts", _artefacts(run)))
        like = "" if run is first else f"configured as the run in {first.folder}, except draw, seed or files read"
        found.append(Provenance(name, str(run.folder), like, parts))
    return found


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _artefacts(run: Run) -> str:
    return "\n".join(f"{a['stage']}: {a['folder']}{' (reused)' if a.get('reused') else ''}" for a in run.artefacts)


def _resource(name: str) -> str:
    environment = Environment(loader=PackageLoader("unseen_diffusion.reports.html"), autoescape=True)
    source, _, _ = environment.loader.get_source(environment, name)  # type: ignore[union-attr]
    return source


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("unseen_diffusion.reports.html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")
