"""Domains: every config gives disjoint, repeatable splits; images are decoded as documented; errors help."""

import io
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image, features
from torch import Tensor

from support import ROOT
from support.options import values_of
from unseen_diffusion.domains import Domain, Pool, base, check_sizes, load_split, pool_of, split_pool
from unseen_diffusion.domains.digits8 import Digits8
from unseen_diffusion.domains.faces import Faces
from unseen_diffusion.domains.hubble import Hubble
from unseen_diffusion.domains.parquet import read_parquet
from unseen_diffusion.domains.split import clusters_of
from unseen_diffusion.utils import images
from unseen_diffusion.utils.configs import build
from unseen_diffusion.utils.declarations import declared
from unseen_diffusion.utils.errors import InputError

CONF = ROOT / "conf" / "domain"
LOCAL = ("folder", "parquet", "mnist", "cifar10", "hub")  # need images of the user's
NAMED = {  # options that start from another one
    file.stem: base
    for file in sorted(CONF.glob("*.yaml"))
    for base in OmegaConf.load(file).get("defaults", [])
    if base != "_self_"
}
EMBEDDED = sorted(file.stem for file in CONF.glob("*.yaml") if file.stem not in (*LOCAL, *NAMED))
ROWS = 20
# SHA-256 of the pools at 16 and 32 pixels and 3 channels: artefact keys contain them, so they must not change.
FINGERPRINTS = {
    "digits8": (
        "ae680ee5ba8e4ec762c90e2d641dfdd3b0350227aa9b22ff59918228882e6cb5",
        "c9092c67d6357eee9b3a75ff84807a2d1079b8d65fc73030bb2df47057dc17f6",
    ),
    "faces": (
        "cdd9b1acd03b4c2017ce047adadd0aeea55cd59b1511e8f1c1f62da3a9aaadf8",
        "b7f76652f4ee8380e8e6baa3c107b2e0103ab2abfa9848ed00fe1ccc2fce52ca",
    ),
    "hubble": (
        "c82f964199d0bb1f6ba69027ef5758cf6159477beb97743f1ed3567c40be7b4f",
        "bb3be09f6d31b30e66419c89bc8da7eee46f841999395d3de5ce7e2758e7f84d",
    ),
    "photographs": (
        "465387df945a3441594709a0ef0d89ae2b3be22929eabea85b19299a6072ef73",
        "09a49a77c6ae645550b91c587add7276a41cae5308d8b7d795dff3b68568631e",
    ),
    "textures": (
        "8b0a9a823e412e4ed68ad1f745c9367571327afa37cfb4bafe9128a42dbf5f95",
        "b57e5dde9ad0f533af4b4b84703f2d7d4eae737ea58125cff4af03a1364ba05e",
    ),
    "turbulence": (
        "e400702781a668f875f2545c79280df5e29574056377e5a47e16320718693794",
        "77e1afd9257664579c9d01b800a2abfebd86327d608669f400490f8841307c73",
    ),
    "radiation": (
        "639f2d8e328c142f86be11d6da2b650f5a063af113960f3946708c37cb54c22b",
        "37d9ebbb1b8a043234f58e023251b5919cf29cfa2e2df5ac26f6db394c4be3fe",
    ),
    "noise": (
        "329773583b6191e4e31da533a774b81b34709e5325823ab3b2c48f5f87dc2aad",
        "8604a3516272ec513192d63b0f944e2e366d75bd60f0fe62feb7d20108335277",
    ),
}


