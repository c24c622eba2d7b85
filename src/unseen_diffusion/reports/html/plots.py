"""Plots as inline SVG: the geometry of sets of latents, and scores against a setting that varies.

Names that users give stay out of the SVG: the page lists the series in a legend beside it.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from unseen_diffusion.reports.html.load import CONTROLS, Run
from unseen_diffusion.reports.html.naming import Names
from unseen_diffusion.reports.html.scores import SCORES, Estimate, estimate
from unseen_diffusion.reports.rows import is_missing, scaled
from unseen_diffusion.scores.intervals import crossed_interval

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "unseen",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#555555",
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.unicode_minus": True,
}
# Okabe & Ito 2008: also for the colour-blind. Line styles and markers repeat the distinction.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#8A6D00", "#000000", "#777777")
DASHES = ((), (5, 2), (6, 2, 1.5, 2), (1.5, 1.5), (9, 2), (3, 1, 1, 1, 1, 1), (2, 2), (12, 3))  # on, off, ...
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
SIGNS = "●■▲◆▼✚✖★"  # the same in text
SETS = {
    "references": "references R",
    "heldout": "held-out images H",
    "own": "the model's own domain",
    "accepted": "latents that were denoised",
    "rejected": "rejected candidates",
}
STATISTICS = {
    "pair_distance": "pair distance, L2",
    "pair_angle": "pair angle, degrees",
    "origin_angle": "origin angle, degrees",
    "radius": "radius, L2",
}
EXPECTED = {"pair_angle": 60.0, "origin_angle": 90.0}  # degrees, for independent isotropic Gaussian latents
RESPONSES = ("kid_h", "fid_h", "copy_rate", "coverage", "target_conformal", "psnr")


@dataclass(frozen=True)
class Key:
    """An entry of a legend in the page: a sign in text, or a line with dashes where the sign is empty."""

    label: str
    colour: str
    sign: str = ""
    dashes: str = ""


@dataclass(frozen=True)
class Plots:
    """Plots with a common legend."""

    name: str
    keys: list[Key]
    svgs: list[Markup]
    note: str = ""


@dataclass
class Curve:
    """One line of a plot: values with intervals by position."""

    label: str
    points: dict[float, Estimate] = field(default_factory=dict)


def svg(figure: Figure, name: str, title: str) -> Markup:
    """A figure as inline SVG; the prefix ``name`` keeps its ids unique in the page."""
    buffer = io.StringIO()
    with mpl.rc_context(STYLE):
        FigureCanvasSVG(figure).print_svg(buffer, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :]  # HTML needs neither XML declaration nor doctype
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    width, height = (round(72 * inches) for inches in figure.get_size_inches())
    head = f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {width} {height}"><title>{escape(title)}</title>'
    return Markup(re.sub(r"<svg[^>]*>", lambda _: head, text, count=1))


def _axes() -> tuple[Figure, "mpl.axes.Axes"]:
    figure = Figure(figsize=(3.6, 2.3))
    figure.subplots_adjust(
        left=0.14, right=0.97, bottom=0.19, top=0.89
    )  # fixed margins: an automatic layout takes twice as long
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def geometry_plots(run: Run, names: Names, prefix: str) -> Plots | None:
    """Distributions of four statistics of each set of latents of a run; None if the run has no latents."""
    folder = run.detail("geometry")
    if folder is None:
        return None
    sets = {name: folder.tensor(name).double().numpy() for name in SETS if name in folder.names()}
    sets = {name: values for name, values in sets.items() if len(values)}
    if not sets:
        return None
    known = [(i, name) for i, name in enumerate(SETS) if name in sets]
    keys = [Key(f"{SETS[name]} ({len(sets[name])})", COLOURS[i], dashes=_text(DASHES[i])) for i, name in known]
    bands = run.selection.get("bands", {})
    with mpl.rc_context(STYLE):
        svgs = [
            _distributions({name: values[:, i] for name, values in sets.items()}, statistic, bands, f"{prefix}-{i}")
            for i, statistic in enumerate(STATISTICS)
        ]
    return Plots(names.of(run), keys, svgs, "shaded: the band of the tolerances" if bands else "")


def _text(dashes: Sequence[float]) -> str:
    return " ".join(f"{length:g}" for length in dashes)


def _line(index: int) -> dict[str, Any]:
    """Colour and dashes of the line at a place in the legend."""
    return {"color": COLOURS[index], "linestyle": (0, DASHES[index]) if DASHES[index] else "-", "linewidth": 1.3}


def density(values: NDArray[np.float64], positions: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Gaussian kernel density estimate with Scott's rule (Scott 1992); None for values without spread."""
    if len(values) < 2 or np.ptp(values) <= 1e-9 * np.abs(values).max():
        return None
    return stats.gaussian_kde(values)(positions)


