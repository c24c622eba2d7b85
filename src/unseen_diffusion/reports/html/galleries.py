"""Pictures of one domain: samples with their nearest real images, reconstructions, paths between references."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from unseen_diffusion.reports.html.load import Folder, Run, first_of_settings
from unseen_diffusion.reports.html.naming import Names
from unseen_diffusion.reports.html.pictures import Picture, cost, picture, reduced, strip
from unseen_diffusion.reports.rows import REPLICATES, run_name
from unseen_diffusion.scores.intervals import Proportion, wilson

BUDGET = 9_000_000  # bytes of pictures in one report
SHARES = {"samples": 0.6, "reconstructions": 0.2, "paths": 0.2}  # shares of the budget
MOST = {"samples": 12, "reconstructions": 8, "paths": 2}  # pictures per sheet
LEAST = {"samples": 4, "reconstructions": 2, "paths": 1}
REAL = {"heldout": "held-out", "validation": "validation"}
PATHS = {"slerp": "latents, spherical", "linear": "latents, straight", "data": "pixels, straight"}


@dataclass(frozen=True)
class Tile:
    """A sample, its nearest reference and held-out (or validation) image, and its pixel distances (L2) from them."""

    sample: Picture
    reference: Picture
    heldout: Picture
    reference_distance: float
    heldout_distance: float


@dataclass(frozen=True)
class SampleSheet:
    """The first samples of one setting.

    Attributes:
        name: the setting.
        replicate: its draw and seed.
        tiles: in order, uncurated.
        count: number of samples.
        nearer: samples that are nearer to a reference than to any held-out image.
        expected: their share if samples were equally close to both sets, from the sizes of the two sets.
    """

    name: str
    replicate: str
    tiles: list[Tile]
    count: int
    nearer: Proportion
    expected: float


@dataclass(frozen=True)
class Strip:
    """A labelled row of pictures."""

    label: str
    picture: Picture


@dataclass(frozen=True)
class StripSheet:
    """Labelled rows under one name."""

    name: str
    strips: list[Strip]


@dataclass(frozen=True)
class Gallery:
    """All pictures of one domain, and notes on what was left out."""

    real_name: str
    real: Picture
    samples: list[SampleSheet]
    reconstructions: list[StripSheet]
    paths: list[StripSheet]
    left_out: list[str]


@dataclass(frozen=True)
class Plan:
    """The number of sheets of a kind that fit, and of pictures on each."""

    sheets: int
    pictures: int


def plan(kind: str, sheets: int, bytes_each: int, share: float) -> Plan:
    """Plans the sheets of a kind within its part of the budget: fewer pictures per sheet first, then fewer sheets.

    Args:
        kind: of ``SHARES``.
        sheets: number of sheets to show.
        bytes_each: size of one more picture on a sheet.
        share: this domain's part of the budget.
    """
    room = int(BUDGET * SHARES[kind] * share) // max(1, bytes_each)
    pictures = min(MOST[kind], max(LEAST[kind], room // max(1, sheets)))
    return Plan(min(sheets, max(1, room // pictures)), pictures)


def gallery(runs: Sequence[Run], names: Names, share: float) -> Gallery:
    """The pictures of one domain's runs, within ``share`` of the budget."""
    firsts = first_of_settings(runs)
    real = firsts[0].needed("split").tensor(firsts[0].target, 12)
    bytes_each = cost(real)
    left_out: list[str] = []
    if len(firsts) < len(runs):
        repeated = len(runs) - len(firsts)
        left_out.append(f"pictures of {repeated} of {len(runs)} runs, which repeat a setting")
    sampled = [run for run in firsts if run.method != "held_out"]  # its images are the real ones
    samples = plan("samples", len(sampled), 3 * bytes_each, share)
    if samples.sheets < len(sampled):
        left_out.append(
            f"samples of {len(sampled) - samples.sheets} of {len(sampled)} settings, to keep the file small"
        )
    if reduced(real).shape != real.shape:
        left_out.append(f"detail: images of {real.shape[-1]} pixels are shown with {reduced(real).shape[-1]}")
    name = f"real {REAL[firsts[0].target]} images"
    return Gallery(
        name,
        strip(real, f"{len(real)} {name} of {runs[0].domain}"),
        [sample_sheet(run, names, samples.pictures) for run in sampled[: samples.sheets]],
        reconstruction_sheets(firsts, names, bytes_each, share, left_out),
        path_sheets(firsts, names, share, left_out),
        left_out,
    )