def png(image: Image.Image, **options: object) -> bytes:
    """The bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", **options)
    return buffer.getvalue()


def flat(value: int) -> bytes:
    """A grey PNG of one value, by which a test recognises it."""
    return png(Image.new("L", (12, 10), value))


def decode_array(array: np.ndarray, size: int | None, channels: int) -> Tensor:
    return images.decode(png(Image.fromarray(array)), size, channels)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images in subfolders of awkward names, beside files that are none and hidden ones."""
    root = tmp_path / "my [images]"
    for index in range(ROWS):
        path = root / ("test" if index % 2 else "a b") / f"{index:02d}.{'PNG' if index % 3 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(flat(10 * index))
    (root / "notes.txt").write_text("no image")
    (root / ".hidden.png").write_bytes(flat(255))
    return root


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """Two Parquet files in a folder of their own, several row groups each, as the hub stores images."""
    root = tmp_path / "rows"
    root.mkdir()
    for part in range(2):
        numbers = range(part * ROWS // 2, (part + 1) * ROWS // 2)
        cells = [{"bytes": flat(10 * number), "path": None} for number in numbers]
        table = pa.table({"image": cells, "label": [number % 3 for number in numbers]})
        pq.write_table(table, root / f"part-{part}.parquet", row_group_size=4)
    return root


@pytest.fixture
def make(folder: Path, parquet: Path) -> Callable[..., Domain]:
    """Builds a config of conf/domain, with local images where it needs some."""

    def made(name: str, /, **changes: object) -> Domain:
        config = values_of("domain", name)
        few = {"references": 8, "validation": 3, "heldout": 6}
        local = {
            "folder": {"path": str(folder)},
            "parquet": {"path": str(parquet)},
            "mnist": {"path": str(parquet / "*.parquet")} | few,
            "cifar10": {"path": str(parquet / "part-*.parquet")} | few,
            "hub": {"id": str(parquet)},  # load_dataset reads a local folder like a repository of the hub
        }
        if base := NAMED.get(name):  # as small, and with local images in place of those of the hub
            own = {"count": ROWS, "resolution": 16} if "count" in config else local[base]
            labels = {"labels": None, "config": None, "revision": None} if base == "hub" else {}
            local[name] = own | few | labels
        return build(OmegaConf.merge(config, local.get(name, {}), changes), "domain")

    return made


def write_broken(folder: Path) -> str:
    """Truncates one image; returns its name."""
    path = folder / "test" / "07.PNG"
    path.write_bytes(path.read_bytes()[:40])
    return "test/07.PNG"


# ---------------------------------------------------------------- configs


def test_every_config_is_described() -> None:
    for file in CONF.glob("*.yaml"):
        assert file.read_text().startswith("# ")
        assert len(file.read_text().splitlines()[0]) <= 110
        config = values_of("domain", file.stem)
        assert {"name", "references", "validation", "heldout", "split_seed", "draw"} <= set(config)
        assert config["name"] == ("" if file.stem in ("folder", "parquet", "hub") else file.stem)


@pytest.mark.parametrize("name", [*EMBEDDED, *LOCAL, *NAMED])
def test_config_gives_a_disjoint_repeatable_split(make: Callable[..., Domain], name: str) -> None:
    domain = make(name)
    assert domain.source
    assert domain.licence
    pool = domain.pool(16, 3)
    assert len(set(pool.names)) == len(pool.names)
    split = load_split(domain, 16, 3)
    names = split.reference_names + split.validation_names + split.heldout_names
    assert len(set(names)) == len(names)
    assert set(names) <= set(pool.names)
    for part in ("references", "validation", "heldout"):
        tensor, asked = getattr(split, part), getattr(domain, part)
        assert tensor.dtype == torch.uint8
        assert tensor.shape[1:] == (3, 16, 16)
        assert len(tensor) == asked if asked is not None else len(tensor) > 0
    again = load_split(replace(make(name), references=2, validation=1, heldout=2), 16, 3)
    assert again.heldout_names == split.heldout_names[:2]
    assert torch.equal(again.heldout, split.heldout[:2])
    assert again.fingerprint == split.fingerprint
    assert split.fingerprint == pool.fingerprint != domain.pool(16, 1).fingerprint


@pytest.mark.parametrize("name", ["hubble", "faces", "parquet"])
def test_draws_share_the_heldout_images(make: Callable[..., Domain], name: str) -> None:
    pool = make(name).pool(16, 3)
    few = len(pool.names) // 5
    r, v, h = split_pool(pool, few, few, few, 0, 0)
    other_r, other_v, other_h = split_pool(pool, few, few, few, 0, 1)
    assert h == other_h
    assert r != other_r
    assert v != other_v
    assert split_pool(pool, few, few, few, 1, 0)[2] != h
    larger = split_pool(pool, 2 * few, few - 1, few, 0, 0)
    assert larger[2] == h
    assert larger[0][:few] == r
    assert larger[1] == v[: few - 1]
    assert split_pool(pool, few, few, few - 1, 0, 0)[2] == h[: few - 1]


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_fingerprints_and_defaults_are_those_of_the_config(name: str) -> None:
    """Artefacts of earlier versions are found again, and Python users get the images of the command line."""
    domain = build(OmegaConf.load(CONF / f"{name}.yaml"))
    assert tuple(domain.pool(size, 3).fingerprint for size in (16, 32)) == FINGERPRINTS[name]
    assert type(domain)().pool(16, 3).fingerprint == FINGERPRINTS[name][0]
    assert set(asdict(domain)) == set(vars(domain))


COUNT = "give a whole number of 1 or more"
SIZE = "give a whole number of 0 or more or null"
REFUSED = [
    *((part, value, SIZE) for part in ("references", "validation", "heldout") for value in (-1, 2.0, True, "few")),
    *((seed, value, "give a whole number") for seed in ("split_seed", "draw") for value in (1.5, False, "a", None)),
    ("name", 5, "give text"),
]


@pytest.mark.parametrize(
    ("name", "key", "value", "remedy"),
    [
        *(("digits8", *case) for case in REFUSED),
        *(("folder", *case) for case in REFUSED),
        ("folder", "on_unreadable", "ignore", "choose one of error, skip"),
        ("folder", "path", 2024, "give text that is not empty"),
        ("hubble", "sources", 0, COUNT),
        ("hubble", "margin", 0, "give a number above 0"),
        ("hubble", "smallest", 3, "give a whole number of 4 or more"),
        ("textures", "crop", 600, "give a whole number between 8 and 512"),
        ("turbulence", "count", 0, COUNT),
        ("turbulence", "slope", -1, "give a number of 0 or more"),
        ("turbulence", "sigma", float("nan"), "give a number of 0 or more"),
        ("turbulence", "depth", 0, "give a number of 0.01 or more"),
        ("turbulence", "resolution", 7, "give a whole number of 8 or more"),
        ("turbulence", "seed", 0.5, "give a whole number"),
        ("noise", "count", True, COUNT),
        ("noise", "contrast", -1.0, "give a number of 0 or more"),
        ("parquet", "labels", 3, "give a list whose entries are each a whole number or text or null"),
        ("mnist", "labels", [1.5], "give a list whose entries are each a whole number or text or null"),
        ("mnist", "split", None, "give text that is not empty"),
        ("hub", "limit", 0, f"{COUNT} or null"),
        ("hub", "streaming", 1, "give true or false"),
    ],
)
def test_values_that_do_not_fit_are_refused(
    make: Callable[..., Domain], name: str, key: str, value: object, remedy: str
) -> None:
    with pytest.raises(InputError, match=rf"^domain\.{key}=.*: {remedy}$"):
        make(name, **{key: value})


def test_unknown_keys_and_widths_in_the_wrong_order_are_refused(make: Callable[..., Domain]) -> None:
    with pytest.raises(InputError, match=r"^domain\.refrences: nothing reads this key; did you mean references\?$"):
        make("faces", refrences=3)
    with pytest.raises(InputError, match=r"^domain.smallest=30, domain.largest=20: give smallest <= largest$"):
        make("hubble", smallest=30, largest=20)


@pytest.mark.parametrize("name", [*EMBEDDED, *LOCAL])
def test_every_field_of_a_domain_has_a_meaning(make: Callable[..., Domain], name: str) -> None:
    assert [setting.name for setting in declared(type(make(name))) if not setting.meaning] == []


def test_sizes_of_null_are_shares_of_all(make: Callable[..., Domain]) -> None:
    split = load_split(make("folder"), 8, 1)
    assert [len(t) for t in (split.references, split.validation, split.heldout)] == [10, 3, 7]


# ---------------------------------------------------------------- hubble and other embedded domains


def test_hubble_parts_share_no_pixel() -> None:
    domain = build(OmegaConf.load(CONF / "hubble.yaml"))
    pool = domain.pool(32, 3)
    for draw in range(3):
        parts = split_pool(pool, domain.references, domain.validation, domain.heldout, 0, draw)
        covered = np.zeros((3, 872, 1000), dtype=bool)
        for label, part in enumerate(parts):
            for top, left, bottom, right in pool.boxes[part]:
                assert 0 <= top < bottom <= 872
                assert 0 <= left < right <= 1000
                assert bottom - top == right - left
                covered[label, top:bottom, left:right] = True
        assert covered.sum(axis=0).max() == 1


def test_hubble_cutouts_show_a_source_in_the_middle() -> None:
    pool = Hubble().pool(32, 1)
    cutouts = pool.load(range(0, len(pool.names), 10)).double()
    assert (cutouts[..., 10:22, 10:22].mean((1, 2, 3)) > 1.5 * cutouts.mean((1, 2, 3))).float().mean() > 0.8
    with pytest.raises(InputError, match=r"domain.sources=5000: .* set domain.sources=\d+ or less"):
        Hubble(sources=5000).pool(32, 3)


def test_turbulence_is_a_function_of_the_index_and_follows_its_spectrum(make: Callable[..., Domain]) -> None:
    pool = make("turbulence").pool(32, 1)
    assert torch.equal(pool.load([3, 7])[1], pool.load([7])[0])
    roughness = []
    for slope in (4.0, 1.0):
        x = make("turbulence", slope=slope).pool(32, 1).load(range(20)).double()
        roughness.append(x.diff(dim=-1).square().mean() / x.var())
    assert 5 * roughness[0] < roughness[1]


def test_noise_is_a_function_of_the_index_with_independent_pixels(make: Callable[..., Domain]) -> None:
    pool = make("noise", contrast=0.25).pool(32, 3)
    assert torch.equal(pool.load([3, 7])[1], pool.load([7])[0])
    x = pool.load(range(40)).double()
    assert abs(x.mean() - 127.5) < 0.5
    assert abs(x.std() / (0.25 * 127.5) - 1) < 0.01
    flat = (x - x.mean()) / x.std()
    assert abs((flat[..., 1:] * flat[..., :-1]).mean()) < 0.01


def test_photographs_are_crops_of_six_pictures_that_share_no_pixel(make: Callable[..., Domain]) -> None:
    names = make("photographs", crop=100).pool(8, 3).names
    counts = Counter(name.partition("-")[0] for name in names)
    assert counts == {"astronaut": 25, "chelsea": 12, "coffee": 24, "rocket": 24, "china": 24, "flower": 24}
    assert len(set(names)) == len(names)


def test_textures_take_the_crop_from_the_config(make: Callable[..., Domain]) -> None:
    assert len(make("textures", crop=64).pool(8, 1).names) == 3 * 8 * 8


# ---------------------------------------------------------------- sizes


def test_too_many_images_asked_names_numbers_and_remedy() -> None:
    domain = Hubble(references=400, validation=70, heldout=200)
    message = (
        r"domain=hubble: 400 references requested, but (\d+) are left after 200 held-out and 70 validation "
        r"images; set domain.references=\1 or less$"
    )
    with pytest.raises(InputError, match=message):
        load_split(domain, 32, 3)
    with pytest.raises(InputError, match=r"101 held-out images requested, but 100 are left"):
        check_sizes(replace(domain, heldout=101), 100)
    with pytest.raises(InputError, match=r"70 validation images requested, but 50 are left after 200 held-out"):
        check_sizes(domain, 250)


def test_what_is_left_can_be_asked_for() -> None:
    boxes = np.array([[0, k, 10, k + 10] for k in (0, 5, 12, 30, 50, 52, 70, 90)])  # three clusters and alone
    pool = Pool(tuple("abcdefgh"), lambda _: torch.empty(0), "", boxes)
    for draw in range(20):
        with pytest.raises(InputError) as raised:
            split_pool(pool, 8, 1, 2, draw, draw)
        left = int(str(raised.value).rsplit("references=", 1)[1].split()[0])
        assert len(split_pool(pool, left, 1, 2, draw, draw)[0]) == left


@pytest.mark.parametrize("name", ["folder", "parquet", "hub"])
def test_equal_images_stay_on_one_side_of_the_split(
    make: Callable[..., Domain], folder: Path, parquet: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    images_of = {index: flat(10 * index) for index in range(ROWS)}
    before = make(name).pool(8, 1)
    for index in range(0, ROWS, 3):
        (folder / f"copy-{index}.png").write_bytes(images_of[index])
    cells = [{"bytes": images_of[index], "path": None} for index in range(0, ROWS, 3)]
    pq.write_table(pa.table({"image": cells, "label": [0] * len(cells)}), parquet / "part-2.parquet")
    assert before.repeated == 0
    assert make(name).pool(8, 1).repeated == len(cells)
    for seed in range(10):
        split = load_split(make(name, split_seed=seed, draw=seed), 8, 1)
        parts = [set(part.flatten(1)[:, 0].tolist()) for part in (split.references, split.validation, split.heldout)]
        assert sum(map(len, parts)) == len(set.union(*parts))
    assert f"{len(cells)} images appear more than once: kept on the same side of the split" in caplog.text


def test_a_digest_per_image_changes_no_split_of_different_images() -> None:
    names = tuple(f"{index}" for index in range(50))
    plain = Pool(names, lambda _: torch.empty(0), "")
    known = replace(plain, contents=tuple(f"{-index}" for index in range(50)))
    for seed in range(5):
        assert split_pool(plain, 20, 10, 15, seed, seed) == split_pool(known, 20, 10, 15, seed, seed)
        twice = replace(plain, contents=(*known.contents[:-1], "0"))  # the last is the first again
        heldout = [i for i in split_pool(twice, 20, 10, 15, seed, seed)[2] if i not in (0, 49)]
        assert heldout == [i for i in split_pool(plain, 20, 10, 16, seed, seed)[2] if i not in (0, 49)][: len(heldout)]


# ---------------------------------------------------------------- folders, Parquet, the hub


def test_folder_finds_images_and_only_images(make: Callable[..., Domain]) -> None:
    pool = make("folder").pool(8, 1)
    assert len(pool.names) == ROWS
    assert list(pool.names) == sorted(pool.names)
    assert {int(name[-6:-4]) * 10 for name in pool.names} == set(pool.load(range(ROWS))[:, 0, 0, 0].tolist())


def test_folder_may_be_relative(make: Callable[..., Domain], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder / "test")
    pools = [make("folder", path=path).pool(8, 1) for path in ("../../my [images]", str(folder))]
    assert pools[0].names == pools[1].names
    assert pools[0].fingerprint == pools[1].fingerprint


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("folder", {"path": "photos/my galaxies/"}, "my galaxies"),
        ("folder", {"path": "."}, Path.cwd().name),
        ("folder", {"path": "/"}, "folder"),
        ("folder", {"path": "photos", "name": "galaxies"}, "galaxies"),
        ("parquet", {"path": "photos/galaxies.parquet"}, "galaxies"),
        ("parquet", {"path": "photos/part-*.parquet"}, "photos"),
        ("parquet", {"path": "*", "name": "galaxies"}, "galaxies"),
        ("hub", {"id": "owner/galaxies"}, "galaxies"),
        ("hub", {"id": "owner/galaxies", "name": "spirals"}, "spirals"),
    ],
)
def test_own_images_are_called_by_where_they_are(
    make: Callable[..., Domain], name: str, given: dict[str, str], expected: str
) -> None:
    assert make(name, **given).name == expected


