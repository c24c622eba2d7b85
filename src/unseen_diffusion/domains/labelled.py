"""Data sets with classes, such as MNIST and CIFAR-10: from local Parquet files or, without them, from the hub."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unseen_diffusion.domains.base import Pool
from unseen_diffusion.domains.encoded import EncodedDomain
from unseen_diffusion.domains.hub import Hub
from unseen_diffusion.domains.parquet import Parquet, parquet_files
from unseen_diffusion.utils.checked import Text, settings


@settings("domain")
class Labelled(EncodedDomain):
    """A data set with classes, from local Parquet files or from the hub."""

    hub: Text
    """the data set on the hub; its rows are downloaded once and cached"""
    path: Text | None
    """local Parquet files (a file, a folder or a glob pattern); null takes the hub, or its local cache"""
    column: Text
    """column of the images in the local files"""
    hub_column: Text
    """column of the images on the hub"""
    label: Text
    """column of the classes"""
    labels: Sequence[int | str] | None
    """classes whose images are kept; null keeps all"""
    split: Text
    """part of the data set on the hub"""
    revision: Text | None
    """branch, tag or commit on the hub; null takes the newest"""

    def files(self) -> Sequence[Path]:
        return () if self.path is None else parquet_files(self.path)

    def pool(self, size: int, channels: int) -> Pool:
        """The rows of the selected classes."""
        common = {
            "name": self.name,
            "source": self.source,
            "licence": self.licence,
            "on_unreadable": self.on_unreadable,
            "range": self.range,
            "resize": self.resize,
            "label": self.label,
            "labels": self.labels,
        }
        return self._source(common).pool(size, channels)

    def _source(self, common: dict[str, Any]) -> Parquet | Hub:
        """The domain of the local files, or of the hub."""
        if self.path is not None:
            return Parquet(**common, path=self.path, column=self.column)
        return Hub(
            **common,
            id=self.hub,
            split=self.split,
            revision=self.revision,
            streaming=False,
            limit=None,
            remedy="set domain.path to local Parquet files, or be online once (a copy is then kept)",
            column=self.hub_column,
        )
