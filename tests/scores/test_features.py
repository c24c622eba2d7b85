"""Feature extractors: shapes, batch independence, fingerprints, checked downloads, wrong input."""

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from support import ROOT
from unseen_diffusion.scores.features import dinov2, embedded, inception, inception_clean, lite0, pixels
from unseen_diffusion.scores.features.base import FeatureExtractor, extract
from unseen_diffusion.scores.features.dinov2 import DinoV2, preprocess
from unseen_diffusion.scores.features.embedded import EmbeddedFeatures, FeatureNetwork
from unseen_diffusion.scores.features.inception import SHA256, URL, Inception
from unseen_diffusion.scores.features.inception_clean import InceptionClean, resize
from unseen_diffusion.scores.features.lite0 import Lite0
from unseen_diffusion.scores.features.pixels import Pixels
from unseen_diffusion.utils.digests import file_digest
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import read_json, write_json
from unseen_diffusion.utils.images import dequantise
from unseen_diffusion.utils.precision import full_float32
from unseen_diffusion.utils.seeds import generator

CONFIGS = ROOT / "conf" / "features"
NETWORK = {"widths": [8, 16, 16], "dimension": 24, "classes": 4, "distortions": 3}


def images(count: int, channels: int = 3, size: int = 32) -> Tensor:
    shape = (count, channels, size, size)
    return torch.randint(0, 256, shape, generator=generator(0, "images", size)).to(torch.uint8)


class Layers(nn.Module):
    """The part of NVIDIA's file behind its resize: images in [-1, 1] of 299 x 299."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :2048]


class StandIn(nn.Module):
    """Called like NVIDIA's file: 2048 features from the first pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = Layers()

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        if x.shape[1] != 3:
            raise ValueError("three channels")
        if not return_features:
            return x.float().mean(dim=[2, 3])
        return x.float().flatten(1)[:, :2048] / 255


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A small untrained network in the embedded network's files, in half precision."""
    torch.manual_seed(0)
    network = FeatureNetwork(**NETWORK)
    save_file({k: v.half() for k, v in network.state_dict().items()}, tmp_path / "model.safetensors")
    write_json(tmp_path / "config.json", {"network": NETWORK, "size": 32})
    return tmp_path


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "inception-2015-12-05.pt"
    torch.jit.save(torch.jit.script(StandIn()), path)
    return path


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random DINOv2 of 56-pixel patches, as transformers saves it. Read-only: ``copied`` is for changes."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("dino") / "tiny"
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=112, patch_size=56
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.Dinov2Model(config).save_pretrained(folder)
    return folder


@pytest.fixture
def copied(dino: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(dino, tmp_path / "dino"))


def make(name: str, request: pytest.FixtureRequest) -> FeatureExtractor:
    if name == "embedded":
        return EmbeddedFeatures(request.getfixturevalue("weights"))
    if name == "dinov2":
        return DinoV2(str(request.getfixturevalue("dino")))
    if name == "lite0":
        return Lite0(size=32, stage=8, batch_size=4)
    if name.startswith("inception"):
        script = request.getfixturevalue("script")
        return (Inception if name == "inception" else InceptionClean)(str(script), sha256=file_digest(script))
    return Pixels(side=32)


@pytest.fixture(params=["dinov2", "embedded", "inception", "inception_clean", "lite0", "pixels"])
def extractor(request: pytest.FixtureRequest) -> FeatureExtractor:
    return make(request.param, request)


def test_features_have_the_promised_form(extractor: FeatureExtractor) -> None:
    features = extract(extractor, images(5))
    assert features.shape == (5, extractor.dimension)
    assert features.dtype == torch.float32
    assert features.isfinite().all()
    assert len(bytes.fromhex(extractor.fingerprint)) == 32


def test_batch_size_does_not_change_features(extractor: FeatureExtractor) -> None:
    whole = extract(extractor, images(7), batch_size=7)
    for size in (1, 3):
        torch.testing.assert_close(extract(extractor, images(7), batch_size=size), whole, rtol=0, atol=1e-6)