def sample_sheet(run: Run, names: Names, most: int) -> SampleSheet:
    """The first samples of a run, each with its nearest images; the counts cover all samples."""
    split, generated, nearest = (run.needed(name) for name in ("split", "generated", "nearest"))
    to_r, to_h = nearest.tensor("reference_distance"), nearest.tensor("heldout_distance")
    references, heldout = split.tensor("references"), split.tensor(run.target)
    tiles = [
        _tile(i, image, references[r], heldout[h], float(to_r[i]), float(to_h[i]))
        for i, (image, r, h) in enumerate(
            zip(
                generated.tensor("images", most),
                nearest.tensor("reference_index", most),
                nearest.tensor("heldout_index", most),
                strict=True,
            )
        )
    ]
    replicate = run_name(run.settings, REPLICATES)
    nearer = wilson(int((to_r < to_h).sum()), len(to_r))
    expected = len(references) / (len(references) + len(heldout))
    return SampleSheet(names.of(run), replicate, tiles, len(to_r), nearer, expected)


def _tile(index: int, sample: Tensor, reference: Tensor, heldout: Tensor, to_r: float, to_h: float) -> Tile:
    number = index + 1
    return Tile(
        picture(sample, f"generated sample {number}"),
        picture(reference, f"reference nearest to sample {number}, L2 distance {to_r:.1f}"),
        picture(heldout, f"held-out image nearest to sample {number}, L2 distance {to_h:.1f}"),
        to_r,
        to_h,
    )


def reconstruction_sheets(
    runs: Sequence[Run], names: Names, bytes_each: int, share: float, left_out: list[str]
) -> list[StripSheet]:
    """References above their reconstructions, one row per eta, one sheet per setting of the inversion."""
    distinct: dict[tuple[str, str], tuple[Run, dict[str, Folder]]] = {}
    for run in runs:
        name = names.of(run, ("method", "prior", "tolerances", "eta"))
        _, folders = distinct.setdefault((name, str(run.needed("split").path)), (run, {}))
        for eta, facts in run.reconstruction.items():
            if facts.get("images"):
                folders.setdefault(eta, run.locate(facts["images"]))
    known = [(name, run, folders) for (name, _), (run, folders) in distinct.items() if folders]
    rows = 1 + max((len(folders) for _, _, folders in known), default=0)
    chosen = plan("reconstructions", len(known), rows * bytes_each, share)
    if chosen.sheets < len(known):
        left_out.append(f"reconstructions of {len(known) - chosen.sheets} of {len(known)} settings of the inversion")
    sheets = []
    for name, run, folders in known[: chosen.sheets]:
        references = run.needed("split").tensor("references", chosen.pictures)
        strips = [Strip("original", strip(references, f"{len(references)} references"))]
        for eta, folder in sorted(folders.items(), key=lambda pair: float(pair[0].removeprefix("eta"))):
            label = eta.replace("eta", "eta ")
            images = folder.tensor("images", chosen.pictures)
            strips.append(Strip(label, strip(images, f"their reconstructions at {label}")))
        sheets.append(StripSheet(name, strips))
    return sheets


def path_sheets(runs: Sequence[Run], names: Names, share: float, left_out: list[str]) -> list[StripSheet]:
    """Paths between pairs of references, through their latents and through their pixels."""
    distinct: dict[str, tuple[Run, Folder]] = {}
    for run in runs:
        if folder := run.detail("paths"):
            distinct.setdefault(str(folder.path), (run, folder))
    if not distinct:
        return []
    first = next(iter(distinct.values()))[1]
    kinds = [kind for kind in PATHS if kind in first.names()]
    steps = first.tensor(kinds[0], 1)[0]
    chosen = plan("paths", len(distinct), len(kinds) * len(steps) * cost(steps), share)
    if chosen.sheets < len(distinct):
        left_out.append(f"paths of {len(distinct) - chosen.sheets} of {len(distinct)} settings")
    sheets = []
    for run, folder in list(distinct.values())[: chosen.sheets]:
        pairs = folder.facts().get("pairs")
        paths = {kind: folder.tensor(kind, chosen.pictures) for kind in kinds}
        for index in range(len(paths[kinds[0]])):
            between = _between(pairs, index)
            strips = [
                Strip(PATHS[kind], strip(paths[kind][index], f"path between {between}: {PATHS[kind]}"))
                for kind in kinds
            ]
            name = names.of(run, ("method", "prior", "tolerances", "eta"))  # paths are denoised at eta 0
            sheets.append(StripSheet(f"{between} ({name})" if name else between, strips))
    return sheets


def _between(pairs: object, index: int) -> str:
    """The references at the ends of a path, by number if the artefact holds them."""
    if isinstance(pairs, list) and index < len(pairs) and isinstance(pairs[index], list):
        return "references " + " and ".join(str(end) for end in pairs[index])
    return f"two references, pair {index + 1}"
