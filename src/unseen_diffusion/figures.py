"""What people look at: sheets of uncurated samples and reconstructions as PNG, every pixel as generated."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import load_file
from torch import Tensor

from unseen_diffusion.files import read_json
from unseen_diffusion.images import grid, save_png
from unseen_diffusion.store import TENSORS
from unseen_diffusion.tables import RESULTS

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
        images = load_file(Path(results["generated"]) / TENSORS)["images"]
        if line["domain"] != domain:
            domain = line["domain"]
            split = next(a["folder"] for a in results["artefacts"] if a["stage"] == "split")
            rows.append((f"real: held-out images of {line['domain']}", load_file(Path(split) / TENSORS)["heldout"]))
        what = f"{line['prior']}, {line['tolerances']}, t {line['t']:g}, eta {line['eta']:g}"
        rows.append((f"{what}: KID-H x1000 {1000 * score['kid_h']:.1f}, copies {score['copy_rate']:.0%}", images))
    rows_sheet(
        [(label, images[:columns]) for label, images in rows],
        f"uncurated samples of {min(most, len(runs))} of {len(runs)} runs",
        path,
    )
