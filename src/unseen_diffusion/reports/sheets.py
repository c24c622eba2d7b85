"""Sheets of images as PNG files: uncurated samples and reconstructions, every pixel as generated."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from unseen_diffusion.reports.result import RESULTS, RunResult
from unseen_diffusion.reports.rows import as_text, run_name
from unseen_diffusion.store.artefacts import load_tensor
from unseen_diffusion.utils.images import grid, save_png

INK, PAPER = (30, 30, 30), (255, 255, 255)


def scale_for(size: int) -> int:
    """Whole-number magnification that shows an image about 96 pixels wide."""
    return max(1, 96 // size)


def rows_sheet(rows: Sequence[tuple[str, Tensor]], title: str, path: Path) -> None:
    """Draws one labelled row per set of images: (label, (n, C, H, W) uint8), with the same n in all rows."""
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
    """Samples (n, C, H, W) uint8, the nearest reference of each, and the pixel distance (n,) between them."""

    samples: Tensor
    nearest: Tensor
    distance: Tensor


def samples_sheet(sheet: SampleSheet, title: str, path: Path, columns: int = 12, rows: int = 4) -> None:
    """Draws the first ``columns * rows`` samples, uncurated, each above its nearest reference."""
    labelled: list[tuple[str, Tensor]] = []
    for start in range(0, min(columns * rows, len(sheet.samples)), columns):
        part = slice(start, start + columns)
        shown, distance = sheet.samples[part], sheet.distance[part]
        labelled.append((f"generated {start + 1} to {start + len(shown)}", shown))
        label = f"nearest reference of each (pixel L2 {distance.min():.1f} to {distance.max():.1f})"
        labelled.append((label, sheet.nearest[part]))
    rows_sheet(labelled, title, path)


def reconstructions_sheet(sets: Sequence[tuple[str, Tensor]], title: str, path: Path, columns: int = 12) -> None:
    """Draws the first ``columns`` originals and their reconstructions, one labelled row per set."""
    rows_sheet([(label, images[:columns]) for label, images in sets], title, path)


def sweep_sheet(runs: Sequence[Path], path: Path, columns: int = 12, most: int = 16) -> None:
    """Draws the first samples of at most ``most`` runs, one row per run, below real images of their domain."""
    rows: list[tuple[str, Tensor]] = []
    domain = None
    for folder in runs[:most]:
        result = RunResult.read(folder / RESULTS, "details")
        images = load_tensor(str(result.details["generated"]), "images", columns)
        if result.domain != domain:
            domain = result.domain
            label = "held-out" if result.target == "heldout" else "validation"
            real = load_tensor(str(result.details["split"]), result.target)
            rows.append((f"real: {label} images of {domain}", real))
        kid, copies = (as_text(name, result.generated[name]) for name in ("kid_h", "copy_rate"))
        rows.append((f"{run_name(result.settings)}: KID-H x1000 {kid}, copies {copies}", images))
    rows_sheet(
        [(label, images[:columns]) for label, images in rows],
        f"uncurated samples of {min(most, len(runs))} of {len(runs)} runs",
        path,
    )
