"""The keys of a training's config that no ``_target_`` builds: types, ranges and meanings."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from unseen_diffusion.utils.checked import Count, Positive, Share, Text, settings


@settings("training")
class DiffusionKeys:
    """Keys of the training of a base model."""

    name: Text
    """name of the training, and of its folder"""
    task: Literal["diffusion"]
    data: Mapping[str, Any]
    """the images: the config of the data group, or paths of Parquet files"""
    about: str | None = None
    """one line about the images, for the model card"""
    notes: str | None = None
    """further text for the model card"""
    quality_samples: Count | None = None
    """number of samples whose KID is measured"""
    start: Text | None = None
    """initial weights: a diffusers folder or embedded:NAME; null: random"""
    flip: bool
    """mirror images at random"""
    min_snr: Positive | None = None
    """gamma of the min-SNR loss weights (arXiv 2303.09556); null: the simple loss"""
    network: Mapping[str, Any]
    """the network's config"""
    schedule: Mapping[str, Any]
    """arguments of diffusers' DDPMScheduler"""
    loop: Mapping[str, Any]
    """the loop's config"""
    folder: Text
    """folder of the training"""


@settings("training.data")
class ParquetData:
    """Images of Parquet files, and test images."""

    path: Text
    """a file, a folder or a glob"""
    test_path: Text | None
    """test images in the same form, never trained on"""
    validation: Annotated[int, Field(ge=0)]
    """number of test images in the validation loss"""
    size: Count
    """height and width in pixels"""
    channels: Literal[1, 3]
    """1 for grey, 3 for RGB"""


@settings("training")
class FeatureKeys:
    """Keys of the training of the feature network."""

    name: Text
    """name of the training, and of its folder"""
    task: Literal["features"]
    data: Mapping[str, Annotated[int, Field(ge=1)] | Text | None]
    """size of the images, and paths of Parquet files"""
    sources: Mapping[str, Mapping[str, Any]]
    """domains to train on"""
    files: Mapping[str, Mapping[str, Any]]
    """how the Parquet files in data are read"""
    most_repeats: Count
    """an epoch draws no image more often"""
    distorted: Share
    """share of images that are distorted"""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    """probability that the loss spreads over all classes"""
    probe: Text
    """source whose distances to the others the model card reports"""
    network: Mapping[str, Any]
    """the network's config"""
    loop: Mapping[str, Any]
    """the loop's config"""
    folder: Text
    """folder of the training"""