def test_grey_images_have_the_features_of_their_rgb_copies(extractor: FeatureExtractor) -> None:
    grey = images(3, channels=1)
    torch.testing.assert_close(extract(extractor, grey), extract(extractor, grey.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize(
    "module", [dinov2, embedded, inception, inception_clean, lite0, pixels], ids=lambda m: m.__name__.split(".")[-1]
)
def test_fingerprint_follows_the_version_of_the_preprocessing(
    module, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = module.__name__.split(".")[-1]
    before = make(name, request).fingerprint
    assert make(name, request).fingerprint == before
    monkeypatch.setattr(module, "_VERSION", f"{name}-another")
    assert make(name, request).fingerprint != before


def test_each_extractor_has_a_fingerprint_of_its_own(request: pytest.FixtureRequest) -> None:
    """Of its network and preprocessing alone: batches are no part of it."""
    kinds = [make(name, request) for name in ("dinov2", "embedded", "inception", "pixels")]
    assert len({kind.fingerprint for kind in kinds}) == 4
    assert EmbeddedFeatures(request.getfixturevalue("weights"), batch_size=3).fingerprint == kinds[1].fingerprint
    assert Pixels(side=32, batch_size=3).fingerprint == kinds[3].fingerprint


def test_features_need_no_gradient_and_can_be_trained_on(extractor: FeatureExtractor) -> None:
    features = extract(extractor, images(2))
    classifier = nn.Linear(extractor.dimension, 2)
    classifier(features).sum().backward()
    assert classifier.weight.grad is not None


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (images(2).float(), "uint8"),
        (images(2)[0], "with at least one image"),
        (images(0), "with at least one image"),
        (images(2)[:, :2], "with at least one image"),
    ],
)
def test_unusable_images_are_refused(extractor: FeatureExtractor, batch: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        extract(extractor, batch)


def test_batch_size_below_one_is_refused(extractor: FeatureExtractor) -> None:
    with pytest.raises(InputError, match="batch_size=0"):
        extract(extractor, images(2), batch_size=0)


# ---------------------------------------------------------------- embedded


def test_embedded_features_are_those_of_the_stored_network(weights: Path) -> None:
    torch.manual_seed(0)
    network = FeatureNetwork(**NETWORK).half().float()
    expected = network.features(dequantise(images(4)))
    torch.testing.assert_close(EmbeddedFeatures(weights)(images(4)), expected.detach(), rtol=0, atol=1e-6)


def test_embedded_network_takes_other_sizes(weights: Path) -> None:
    extractor = EmbeddedFeatures(weights)
    assert extractor(images(2, size=48)).shape == (2, 24)
    enlarged = images(2).repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert (extractor(enlarged) - extractor(images(2))).abs().max() < 0.2


def test_fingerprint_of_the_embedded_network_follows_its_weights(weights: Path) -> None:
    before = EmbeddedFeatures(weights).fingerprint
    assert EmbeddedFeatures(weights).fingerprint == before
    save_file(
        {k: v.half() for k, v in FeatureNetwork(**NETWORK).state_dict().items()},
        weights / "model.safetensors",
    )
    assert EmbeddedFeatures(weights).fingerprint != before


def test_package_weights_load_and_are_small() -> None:
    extractor = EmbeddedFeatures()
    assert sum(p.numel() for p in extractor.network.parameters()) <= 600_000
    assert extract(extractor, images(3)).shape == (3, extractor.dimension)


def test_missing_or_foreign_weights_are_refused(weights: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        EmbeddedFeatures(weights / "nowhere")
    write_json(weights / "config.json", {"network": NETWORK | {"dimension": 32}, "size": 32})
    with pytest.raises(InputError, match="do not fit") as caught:
        EmbeddedFeatures(weights)
    assert "\n" not in str(caught.value)
    write_json(weights / "config.json", {"size": 32})
    with pytest.raises(InputError, match="network"):
        EmbeddedFeatures(weights)


# ---------------------------------------------------------------- inception


def test_inception_is_downloaded_once_and_checked(script: Path, tmp_path: Path) -> None:
    source = tmp_path / "source" / script.name
    source.parent.mkdir()
    source.write_bytes(script.read_bytes())
    cache, digest = tmp_path / "cache", file_digest(script)
    first = extract(Inception(cache=cache, url=source.as_uri(), sha256=digest), images(2))
    source.unlink()
    again = extract(Inception(cache=cache, url=source.as_uri(), sha256=digest), images(2))
    assert torch.equal(first, again)
    assert [path.name for path in cache.iterdir()] == [script.name]


def test_wrong_checksum_is_refused_before_use(script: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"not {SHA256}; remove the file and download it from {URL}"):
        Inception(script)
    with pytest.raises(InputError, match="SHA-256 is"):
        Inception(cache=tmp_path, url=script.as_uri())
    assert list(tmp_path.iterdir()) == []


def test_offline_download_says_what_to_do(tmp_path: Path) -> None:
    url = "http://127.0.0.1:9/inception-2015-12-05.pt"  # the discard port: nothing listens
    with pytest.raises(InputError, match="cannot download") as caught:
        Inception(cache=tmp_path, url=url)
    message = str(caught.value)
    assert url in message
    assert str(tmp_path / "inception-2015-12-05.pt") in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Pixels(side=2.5), "features.side=2.5: give a whole number between 1 and 4096"),
        (lambda: Pixels(side=True), "features.side=true: give a whole number between 1 and 4096"),
        (lambda: Pixels(batch_size=0), "features.batch_size=0: give a whole number of 1 or more"),
        (lambda: Pixels(sides=8), "features.sides: nothing reads this key; did you mean side?"),
        (lambda: EmbeddedFeatures(batch_size="many"), "features.batch_size=many: give a whole number of 1 or more"),
        (lambda: EmbeddedFeatures(3), "features.folder=3: give a path or null"),
        (lambda: Inception(cache=3), "features.cache=3: give a path"),
        (lambda: Inception(file="x"), "features.file: nothing reads this key"),
        (lambda: DinoV2(model=None), "features.model=null: give text"),
    ],
)
def test_arguments_are_checked(call: Callable[[], object], message: str) -> None:
    """Types, ranges and unknown keys, in one line."""
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_missing_inception_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; download it from https"):
        Inception(tmp_path / "nothing.pt")


