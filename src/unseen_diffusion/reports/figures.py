"""What people look at: sheets of uncurated samples and reconstructions as PNG, every pixel as generated."""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from unseen_diffusion.reports.tables import RESULTS
from unseen_diffusion.scores.metrics import METRICS
from unseen_diffusion.store.artefacts import load_tensor
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import atomic_path, read_json
from unseen_diffusion.utils.images import grid, save_png

INK, PAPER = (30, 30, 30), (255, 255, 255)


def scale_for(size: int) -> int:
    """Whole-number magnification that shows an image about 96 pixels wide."""
    return max(1, 96 // size)


def rows_sheet(rows: Sequence[tuple[str, Tensor]], title: str, path: Path) -> None:
    """A sheet with one labelled row per set of images, (label, (n, C, H, W) uint8), the same n each."""
    label_height, title_height, margin = 22, 34, 8
    pictures = [grid(images, len(images), scale_for(images.shape[-1])) for _, images in rows]
    width = max(picture.width for picture in pictures) + 2 * margin
    height = title_height + sum(picture.height + label_height for picture in pictures) + margin
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((margin + 2, 8), title, fill=INK, font=ImageFont.load_default(17))
    top = title_height
    for (label, _), picture in zip(rows, pictures, strict=True):
        draw.text((margin + 2, top + 3), label, fill=INK, font=ImageFont.load_default(14))
        sheet.paste(picture, (margin, top + label_height))
        top += picture.height + label_height
    save_png(sheet, path)


class SampleSheet(NamedTuple):
    """Samples (n, C, H, W) uint8, the nearest reference of each, and its pixel distance (n,)."""

    samples: Tensor
    nearest: Tensor
    distance: Tensor


def samples_sheet(sheet: SampleSheet, title: str, path: Path, columns: int = 12, rows: int = 4) -> None:
    """The first ``columns * rows`` samples, uncurated, each above its nearest reference."""
    labelled: list[tuple[str, Tensor]] = []
    for start in range(0, min(columns * rows, len(sheet.samples)), columns):
        part = slice(start, start + columns)
        shown, distance = sheet.samples[part], sheet.distance[part]
        labelled.append((f"generated {start + 1} to {start + len(shown)}", shown))
        label = f"nearest reference of each (pixel L2 {distance.min():.1f} to {distance.max():.1f})"
        labelled.append((label, sheet.nearest[part]))
    rows_sheet(labelled, title, path)


def reconstructions_sheet(sets: Sequence[tuple[str, Tensor]], title: str, path: Path, columns: int = 12) -> None:
    """Originals and their reconstructions, one labelled row each, the first ``columns`` images."""
    rows_sheet([(label, images[:columns]) for label, images in sets], title, path)


def sweep_sheet(runs: Sequence[Path], path: Path, columns: int = 12, most: int = 16) -> None:
    """The first samples of each run, a row each, below held-out images of its domain; at most ``most`` runs."""
    rows: list[tuple[str, Tensor]] = []
    domain = None
    for folder in runs[:most]:
        results = read_json(folder / RESULTS)
        line, score = results["settings"], results["rows"][0]
        images = load_tensor(results["details"]["generated"], "images", columns)
        if line["domain"] != domain:
            domain = line["domain"]
            part, words = ("heldout", "held-out") if line["target"] == "heldout" else ("validation", "validation")
            rows.append((f"real: {words} images of {line['domain']}", load_tensor(results["details"]["split"], part)))
        drawn = f"{line['prior']}, {line['tolerances']}"
        what = drawn if line["method"] == "full" else line["method"]
        what = f"{what}, t {line['t']:g}, eta {line['eta']:g}"
        rows.append((f"{what}: KID-H x1000 {1000 * score['kid_h']:.1f}, copies {score['copy_rate']:.0%}", images))
    rows_sheet(
        [(label, images[:columns]) for label, images in rows],
        f"uncurated samples of {min(most, len(runs))} of {len(runs)} runs",
        path,
    )


COMPARED = ("kid_h", "copy_rate", "coverage")  # panels of a comparison


def comparison_figure(frame: pd.DataFrame, path: Path) -> None:
    """Scores with 95% intervals, a row of panels per domain; the suffix decides between .png, .svg and .pdf.

    Args:
        frame: of ``comparison.compare``.
        path: the picture.
    """
    # Drawn without pyplot: no window system, and no state that another figure could find.
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
        names = [_label(line, part) for line in lines.to_dict("records")]
        for axis, name in zip(row, shown, strict=True):
            metric = METRICS[name]
            scale = {"kid": 1000, "share": 100}.get(metric.kind, 1)
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


def _label(line: Mapping[Hashable, Any], part: pd.DataFrame) -> str:
    """A method, with its prior where several stand beside each other under one name."""
    several = part["method"].eq(line["method"]).sum() > 1
    return f"{line['method']} ({line['prior']})" if several else str(line["method"])
