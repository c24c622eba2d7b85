"""The task of the feature network: to predict the domain of an image and its distortion.

Features that only distinguish domains would miss the faults of generated images. Many images are therefore distorted
(see ``distortions``), and a second head predicts the distortion.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import torch
from datasets import ClassLabel, Features
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from unseen_diffusion.domains.base import Domain, load_split
from unseen_diffusion.domains.parquet import parquet_files, read_rows, select_rows
from unseen_diffusion.training.distortions import KINDS, distort
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.images import decode, dequantise, quantise, stack
from unseen_diffusion.utils.seeds import generator

SYMMETRIES = ("none", "mirror", "square")  # no change; left-right; the eight symmetries of the square


@dataclass(frozen=True)
class Source:
    """Images of one origin with their classes, and the symmetries that do not change a class.

    Attributes:
        images: (N, 3, size, size) uint8.
        classes: a name per image.
        symmetry: one of ``SYMMETRIES``.
        rows: images that an epoch draws from the source, divided evenly between its classes.
    """

    images: Tensor
    classes: tuple[str, ...]
    symmetry: str
    rows: int

    def __post_init__(self) -> None:
        """Checks the symmetry."""
        if self.symmetry not in SYMMETRIES:
            raise InputError(f"symmetry={self.symmetry}: choose one of {', '.join(SYMMETRIES)}")


def domain_source(
    name: str, domain: Domain, size: int, pattern: str | None, symmetry: str, rows: int
) -> tuple[Source, Source]:
    """A domain's images for training (R and V) and for testing (H): no held-out image is ever trained on.

    Args:
        name: of the source, and of its class.
        domain: where the images come from.
        size: height and width.
        pattern: regular expression; its group, found in an image's name, divides the source into classes.
        symmetry: see ``Source``.
        rows: see ``Source``.

    Raises:
        InputError: the domain cannot be read, or ``pattern`` does not match a name.
    """
    split = load_split(domain, size, 3)
    images = torch.cat([split.references, split.validation])
    names = (*split.reference_names, *split.validation_names)
    return (
        Source(images, _classes(name, names, pattern), symmetry, rows),
        Source(split.heldout, _classes(name, split.heldout_names, pattern), symmetry, rows),
    )


def parquet_source(name: str, path: str, size: int, symmetry: str, rows: int, limit: int, seed: int) -> Source:
    """Up to ``limit`` images of every Parquet file of a pattern, chosen by ``seed``, with their labels.

    Raises:
        InputError: no such file, no image or label column, or an unreadable image.
    """
    images, classes = [], []
    for file in parquet_files(path):
        cells = select_rows(file, "image", "label", None)
        labels = _label_names(file, "label")
        order = torch.randperm(len(cells), generator=generator(seed, "subset", file.name))[:limit].sort().values
        chosen = [cells[i] for i in order.tolist()]
        images += [decode(cell, size, 3) for cell in read_rows(chosen, "image")]
        classes += [f"{name}/{labels[row.number]}" for row in chosen]
    return Source(stack(images), tuple(classes), symmetry, rows)


@dataclass(frozen=True)
class TrainingSet:
    """Images sorted by class, and the number that an epoch draws from each class.

    Attributes:
        images: (N, 3, size, size) uint8.
        classes: names, sorted.
        labels: (N,) int64, indices into ``classes``, ascending.
        symmetries: (N,) int64, indices into ``SYMMETRIES``.
        draws: (rows,) int64, the class of every row of an epoch.
    """

    images: Tensor
    classes: tuple[str, ...]
    labels: Tensor
    symmetries: Tensor
    draws: Tensor

    @classmethod
    def balanced(cls, sources: Sequence[Source], most_repeats: int) -> "TrainingSet":
        """Divides each source's rows evenly between its classes; no image is drawn more often than ``most_repeats``."""
        classes = tuple(sorted({name for source in sources for name in source.classes}))
        labels = torch.tensor([classes.index(name) for source in sources for name in source.classes])
        symmetry = [SYMMETRIES.index(source.symmetry) for source in sources]
        symmetries = torch.tensor(symmetry).repeat_interleave(torch.tensor([len(s.classes) for s in sources]))
        order = labels.argsort(stable=True)
        draws = torch.zeros(len(classes), dtype=torch.int64)
        for source in sources:
            for name in set(source.classes):
                share = source.rows // len(set(source.classes))
                draws[classes.index(name)] += min(share, most_repeats * source.classes.count(name))
        return cls(
            torch.cat([source.images for source in sources])[order],
            classes,
            labels[order],
            symmetries[order],
            torch.arange(len(classes)).repeat_interleave(draws),
        )


