"""Figures of comparisons, drawn by matplotlib."""

from pathlib import Path

import pandas as pd

from unseen_diffusion.reports.rows import method_name, scaled
from unseen_diffusion.scores.metrics import METRICS
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import atomic_path

COMPARED = ("kid_h", "copy_rate", "coverage")  # panels of a comparison


def comparison_figure(frame: pd.DataFrame, path: Path) -> None:
    """Draws scores with 95% intervals, a row of panels per domain.

    Args:
        frame: from ``comparison.compare``.
        path: the picture, .png, .svg or .pdf.

    Raises:
        InputError: another suffix.
    """
    # Without pyplot, drawing needs no window system and leaves no global state.
    from matplotlib.figure import Figure

    if path.suffix not in (".png", ".svg", ".pdf"):
        raise InputError(f"{path}: unknown suffix; choose .png, .svg or .pdf")
    shown = [name for name in COMPARED if name in frame]
    domains = list(frame.groupby("domain", sort=False))
    heights = [len(part) for _, part in domains]
    figure = Figure(figsize=(3.4 * len(shown) + 1.2, 0.27 * sum(heights) + 0.75 * len(domains)), layout="constrained")
    axes = figure.subplots(len(domains), len(shown), squeeze=False, gridspec_kw={"height_ratios": heights})
    for row, (domain, part) in zip(axes, domains, strict=True):
        lines = part.sort_values("kid_h", ascending=False)
        repeated = part["method"].value_counts().gt(1)
        names = [method_name(line, bool(repeated[line["method"]])) for line in lines.to_dict("records")]
        for axis, name in zip(row, shown, strict=True):
            metric = METRICS[name]
            scale = scaled(name, 1)
            value, low, high = (scale * lines[f"{name}{end}"].to_numpy(float) for end in ("", "_low", "_high"))
            for place, (v, a, b) in enumerate(zip(value, low, high, strict=True)):
                axis.plot([a, b], [place, place], color="0.55", linewidth=2, solid_capstyle="butt")
                axis.plot(v, place, "o", color="C3" if names[place].startswith("replay") else "C0", markersize=4)
            if metric.kind == "kid":
                axis.set_xscale("symlog", linthresh=10)
                axis.axvline(0, color="0.8", linewidth=0.8, zorder=0)
            axis.set_yticks(range(len(names)), names if axis is row[0] else [])
            axis.set_ylim(-0.6, len(names) - 0.4)
            axis.tick_params(labelsize=8)
            axis.set_title(
                f"{domain}: {metric.label}{' (%)' if metric.kind == 'share' else ''}", fontsize=9, loc="left"
            )
            axis.spines[["top", "right"]].set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=150)