def _distributions(
    sets: Mapping[str, NDArray[np.float64]], statistic: str, bands: Mapping[str, Sequence[float]], name: str
) -> Markup:
    """Smoothed distributions of unit area; a vertical line for values that are all the same."""
    figure, axes = _axes()
    finite = {key: values[np.isfinite(values)] for key, values in sets.items()}
    everything = np.concatenate(list(finite.values()))
    if len(everything):
        margin = 0.1 * np.ptp(everything)
        positions = np.linspace(everything.min() - margin, everything.max() + margin, 120)
        for index, key in enumerate(SETS):
            if not len(finite.get(key, ())):
                continue
            heights = density(finite[key], positions)
            if heights is None:
                axes.axvline(finite[key][0], **_line(index))
            else:
                axes.plot(positions, heights, **_line(index))
    if statistic in bands:
        axes.axvspan(*bands[statistic], color="#000000", alpha=0.07, linewidth=0)
    if statistic in EXPECTED:
        axes.axvline(EXPECTED[statistic], color="#999999", linewidth=0.8, linestyle=":")
    axes.set_ylim(bottom=0)
    axes.set_title(STATISTICS[statistic])
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    return svg(figure, name, f"distributions of {STATISTICS[statistic]} of {', '.join(SETS[key] for key in sets)}")


def response_plots(runs: Sequence[Run], names: Names, setting: str, prefix: str) -> Plots | None:
    """Scores of one domain's runs against ``setting`` ("eta" or "t"); None if it does not vary.

    With several reference draws, a point is their mean with an interval over draws and seeds. With one draw, it is the
    first seed's value with its interval over images.
    """
    competing = [run for run in runs if run.method not in CONTROLS and not is_missing(run.settings.get(setting))]
    series = {
        name: [run for run in competing if names.of(run, (setting,)) == name]
        for name in dict.fromkeys(names.of(run, (setting,)) for run in competing)
    }
    series = {name: members for name, members in series.items() if len({run.settings[setting] for run in members}) > 1}
    if not series:
        return None
    shown = dict(list(series.items())[: len(COLOURS)])
    svgs: list[Markup] = []
    with mpl.rc_context(STYLE):
        for score in RESPONSES:
            curves = [curve(label, members, setting, score) for label, members in shown.items()]
            if any(len(c.points) > 1 for c in curves):
                floor = _floor(runs, score)
                svgs.append(_response(curves, setting, score, floor, f"{prefix}-{setting}-{len(svgs)}"))
    keys = [Key(label, COLOURS[i], SIGNS[i]) for i, label in enumerate(shown)]
    note = f"{len(series) - len(shown)} of {len(series)} lines left out" if len(shown) < len(series) else ""
    return Plots(f"against {'eta' if setting == 'eta' else 'the mixing step t'}", keys, svgs, note) if svgs else None


def curve(label: str, runs: Sequence[Run], setting: str, score: str) -> Curve:
    """One score of one method against a setting; ``combine`` averages over draws and seeds."""
    line = Curve(label)
    for position in sorted({float(run.settings[setting]) for run in runs}):
        here = [run for run in runs if float(run.settings[setting]) == position]
        by_draw: dict[object, list[Estimate]] = {}
        for run in here:
            if (value := estimate(run.generated, score)) is not None:
                by_draw.setdefault(run.settings.get("draw"), []).append(value)
        if by_draw:
            line.points[position] = combine(list(by_draw.values()))
    return line


def combine(by_draw: Sequence[Sequence[Estimate]]) -> Estimate:
    """Mean over draws and seeds with its 95% interval; of one draw, the first seed's estimate.

    Where points are missing, the seeds of a draw are averaged first.
    """
    if len(by_draw) == 1:
        return by_draw[0][0]
    table = [[value.value for value in values] for values in by_draw]
    whole = len({len(row) for row in table}) == 1
    found = crossed_interval(table if whole else [[float(np.mean(row))] for row in table])
    return Estimate(found.mean, found.low, found.high)


def _floor(runs: Sequence[Run], score: str) -> float | None:
    """The score of real images, averaged over the runs that have that row."""
    values = [estimate(row, score) for run in runs for row in run.rows if row["row"] == "held_out"]
    known = [value.value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _response(curves: Sequence[Curve], setting: str, score: str, floor: float | None, name: str) -> Markup:
    figure, axes = _axes()
    for index, line in enumerate(curves):
        xs = list(line.points)
        ys = [scaled(score, e.value) for e in line.points.values()]
        down = [scaled(score, e.value - e.low) if e.has_interval else 0.0 for e in line.points.values()]
        up = [scaled(score, e.high - e.value) if e.has_interval else 0.0 for e in line.points.values()]
        spread = np.maximum([down, up], 0)
        axes.errorbar(xs, ys, spread, marker=MARKERS[index], markersize=4, capsize=2, **_line(index))
    if floor is not None:
        axes.axhline(scaled(score, floor), color="#999999", linewidth=0.8, linestyle=":")
    title = SCORES[score].label + (", %" if SCORES[score].kind == "share" else "")
    axes.set_title(title)
    axes.set_xlabel(setting)
    return svg(figure, name, f"{title} against {setting}, {len(curves)} lines")