class FeatureLoss:
    """Sum of the cross-entropies of the two heads, on augmented images of which a share is distorted."""

    def __init__(self, data: TrainingSet, distorted: float, smoothing: float, device: torch.device) -> None:
        """A loss on the rows of an epoch of ``data``.

        Args:
            data: the images.
            distorted: share of images that are distorted, in [0, 1]; kinds are equally frequent.
            smoothing: label smoothing of the domain head, in [0, 1).
            device: of the network.
        """
        self.data = data
        self.distorted = distorted
        self.smoothing = smoothing
        self.device = device
        counts = data.labels.bincount(minlength=len(data.classes))
        self.counts, self.starts = counts, counts.cumsum(0) - counts

    def batch(
        self, rows: Int[Tensor, "b"], rng: torch.Generator
    ) -> tuple[Float[Tensor, "b 3 s s"], Int[Tensor, "b"], Int[Tensor, "b"]]:
        """Images (B, 3, size, size) in [-1, 1] on the uint8 levels, domain labels (B,), kinds of distortion (B,)."""
        labels = self.data.draws[rows]
        place = torch.rand(len(rows), generator=rng, dtype=torch.float64) * self.counts[labels]
        chosen = self.starts[labels] + place.long()
        x = dequantise(self.data.images[chosen].to(self.device))
        x = augment(x, self.data.symmetries[chosen], rng)
        kinds = torch.randint(1, len(KINDS), (len(rows),), generator=rng)
        kinds[torch.rand(len(rows), generator=rng) >= self.distorted] = KINDS.index("none")
        x = distort(x, kinds, torch.rand(len(rows), generator=rng), rng)
        return dequantise(quantise(x)), labels.to(self.device), kinds.to(self.device)

    def __call__(self, network: nn.Module, *batch: Tensor) -> Tensor:
        """Loss of (a part of) a batch."""
        x, labels, kinds = batch
        domain, distortion = network(x)
        named = cross_entropy(domain.float(), labels, label_smoothing=self.smoothing)
        return named + cross_entropy(distortion.float(), kinds)


def augment(
    x: Float[Tensor, "n c s s"], symmetries: Int[Tensor, "n"], rng: torch.Generator
) -> Float[Tensor, "n c s s"]:
    """Augments images: random symmetries, shifts of up to 2 pixels, and brightness times 0.9 to 1.1.

    Args:
        x: images (N, C, size, size) in [-1, 1].
        symmetries: indices into ``SYMMETRIES``, (N,).
        rng: CPU generator.
    """
    count, _, size, _ = x.shape
    device = x.device
    mirrored, flipped, turned = (torch.rand(3, count, generator=rng) < 0.5).unbind()
    square = symmetries == SYMMETRIES.index("square")
    for chosen, change in (
        (mirrored & (symmetries != SYMMETRIES.index("none")), lambda images: images.flip(-1)),
        (flipped & square, lambda images: images.flip(-2)),
        (turned & square, lambda images: images.transpose(-1, -2)),
    ):
        x = torch.where(chosen.to(device)[:, None, None, None], change(x), x)
    shifts = torch.randint(-2, 3, (2, count, 1), generator=rng)
    places = (torch.arange(size) + shifts).abs()  # reflected at both edges
    rows, columns = torch.minimum(places, 2 * (size - 1) - places).to(device)
    pictures = torch.arange(count, device=device)[:, None, None]
    x = x[pictures, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
    gain = (0.9 + 0.2 * torch.rand(count, 1, 1, 1, generator=rng)).to(device)
    return ((x + 1) * gain - 1).clamp(-1, 1)


@torch.no_grad()
def domain_accuracy(network: nn.Module, sources: Sequence[Source], classes: Sequence[str]) -> dict[str, float]:
    """Accuracy of the domain head on undistorted images, per class."""
    hits: dict[str, list[Tensor]] = {}
    for source in sources:
        guesses = _logits(network, dequantise(source.images))[0].argmax(1)
        for guess, name in zip(guesses.cpu(), source.classes, strict=True):
            hits.setdefault(name, []).append(guess == classes.index(name))
    return {name: float(torch.stack(found).double().mean()) for name, found in sorted(hits.items())}


@torch.no_grad()
def distortion_accuracy(network: nn.Module, sources: Sequence[Source], seed: int) -> dict[str, float]:
    """Accuracy of the distortion head, per kind; every image is distorted once by each kind."""
    images = torch.cat([source.images for source in sources])
    accuracy = {}
    for number, kind in enumerate(KINDS):
        rng = generator(seed, "evaluate", kind)
        kinds = torch.full((len(images),), number)
        x = distort(dequantise(images), kinds, torch.rand(len(images), generator=rng), rng)
        guesses = _logits(network, dequantise(quantise(x)))[1].argmax(1)
        accuracy[kind] = float((guesses == number).double().mean())
    return accuracy


def _logits(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    device = next(network.parameters()).device
    outputs = [network(batch.to(device)) for batch in x.split(256)]
    return torch.cat([domain for domain, _ in outputs]), torch.cat([kind for _, kind in outputs])


def _classes(name: str, names: Sequence[str], pattern: str | None) -> tuple[str, ...]:
    if pattern is None:
        return (name,) * len(names)
    classes = []
    for image in names:
        match = re.search(pattern, image)
        if match is None or not match.groups():
            raise InputError(f"classes={pattern}: no group found in the image name {image!r}; correct the pattern")
        classes.append(f"{name}/{match.group(1)}")
    return tuple(classes)


def _label_names(file: Path, column: str) -> list[str]:
    """The class of every row: its name if the file has class names, otherwise its number."""
    schema = pq.read_schema(file)
    if column not in schema.names:
        raise InputError(f"{file}: no column {column!r}; the feature network is trained on labelled images")
    labels = pq.read_table(file, columns=[column]).column(column).to_pylist()
    feature = Features.from_arrow_schema(schema).get(column)
    if isinstance(feature, ClassLabel):
        return [feature.int2str(label) for label in labels]
    return [str(label) for label in labels]


def mean_accuracy(accuracy: Mapping[str, float]) -> float:
    """Mean accuracy over classes, each with the same weight."""
    return sum(accuracy.values()) / len(accuracy)