def test_inception_moves_its_network(script: Path) -> None:
    extractor = Inception(script, sha256=file_digest(script))
    before = extractor(images(1))
    extractor.to("cpu")
    assert torch.equal(extractor(images(1)), before)


@pytest.mark.parametrize("side", [32, 299, 640])
def test_the_clean_resize_is_the_antialiased_bicubic_filter(side: int) -> None:
    """Against the filter written out: a = -0.5, stretched where an image is made smaller, and not rounded."""
    rng = np.random.default_rng(side)
    image = torch.from_numpy(rng.integers(0, 256, (1, 1, side, side), dtype=np.uint8))

    def cubic(x: np.ndarray) -> np.ndarray:
        x = np.abs(x)
        near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * (x**3 - 5 * x**2 + 8 * x - 4)
        return np.where(x < 1, near, np.where(x < 2, far, 0))

    scale = side / 299
    centres = (np.arange(299)[:, None] + 0.5) * scale - 0.5
    weights = cubic((np.arange(side) - centres) / max(scale, 1))
    weights /= weights.sum(1, keepdims=True)
    wanted = weights @ image[0, 0].numpy().astype(np.float64) @ weights.T
    np.testing.assert_allclose(resize(image)[0, 0].numpy(), wanted, atol=2e-3)


def test_the_clean_features_see_resized_images_in_the_range_of_the_network(script: Path) -> None:
    features = InceptionClean(str(script), sha256=file_digest(script))(images(2))
    wanted = (resize(images(2)) - 128) / 128
    torch.testing.assert_close(features, wanted.flatten(1)[:, :2048])


def test_tf32_is_off_inside_and_restored_after() -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (matmul.allow_tf32, cudnn.allow_tf32)
    with full_float32():
        assert not matmul.allow_tf32
        assert not cudnn.allow_tf32
    assert (matmul.allow_tf32, cudnn.allow_tf32) == before


# ---------------------------------------------------------------- pixels


def test_pixels_are_the_image_itself() -> None:
    features = Pixels(side=32)(images(3))
    assert torch.equal(features.reshape(3, 3, 32, 32), dequantise(images(3)))


def test_pixels_are_averaged() -> None:
    blocks = images(2, size=8).repeat_interleave(4, -1).repeat_interleave(4, -2)
    torch.testing.assert_close(Pixels(side=8)(blocks), Pixels(side=8)(images(2, size=8)))
    assert Pixels(side=8).fingerprint != Pixels(side=16).fingerprint
    with pytest.raises(InputError, match=r"features\.side=0"):
        Pixels(side=0)


# ---------------------------------------------------------------- dinov2