def test_folder_errors_name_the_path(make: Callable[..., Domain], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"domain.path={tmp_path}/none: no such folder"):
        make("folder", path=str(tmp_path / "none")).pool(8, 3)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match=rf"domain.path={empty}: the folder is empty"):
        make("folder", path=str(empty)).pool(8, 3)
    (empty / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match=rf"domain.path={empty}: no image there \(only 1 .txt\)"):
        make("folder", path=str(empty)).pool(8, 3)
    links = tmp_path / "links"
    links.mkdir()
    (links / "up").symlink_to(tmp_path)
    with pytest.raises(InputError, match=rf"domain.path={links}: no image there; give"):
        make("folder", path=str(links)).pool(8, 3)
    (links / "x.png").symlink_to(links / "nowhere.png")
    with pytest.raises(InputError, match=rf"domain.path={links}: no image there \(only 1 broken links\)"):
        make("folder", path=str(links)).pool(8, 3)


@pytest.mark.parametrize("name", ["folder", "parquet", "mnist"])
@pytest.mark.parametrize("path", ["", "  "])
def test_an_empty_path_is_not_the_current_folder(
    make: Callable[..., Domain], folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, path: str
) -> None:
    monkeypatch.chdir(folder)
    message = (
        "domain.path='  ': an empty path; write domain.path=" if path else "domain.path=: give text that is not empty"
    )
    with pytest.raises(InputError, match=message):
        make(name, path=path).pool(8, 3)


