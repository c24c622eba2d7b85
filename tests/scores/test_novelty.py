"""Novelty beyond one threshold: real images score 1 and the quantile, copies 0 and all, turned and shifted ones too."""

import math

import pandas as pd
import pytest
import torch
from torch import Tensor

from unseen_diffusion.reports.tables import NARROW, ROOM, narrowed, width
from unseen_diffusion.scores.metrics import METRICS
from unseen_diffusion.scores.novelty import novelty_ratio, patch_copy_rate, patches, symmetric_copy_rate
from unseen_diffusion.scores.suite import DomainViews, ScoreSettings, Views, held_out_row, score_row
from unseen_diffusion.scores.symmetric import as_images

COUNT, SIDE = 100, 32


def images(count: int, seed: int) -> Tensor:
    """Smooth random images, flattened."""
    noise = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, size=SIDE, mode="bilinear").flatten(1)


R, H, NEW = images(COUNT, 0), images(COUNT, 1), images(COUNT, 2)
TURNED = as_images(R).rot90(1, (2, 3)).flatten(1)
ROLLED = as_images(R).roll((4, 6), dims=(2, 3)).flatten(1)


def test_distances_to_the_references_over_those_of_held_out_images() -> None:
    assert novelty_ratio(R, R, H) == 0
    assert novelty_ratio(H, R, H) == 1
    assert novelty_ratio(NEW, R, H) == pytest.approx(1, abs=0.05)
    assert novelty_ratio(R + 0.1 * (NEW - R), R, H) < 0.2
    assert math.isnan(novelty_ratio(NEW, R, R))


def test_turned_copies_are_copies_where_the_domain_has_that_symmetry() -> None:
    for symmetries in ("none", "mirror"):
        assert symmetric_copy_rate(TURNED, R, H, symmetries, 0.05).p_value > 0.001
    found = symmetric_copy_rate(TURNED, R, H, "all", 0.05)
    assert found.share == 1
    assert found.expected == pytest.approx(0.05, abs=0.01)
    assert symmetric_copy_rate(NEW, R, H, "all", 0.05).p_value > 0.001


@pytest.mark.parametrize("where", ["in_place", "shifted"])
def test_new_images_have_as_many_copied_patches_as_the_quantile(where: str) -> None:
    assert patch_copy_rate(H, R, H, where, 0.1) == pytest.approx(0.1, abs=0.01)
    assert patch_copy_rate(NEW, R, H, where, 0.1) == pytest.approx(0.1, abs=0.06)
    assert patch_copy_rate(R, R, H, where, 0.1) == 1


def test_a_collage_of_references_has_no_copies_and_only_copied_patches() -> None:
    """Left half of one, right half of another: far from each reference, and most of its patches are copies."""
    first, second = as_images(R), as_images(R.roll(1, 0))
    collage = torch.cat([first[..., :16], second[..., 16:]], dim=3).flatten(1)
    assert novelty_ratio(collage, R, H) > 0.6
    assert patch_copy_rate(collage, R, H, "in_place", 0.01) >= 2 / 3  # 6 of 9 patches lie within one half
    assert patch_copy_rate(collage, R, H, "shifted", 0.01) == 1


def test_shifted_copies_are_found_only_when_they_are_looked_for() -> None:
    assert patch_copy_rate(ROLLED, R, H, "in_place", 0.01) < 0.1
    assert patch_copy_rate(ROLLED, R, H, "shifted", 0.01) >= 0.25  # one corner of 4 has no seam


def test_patches_of_larger_images_are_half_as_wide_as_the_image() -> None:
    large = torch.nn.functional.interpolate(as_images(R[:3]), scale_factor=2, mode="nearest").flatten(1)
    torch.testing.assert_close(patches(large, 8), patches(R[:3], 8))
    assert patches(R[:3], 8).shape == (9, 3, 3 * 16 * 16)


SETTINGS = ScoreSettings(
    target="heldout",
    rows=[],
    copy_quantile=0.05,
    reconstructions=0,
    permutations=0,
    membership=False,
    neighbours=5,
    shifted_patches=True,
    paths=0,
    geometry=0,
    latents=0,
)


def test_the_suite_has_them_and_real_images_score_as_new() -> None:
    """Every row; the row of real images takes H, whose ratio is 1."""
    views = {name: Views(x[:, :20], x) for name, x in (("r", R), ("h", H), ("turned", TURNED))}
    domain = DomainViews(views["r"], views["h"], None, "all")
    row = score_row("generated", views["turned"], domain, SETTINGS)
    assert row["symmetric_copies"] == 1
    assert row["symmetric_copies_p"] < 1e-6
    assert row["copy_rate"] < 0.2
    real = held_out_row(domain, COUNT, SETTINGS)
    assert real["novelty"] == real["feature_novelty"] == 1
    assert real["patch_copies"] == pytest.approx(0.05, abs=0.01)
    assert real["symmetric_copies"] == pytest.approx(0.05, abs=0.01)
    assert {"novelty", "feature_novelty", "patch_copies", "shifted_patch_copies", "symmetric_copies"} <= METRICS.keys()


def test_a_domain_without_symmetries_has_no_turned_copies() -> None:
    views = Views(R[:, :20], R)
    row = score_row("generated", views, DomainViews(views, Views(H[:, :20], H)), SETTINGS)
    assert "symmetric_copies" not in row


def test_a_terminal_shows_the_ratio_only_where_there_is_room() -> None:
    """The other columns are those of a table without it."""
    names = {"images": ["a"], **{METRICS[name].title: ["1.00"] for name in METRICS if METRICS[name].in_tables}}
    text = pd.DataFrame(names)
    without = text.drop(columns=METRICS[ROOM].title)
    for columns in range(10, 200, 23):
        shown = narrowed(text, columns)
        assert list(shown.drop(columns=METRICS[ROOM].title, errors="ignore")) == list(narrowed(without, columns))
        assert width(shown) <= max(columns, width(narrowed(without, columns)))
    assert ROOM not in NARROW
    assert NARROW.index("fid_floor") < NARROW.index("fid_h")  # no floor without its FID
    assert list(narrowed(text, 500)) == list(text)
