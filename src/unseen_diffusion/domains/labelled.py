"""Data sets with classes, as MNIST and CIFAR-10: from local Parquet files or, without them, from the hub."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unseen_diffusion.domains.base import Pool
from unseen_diffusion.domains.encoded import EncodedDomain
from unseen_diffusion.domains.hub import Hub
from unseen_diffusion.domains.parquet import Parquet, parquet_files


@dataclass(frozen=True, kw_only=True)
class Labelled(EncodedDomain):
    """A hub data set that may also lie on this machine.

    Attributes:
        path: Parquet files (a file, a folder or a glob pattern); None takes the hub, or its local cache.
        hub: the data set there; its rows are downloaded once and cached.
        column: the images in the files; ``hub_column`` is theirs on the hub.
        label: the classes.
        labels: keeps the images of these classes; None keeps all.
        split: on the hub.
        revision: on the hub; None takes the newest.
    """

    hub: str
    path: str | None = None
    column: str = "image"
    hub_column: str = "image"
    label: str = "label"
    labels: Sequence[int] | None = None
    split: str = "train"
    revision: str | None = None

    def files(self) -> Sequence[Path]:
        return () if self.path is None else parquet_files(self.path)

    def pool(self, size: int, channels: int) -> Pool:
        """The rows of the wanted classes."""
        domain: Parquet | Hub
        if self.path is not None:
            domain = Parquet(
                name=self.name,
                source=self.source,
                licence=self.licence,
                on_unreadable=self.on_unreadable,
                path=self.path,
                column=self.column,
                label=self.label,
                labels=self.labels,
            )
        else:
            domain = Hub(
                name=self.name,
                source=self.source,
                licence=self.licence,
                on_unreadable=self.on_unreadable,
                id=self.hub,
                split=self.split,
                revision=self.revision,
                streaming=False,
                limit=None,
                remedy="set domain.path to local Parquet files, or be online once (a copy is then kept)",
                column=self.hub_column,
                label=self.label,
                labels=self.labels,
            )
        return domain.pool(size, channels)
