"""Data sets with classes, such as MNIST and CIFAR-10: from local Parquet files or, without them, from the hub."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from unseen_diffusion.domains.base import LEADS, Pool
from unseen_diffusion.domains.encoded import EncodedDomain
from unseen_diffusion.domains.hub import Hub
from unseen_diffusion.domains.parquet import Parquet, parquet_files
from unseen_diffusion.utils.checked import Text, settings


@settings("domain")
class Labelled(EncodedDomain):
    """A data set with classes, from local Parquet files or from the hub."""

    hub: Annotated[Text, LEADS]
    """the data set on the hub; its rows are downloaded once and cached"""
    path: Annotated[Text | None, LEADS]
    """local Parquet files (a file, a folder or a glob pattern); null takes the hub, or its local cache"""
    column: Annotated[Text, LEADS]
    """column of the images in the local files"""
    hub_column: Annotated[Text, LEADS]
    """column of the images on the hub"""
    label: Annotated[Text, LEADS]
    """column of the classes"""
    labels: Annotated[Sequence[int | str] | None, LEADS]
    """classes whose images are kept; null keeps all"""
    split: Annotated[Text, LEADS]
    """part of the data set on the hub"""
    revision: Annotated[Text | None, LEADS]
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