def test_folder_says_what_it_leaves_out(
    make: Callable[..., Domain], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    (folder / "notes.txt").unlink()
    (folder / ".hidden.png").unlink()
    make("folder").pool(8, 1)
    assert caplog.messages == [f"{folder}: {ROWS} images"]
    caplog.clear()
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "00.png").write_bytes(flat(0))
    (folder / "test" / "scan").write_bytes(flat(0))
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    for name in ("a.txt", "b.TXT", ".hidden.png"):
        (folder / name).write_text("no image")
    pages = [Image.new("L", (12, 10), value) for value in (7, 8)]
    pages[0].save(folder / "pages.tiff", save_all=True, append_images=pages[1:])
    pool = make("folder").pool(8, 1)
    assert pool.load([pool.names.index("pages.tiff")]).unique().tolist() == [7]
    assert caplog.messages == [
        f"{folder}: {ROWS + 1} images; left out: 2 .txt, 1 broken links, 1 hidden, 1 in folders that start with __, "
        "1 without a suffix",
        "domain=my [images]: 1 of several frames or pages, of which the first is read: pages.tiff",
    ]


def test_folder_follows_links_once_and_never_upwards(make: Callable[..., Domain], folder: Path, tmp_path: Path) -> None:
    before = make("folder").pool(8, 1)
    (folder / "0-same").symlink_to(folder / "test")
    (folder / "test" / "round").symlink_to(folder)
    (folder / "above").symlink_to(tmp_path)
    assert make("folder").pool(8, 1).fingerprint == before.fingerprint
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere" / "deep" / "x.png").write_bytes(flat(3))
    (tmp_path / "elsewhere" / "back").symlink_to(folder)
    (folder / ".hidden").symlink_to(tmp_path / "elsewhere")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "linked-again").symlink_to(tmp_path / "elsewhere" / "deep")
    assert set(make("folder").pool(8, 1).names) - set(before.names) == {"linked/deep/x.png"}


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_folder_reads_avif(make: Callable[..., Domain], tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("L", (12, 10), 200).save(tmp_path / "photos" / "x.avif")
    (image,) = make("folder", path=str(tmp_path / "photos")).pool(8, 1).load([0])
    assert image.float().mean() == pytest.approx(200, abs=2)


@pytest.mark.parametrize("name", ["folder", "parquet", "mnist", "hub"])
def test_a_source_is_read_once_while_it_is_as_it_was(
    make: Callable[..., Domain], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    kind = type(make(name))
    read = kind.pool

    def counted(self: Domain, size: int, channels: int) -> Pool:
        reads.append(size)
        return read(self, size, channels)

    monkeypatch.setattr(kind, "pool", counted)
    pools = [pool_of(make(name, draw=draw, references=draw), 8, 3) for draw in range(1, 4)]
    load_split(make(name), 8, 3)
    assert reads == [8]
    assert pools[0] is pools[1] is pools[2]
    for size in (9, 10):
        pool_of(make(name, on_unreadable="skip"), size, 3)
        assert len(base._pools) <= base.KEPT
    pool_of(make(name), 8, 3)
    assert reads == [8, 9, 10, 8]


def test_a_changed_folder_is_read_again(make: Callable[..., Domain], folder: Path) -> None:
    before = pool_of(make("folder"), 8, 3)
    (folder / "new.png").write_bytes(flat(99))
    larger = pool_of(make("folder"), 8, 3)
    assert len(larger.names) == len(before.names) + 1
    (folder / "new.png").write_bytes(flat(98))
    os.utime(folder / "new.png", ns=(0, 0))
    assert pool_of(make("folder"), 8, 3).fingerprint != larger.fingerprint


def test_unreadable_image_is_an_error_or_replaced(
    make: Callable[..., Domain], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = {"references": 10, "validation": 3, "heldout": 6}
    whole = load_split(make("folder", **sizes), 8, 3)
    broken = write_broken(folder)
    with pytest.raises(InputError, match=rf"^{broken}: not a readable image .*, or set domain.on_unreadable=skip$"):
        load_split(make("folder", references=11, validation=3, heldout=6), 8, 3)
    split = load_split(make("folder", on_unreadable="skip", **sizes), 8, 3)
    names = split.reference_names + split.validation_names + split.heldout_names
    assert split.skipped == 1
    assert len(names) == 19
    assert broken not in names
    assert "1 unreadable skipped" in caplog.text
    assert broken in caplog.text
    kept = [name for name in whole.heldout_names if name != broken]
    assert list(split.heldout_names)[: len(kept)] == kept
    with pytest.raises(InputError, match=r"11 references requested, but 10 are left"):
        load_split(make("folder", references=11, validation=3, heldout=6, on_unreadable="skip"), 8, 3)


def test_only_the_images_of_the_split_are_decoded(make: Callable[..., Domain], folder: Path) -> None:
    split = load_split(make("folder", references=2, validation=1, heldout=2), 8, 3)
    used = split.reference_names + split.validation_names + split.heldout_names
    for file in folder.rglob("*"):
        if file.is_file() and file.relative_to(folder).as_posix() not in used:
            file.write_bytes(b"broken")
    again = load_split(make("folder", references=2, validation=1, heldout=2), 8, 3)
    assert torch.equal(split.references, again.references)
    assert split.fingerprint != again.fingerprint


def test_parquet_keeps_order_and_labels(make: Callable[..., Domain], parquet: Path) -> None:
    x, labels = read_parquet(str(parquet), 8, 1)
    assert x[:, 0, 0, 0].tolist() == [10 * number for number in range(ROWS)]
    assert labels.tolist() == [number % 3 for number in range(ROWS)]
    pool = make("parquet").pool(8, 1)
    assert pool.load([13, 2, 12])[:, 0, 0, 0].tolist() == [130, 20, 120]
    twos = make("parquet", labels=[2]).pool(8, 1)
    assert twos.load(range(len(twos.names)))[:, 0, 0, 0].tolist() == [10 * n for n in range(2, ROWS, 3)]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("parquet", {"column": "img"}, "no column 'img'; set domain.column .* image, label"),
        ("parquet", {"labels": [7]}, r"no row with domain.labels=\[7\]"),
        ("parquet", {"column": "label"}, "int without image bytes"),
        ("parquet", {"path": "/nowhere/*.parquet"}, "^/nowhere/.*: no Parquet file there"),
        ("mnist", {"label": "class", "labels": [1]}, "no column 'class'"),
        ("hub", {"column": "img"}, "no column 'img'; set domain.column to one of image, label"),
        ("hub", {"labels": [7]}, r"no row of split 'train' with labels \[7\]"),
        ("hub", {"split": "other"}, "cannot be loaded .*other"),
    ],
)
def test_table_errors_name_value_and_remedy(
    make: Callable[..., Domain], name: str, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message) as raised:
        load_split(make(name, **changes), 8, 3)
    assert "\n" not in str(raised.value)


def test_broken_parquet_file_is_named(make: Callable[..., Domain], tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 is not enough")
    with pytest.raises(InputError, match=r"x.parquet: not a readable Parquet file"):
        make("parquet", path=str(tmp_path / "x.parquet")).pool(8, 3)


def test_hub_limits_and_filters_rows(make: Callable[..., Domain]) -> None:
    pool = make("hub", limit=5, labels=[0, 1]).pool(8, 1)
    assert pool.load(range(5))[:, 0, 0, 0].tolist() == [0, 10, 30, 40, 60]


def test_hub_cache_gives_what_streaming_gives(
    make: Callable[..., Domain], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    streamed = make("hub").pool(8, 1)
    cached = make("hub", streaming=False, limit=None).pool(8, 1)
    assert cached.fingerprint == streamed.fingerprint
    assert any((tmp_path / "cache").iterdir())


def test_offline_and_not_cached_is_one_clear_line(tmp_path: Path) -> None:
    code = (
        "import sys; from hydra.utils import instantiate; from omegaconf import OmegaConf\n"
        "for name in ('mnist', 'cifar10', 'hub'):\n"
        "    config = OmegaConf.load(f'{sys.argv[1]}/{name}.yaml')\n"
        "    if name == 'hub': config.id = 'nobody/nothing'\n"
        "    try: instantiate(config).pool(8, 3)\n"
        "    except ValueError as error: print(type(error).__name__, error)\n"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(CONF)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["InputError", f"{name}:"] for name in ("ylecun/mnist", "uoft-cs/cifar10", "nobody/nothing")
    ]
    assert all("cannot be loaded" in line for line in lines)
    assert all("set domain.path to local Parquet" in line for line in lines[:2])
    assert "network" in lines[2]


# ---------------------------------------------------------------- images


def test_quantise_is_the_exact_inverse_of_dequantise() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    x = images.dequantise(values)
    assert x.min() == -1
    assert x.max() == 1
    assert torch.equal(images.quantise(x), values)
    assert images.quantise(torch.tensor([-3.0, 0.0, 3.0])).tolist() == [0, 128, 255]


def test_greys_and_colours_convert_explicitly() -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert torch.equal(decode_array(grey, 8, 3), torch.from_numpy(grey).expand(3, 8, 8))
    red = np.zeros((8, 8, 3), dtype=np.uint8)
    red[..., 0] = 200
    assert decode_array(red, 8, 1).unique().tolist() == [60]  # 0.299 of 200
    sixteen = (np.arange(64).reshape(8, 8) * 1000).astype(np.uint16)
    assert decode_array(sixteen, 8, 1)[0].tolist() == np.rint(sixteen / 257).tolist()


def test_transparency_is_laid_on_black_and_palettes_resolve() -> None:
    rgba = np.full((4, 4, 4), 200, dtype=np.uint8)
    rgba[..., 3] = [0, 255, 255, 0]
    assert decode_array(rgba, 4, 3)[0].tolist() == [[0, 200, 200, 0]] * 4
    palette = Image.new("RGB", (4, 4), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert images.decode(png(palette), 4, 3)[:, 0, 0].tolist() == [10, 200, 30]


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    array = np.zeros((4, 4), dtype=np.uint8)
    array[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    path = tmp_path / "x.png"
    Image.fromarray(array).save(path, exif=exif)
    assert images.decode(path, 4, 1)[0].tolist() == [[0, 0, 0, 255]] * 4


def test_the_centred_square_is_kept() -> None:
    array = np.zeros((4, 10), dtype=np.uint8)
    array[:, 3:7] = 99
    assert decode_array(array, 4, 1).unique().tolist() == [99]
    assert decode_array(array, None, 1).shape == (1, 4, 10)


def test_resizing_is_antialiased() -> None:
    stripes = np.zeros((128, 128), dtype=np.uint8)
    stripes[:, ::2] = 255  # far above what 16 pixels can carry: only its mean may remain
    small = decode_array(stripes, 16, 1).double()[..., 2:-2]
    assert (small - 127.5).abs().max() < 3


def test_without_a_crop_the_whole_image_is_squeezed(folder: Path, make: Callable[..., Domain]) -> None:
    """Released code resizes without a crop; a split of its own, since the pixels differ."""
    array = np.zeros((4, 10), dtype=np.uint8)
    array[:, :5] = 200
    encoded = png(Image.fromarray(array))
    assert images.decode(encoded, 4, 1).unique().tolist() == [0, 200]
    squeezed = images.decode(encoded, 2, 1, crop=False)
    assert squeezed.shape == (1, 2, 2)
    assert squeezed.float().mean() == 100
    assert squeezed[0, 0, 0] > 150 > 50 > squeezed[0, 0, 1]
    cropped, whole = make("folder").pool(8, 1), make("folder", resize="stretch").pool(8, 1)
    assert cropped.fingerprint != whole.fingerprint
    assert whole.load([3]).unique().tolist() == [30]


def test_unreadable_bytes_and_unknown_ranges_are_named() -> None:
    with pytest.raises(InputError, match=r"^row 3: not a readable image"):
        images.decode(b"nothing", 8, 3, name="row 3")
    buffer = io.BytesIO()
    Image.new("F", (4, 4)).save(buffer, format="TIFF")
    with pytest.raises(InputError, match=r"^row 4: pixels of 32 bits"):
        images.decode(buffer.getvalue(), 8, 3, name="row 4")
    cards = ("SIMPLE  = T", "BITPIX  = 16", "NAXIS   = 2", "NAXIS1  = 4", "NAXIS2  = 4", "END")
    fits = "".join(card.ljust(80) for card in cards).ljust(2880).encode() + bytes(2880)
    with pytest.raises(InputError, match=r"^row 5: FITS has no range of brightness; convert it to PNG"):
        images.decode(fits, 8, 3, name="row 5")
    with pytest.raises(InputError, match=r"channels=4"):
        images.decode(flat(0), 8, 4)


@pytest.mark.parametrize("kind", [RuntimeError, EOFError])
def test_whatever_pillow_raises_is_an_unreadable_image(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*_: object) -> None:
        raise kind("Failed to decode frame 0: Truncated data")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", damaged)
    with pytest.raises(InputError, match=r"^row 6: not a readable image \(Failed to decode"):
        images.decode(flat(0), 8, 3, name="row 6")


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_a_damaged_avif_is_an_unreadable_image() -> None:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(buffer, format="AVIF")
    head, data = buffer.getvalue().split(b"mdat", 1)
    with pytest.raises(InputError, match=r"^row 7: not a readable image"):
        images.decode(head + b"mdat" + bytes(8) + data[8:], 8, 3, name="row 7")


@pytest.mark.parametrize("domain", [Digits8, Faces])
def test_redrawn_draws_share_no_image_while_the_pool_lasts(domain) -> None:
    """Digits8 has room for two draws of 700 in an order; the 100 faces for one of 100."""
    pool = domain().pool(8, 1)
    sizes = (100, 100, 500) if domain is Digits8 else (50, 15, 35)
    draws = [split_pool(pool, *sizes, 0, draw, redraw=True) for draw in range(4)]
    for parts in draws:
        assert tuple(map(len, parts)) == sizes
        assert len(set().union(*parts)) == sum(sizes)
    together = [set().union(*parts) for parts in draws]
    assert not together[0] & together[1] or domain is Faces
    assert draws[0][2] != draws[1][2]
    assert split_pool(pool, *sizes, 0, 0, redraw=True) == draws[0]
    assert split_pool(pool, *sizes, 1, 0, redraw=True) != draws[0]


def test_redrawn_draws_keep_overlapping_cutouts_together() -> None:
    pool = Hubble(sources=520).pool(32, 3)
    clusters = clusters_of(pool)
    for draw in range(3):
        parts = [set(clusters[part]) for part in split_pool(pool, 100, 70, 200, 0, draw, redraw=True)]
        assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]


def test_redrawing_too_small_a_pool_is_refused() -> None:
    with pytest.raises(InputError, match="references requested"):
        split_pool(Faces().pool(8, 1), 80, 15, 35, 0, 3, redraw=True)
    parts = split_pool(Faces().pool(8, 1), None, None, None, 0, 3, redraw=True)
    assert tuple(map(len, parts)) == (50, 15, 35)