def test_dinov2_is_the_normalised_class_token(dino: Path) -> None:
    transformers = pytest.importorskip("transformers")
    network = transformers.Dinov2Model.from_pretrained(dino).eval()
    with torch.no_grad():
        expected = network(pixel_values=preprocess(images(3))).pooler_output  # by definition that token
    torch.testing.assert_close(DinoV2(str(dino))(images(3)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [32, 300])
def test_dinov2_preprocessing_is_that_of_pillow(size: int) -> None:
    """Bicubic with antialiasing, enlarging and reducing; in Pillow's floats, which its integers clip between passes."""
    image = images(1, size=size)
    planes = [Image.fromarray(plane.float().numpy()) for plane in image[0]]
    resized = [np.asarray(plane.resize((224, 224), Image.Resampling.BICUBIC)) for plane in planes]
    unit = np.stack(resized).clip(0, 255) / 255
    expected = (unit - np.array([0.485, 0.456, 0.406])[:, None, None]) / np.array([0.229, 0.224, 0.225])[:, None, None]
    assert np.abs(preprocess(image)[0].numpy() - expected).max() < 1e-4


def test_dinov2_reads_half_precision_weights_as_float32(copied: Path) -> None:
    weights = {name: value.half() for name, value in load_file(copied / "model.safetensors").items()}
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    whole = extract(DinoV2(str(copied)), images(4))
    assert whole.dtype == torch.float32
    torch.testing.assert_close(extract(DinoV2(str(copied)), images(4), batch_size=1), whole, rtol=0, atol=1e-6)


def test_fingerprint_of_dinov2_follows_weights_and_configuration(copied: Path) -> None:
    first = DinoV2(str(copied)).fingerprint
    write_json(copied / "config.json", read_json(copied / "config.json") | {"num_attention_heads": 4})
    second = DinoV2(str(copied)).fingerprint
    weights = load_file(copied / "model.safetensors")
    save_file({k: v + 1 for k, v in weights.items()}, copied / "model.safetensors", metadata={"format": "pt"})
    assert len({first, second, DinoV2(str(copied)).fingerprint}) == 3


def test_dinov2_without_transformers_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install 'unseen-diffusion\[dinov2\]'") as caught:
        DinoV2("anywhere")
    assert "\n" not in str(caught.value)


def test_dinov2_offline_says_what_to_do() -> None:
    pytest.importorskip("transformers")
    with pytest.raises(InputError, match=r"features\.model=nobody/nothing: not a local folder, not cached") as caught:
        DinoV2("nobody/nothing")
    assert "\n" not in str(caught.value)


def test_foreign_dinov2_folders_are_refused(copied: Path, tmp_path: Path) -> None:
    def refused(message: str, folder: Path = copied) -> None:
        with pytest.raises(InputError, match=message) as caught:
            DinoV2(str(folder))(images(1))
        assert "\n" not in str(caught.value)

    refused("no such folder", tmp_path / "nowhere")
    config, weights = read_json(copied / "config.json"), load_file(copied / "model.safetensors")
    write_json(copied / "config.json", config | {"model_type": "vit"})
    refused("model_type vit")
    write_json(copied / "config.json", config | {"num_hidden_layers": 3})
    refused("lack .* of the network's tensors, first ")
    write_json(copied / "config.json", config | {"hidden_size": 32})
    refused("do not fit|lack")
    write_json(copied / "config.json", config)
    (copied / "model.safetensors").unlink()
    torch.save(weights, copied / "pytorch_model.bin")  # a pickle is never read
    refused("no config.json or no")


# ---------------------------------------------------------------- configs


@pytest.mark.parametrize("name", ["dinov2", "embedded", "inception", "inception_clean", "lite0", "pixels"])
def test_config_describes_itself_and_instantiates(
    name: str, script: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    text = (CONFIGS / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    config = OmegaConf.merge(
        OmegaConf.create({"paths": {"cache": str(tmp_path)}}), {"features": OmegaConf.create(text)}
    )
    changes = {}
    if name.startswith("inception"):
        changes = {"path": str(script), "sha256": file_digest(script)}
    elif name == "dinov2":
        changes = {"model": str(request.getfixturevalue("dino"))}
    extractor = instantiate(config.features, **changes)
    assert extractor.name.startswith(name)
    assert len(extractor.fingerprint) == 64
