"""Fingerprints of pools: every field of every domain that changes pixels changes them, and no other field does."""

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from support import ROOT
from support.changes import changed_field
from unseen_diffusion.domains import Domain, hub, pool_of
from unseen_diffusion.domains.base import JUDGED, LEADS, READING, SHOWN, SPLITS, SPLITTING
from unseen_diffusion.utils.configs import build
from unseen_diffusion.utils.digests import digest
from unseen_diffusion.utils.identity import marks_of

CONF = ROOT / "conf" / "domain"
NAMES = sorted(file.stem for file in CONF.glob("*.yaml") if "_target_" in OmegaConf.load(file))  # one option a class
SMALL = {
    "hubble": {"sources": 400, "largest": 40},
    "turbulence": {"count": 20},
    "radiation": {"count": 20},
    "noise": {"count": 20},
}


def png(value: int) -> bytes:
    """A grey gradient from ``value`` on."""
    pixels = (value + np.arange(120, dtype=np.uint8) // 2).reshape(10, 12)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of images, and two Parquet files with two columns of images and two of classes."""
    root = tmp_path_factory.mktemp("domains")
    for place, start in (("one", 0), ("two", 3)):
        (root / place).mkdir()
        for index in range(8):
            (root / place / f"{index}.png").write_bytes(png(start + 10 * index))
        columns = {name: [{"bytes": png(shift + start + 10 * i)} for i in range(8)] for name, shift in IMAGES.items()}
        classes = {name: [index % count for index in range(8)] for name, count in CLASSES.items()}
        pq.write_table(pa.table(columns | classes), root / f"{place}.parquet")
    return root


IMAGES = {"image": 0, "img": 40, "second": 90}  # column -> its first grey level
CLASSES = {"label": 2, "group": 3}  # column -> number of classes


class Rows:
    """A data set of the hub: its images depend on all that chooses them, and not on how they are fetched."""

    features = None
    column_names = (*IMAGES, *CLASSES)

    def __init__(self, *chosen: object):
        self.start = int(digest(repr(chosen))[:2], 16) % 50

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for index in range(8):
            images = {name: png(self.start + shift + 5 * index) for name, shift in IMAGES.items()}
            yield images | {name: index % count for name, count in CLASSES.items()}


def given(name: str, root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a config needs here, and of each field that leads to images another value, which leads to others."""
    files = {"path": str(root / "one.parquet"), "labels": [0]}
    others = {"path": str(root / "two.parquet"), "column": "second", "label": "group", "labels": [1], "range": [0, 200]}
    by_name = {"range": [0, 200]}
    remote = {"split": "other", "revision": "other", "label": "group", "labels": [1], **by_name}
    return {
        "folder": (
            {"path": str(root / "one")},
            {"path": str(root / "two"), "include": "[0-5]*", "exclude": "7*"} | by_name,
        ),
        "parquet": (files, others),
        "mnist": (files, others),
        "cifar10": ({"labels": [0]}, {"hub": "other/data", "hub_column": "second", "path": files["path"]} | remote),
        "hub": (
            {"id": "some/data", "labels": [0]},
            {"id": "other/data", "config": "other", "column": "second", "limit": 3} | remote,
        ),
    }.get(name, (SMALL.get(name, {}), {}))


def make(name: str, root: Path) -> Domain:
    return build(OmegaConf.merge(OmegaConf.load(CONF / f"{name}.yaml"), given(name, root)[0]), "domain")


def variants(name: str, domain: Domain, root: Path) -> Mapping[str, Domain]:
    """The domain with one field changed, by the field."""
    table, found = given(name, root)[1], {}
    for field, marks in marks_of(type(domain)).items():
        if field in table:
            found[field] = build(_config(name, root, **{field: table[field]}), "domain")
        elif LEADS not in marks:
            found |= dict(changed_field(domain, field))
    return found


def _config(name: str, root: Path, **changes: object) -> Any:
    return OmegaConf.merge(OmegaConf.load(CONF / f"{name}.yaml"), given(name, root)[0], changes)


@pytest.fixture(autouse=True)
def remote(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub answers."""

    def opened(path: str, remedy: str, *, name: str | None, split: str, revision: str | None, streaming: bool) -> Rows:
        return Rows(path, name, split, revision)

    monkeypatch.setattr(hub, "open_dataset", opened)


@pytest.mark.parametrize("name", NAMES)
def test_fields_that_change_pixels_change_the_fingerprint(name: str, root: Path) -> None:
    """And the others change neither. The pool is taken from memory only where it is the same."""
    domain = make(name, root)
    pool = pool_of(domain, 8, 1)
    pixels = pool.load(range(len(pool.names)))
    seen = {pool.fingerprint}
    for size, channels in ((8, 3), (9, 1)):
        other = pool_of(domain, size, channels)
        assert other.load([0]).shape == (1, channels, size, size)
        assert other.fingerprint not in seen
        seen.add(other.fingerprint)
    for field, changed in variants(name, domain, root).items():
        pool_of(domain, 8, 1)
        other = pool_of(changed, 8, 1)
        if {SHOWN, READING, SPLITS, JUDGED} & set(marks_of(type(domain))[field]):
            assert other.fingerprint == pool.fingerprint, f"{field} changes no pixel"
            assert torch.equal(other.load(range(len(other.names))), pixels), (
                f"{field} changes pixels: mark it otherwise"
            )
        else:
            assert other.fingerprint not in seen, f"{field} changes pixels, but not the fingerprint"
            seen.add(other.fingerprint)


def test_every_field_of_every_domain_is_changed_above(root: Path) -> None:
    """A new field that leads to images needs another value in ``given``; a new class needs a config."""
    changed: dict[type[Domain], set[str]] = {}
    for name in NAMES:
        domain = make(name, root)
        changed.setdefault(type(domain), set()).update(variants(name, domain, root))
    for kind, fields in changed.items():
        missing = marks_of(kind).keys() - fields
        assert not missing, f"say in given() which other value of {kind.__name__}'s {missing} leads to other images"
    waiting, kinds = [Domain], set[type[Domain]]()
    while waiting:
        below = waiting.pop().__subclasses__()
        waiting += below
        kinds |= {kind for kind in below if kind.__module__.startswith("unseen_diffusion.")}
    concrete = {kind for kind in kinds if not kind.__abstractmethods__}
    assert concrete <= changed.keys(), "a domain without a config in conf/domain"


def test_the_fields_of_a_split_are_those_marked_so() -> None:
    assert set(SPLITTING) == {"references", "validation", "heldout", "split_seed", "draw", "redraw_heldout"}
