"""Methods over draws and seeds: means, intervals and tests against hand-made tables."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from unseen_diffusion.reports.comparison import compact, compare, is_comparison, replicates, write_comparison
from unseen_diffusion.scores.intervals import crossed_interval
from unseen_diffusion.utils.errors import InputError

SETTING = {
    "domain": "made",
    "model": "m",
    "t": 500.0,
    "solver": "s",
    "eta": 0.0,
    "features": "f",
    "target": "heldout",
    "row": "generated",
    "n": 100,
    "run": "r",
}
DRAWS, SEEDS = range(5), range(3)


def table(**methods: np.ndarray) -> pd.DataFrame:
    """A table of kid_h (draws, seeds) by method; every method of its own prior."""
    lines = [
        {**SETTING, "method": name, "prior": f"p-{name}", "tolerances": "none", "draw": d, "seed": s, "kid_h": v[d, s]}
        for name, v in methods.items()
        for d in range(v.shape[0])
        for s in range(v.shape[1])
    ]
    return pd.DataFrame(lines)


def values(seed: int, shift: float) -> np.ndarray:
    return shift + np.random.default_rng(seed).normal(size=(len(DRAWS), len(SEEDS)))


def line(frame: pd.DataFrame, method: str) -> pd.Series:
    return frame[frame["method"] == method].iloc[0]


def test_means_carry_the_crossed_interval() -> None:
    full = values(0, 3.0)
    found = line(compare(table(full=full, fitted=values(1, 3.0))), "full")
    want = crossed_interval(full.tolist())
    np.testing.assert_allclose([found.kid_h, found.kid_h_low, found.kid_h_high], [want.mean, want.low, want.high])
    assert (found.draws, found.seeds, found.n) == (5, 3, 100)


def test_one_seed_gives_students_interval_over_draws() -> None:
    full = values(0, 3.0)[:, :1]
    found = line(compare(table(full=full)), "full")
    low, high = stats.t.interval(0.95, 4, full.mean(), stats.sem(full[:, 0]))
    np.testing.assert_allclose([found.kid_h_low, found.kid_h_high], [low, high])


def test_differences_are_paired_and_corrected() -> None:
    made = {"fitted": values(0, 3.0), "full": values(1, 3.5), "slerp": values(2, 1.0), "replay": values(3, 0.0)}
    frame = compare(table(**made))
    raw = {
        name: crossed_interval((made[name] - made["fitted"]).tolist()).p_value for name in ("full", "slerp", "replay")
    }
    order = sorted(raw, key=lambda name: raw[name])
    adjusted = np.maximum.accumulate([min(1, (3 - i) * raw[name]) for i, name in enumerate(order)])
    for name, p in zip(order, adjusted, strict=True):
        found = line(frame, name)
        assert found.kid_h_p == pytest.approx(p)
        assert found.kid_h_difference == pytest.approx((made[name] - made["fitted"]).mean())
        assert found.kid_h_difference_low < found.kid_h_difference < found.kid_h_difference_high
    assert np.isnan(line(frame, "fitted").kid_h_p)


def test_equal_points_keep_the_interval_of_a_run() -> None:
    """No copies in any of 15 runs is no proof that there are none."""
    made = table(full=values(0, 3.0))
    frame = compare(made.assign(copy_rate=0.0, copy_rate_low=0.0, copy_rate_high=0.04, copy_rate_p=1.0))
    assert (frame.copy_rate[0], frame.copy_rate_low[0], frame.copy_rate_high[0]) == (0, 0, pytest.approx(0.04))
    assert frame.copies_p[0] == 1
    assert np.isnan(compare(made.assign(copy_rate=0.01))["copy_rate_high"][0])


def test_copies_are_tested_over_all_points() -> None:
    made = table(full=values(0, 3.0)).assign(copy_rate=0.5, copy_rate_p=np.linspace(0.001, 0.015, 15))
    assert compare(made)["copies_p"][0] == pytest.approx(0.016)


def test_a_method_blind_to_the_references_varies_with_the_seed() -> None:
    """Its draws are equal: an interval over them would have no width."""
    by_seed = np.array([1.0, 2.0, 4.0])
    frame = compare(table(base_samples=np.tile(by_seed, (5, 1)), fitted=values(0, 3.0)))
    found = line(frame, "base_samples")
    low, high = stats.t.interval(0.95, 2, by_seed.mean(), stats.sem(by_seed))
    np.testing.assert_allclose([found.kid_h_low, found.kid_h_high], [low, high])


def test_one_draw_and_one_seed_have_no_interval() -> None:
    one = table(full=values(0, 3.0)[:1, :1], fitted=values(1, 3.0)[:1, :1])
    assert not is_comparison(one)
    assert is_comparison(table(full=values(0, 1.0)))
    found = line(compare(one), "full")
    assert np.isnan(found.kid_h_low)
    assert "kid_h_p" not in found
    assert "±" not in compact(compare(one))["KID-H x1000"].iloc[0]


def test_a_failed_point_leaves_its_pair_out() -> None:
    made = table(full=values(0, 3.0), fitted=values(1, 3.0))
    made = made[~((made["method"] == "full") & (made["draw"] == 4))]
    found = line(compare(made), "full")
    pairs = values(0, 3.0)[:4] - values(1, 3.0)[:4]
    assert found.kid_h_difference == pytest.approx(pairs.mean())


def test_searched_steps_belong_together() -> None:
    """A search finds another eta for every draw: still one line a method, with the mean eta, and paired."""
    made = table(full=values(0, 3.0), fitted=values(1, 3.0))
    found = compare(made.assign(eta=0.1 * (1 + made["draw"]), searched_eta=True, searched_t=False))
    assert len(found) == 2
    assert line(found, "full").eta == pytest.approx(0.3)
    assert line(found, "full").kid_h_difference == pytest.approx((values(0, 3.0) - values(1, 3.0)).mean())


def test_points_that_nothing_tells_apart_are_refused() -> None:
    made = table(full=values(0, 3.0))
    with pytest.raises(InputError, match="several runs of one draw and seed"):
        compare(pd.concat([made, made]))
    assert len(compare(pd.concat([made.assign(samples=100), made.assign(samples=200)]))) == 2


def test_a_missing_seed_leaves_the_common_points() -> None:
    made = table(full=values(0, 3.0), fitted=values(1, 3.0))
    made = made[~((made["method"] == "full") & (made["seed"] == 2))]
    found = line(compare(made), "full")
    assert found.kid_h_difference == pytest.approx((values(0, 3.0) - values(1, 3.0))[:, :2].mean())
    assert (found.draws, found.seeds) == (5, 2)


def test_the_reference_is_named() -> None:
    frame = compare(table(full=values(0, 3.0), slerp=values(1, 3.0)), "slerp")
    assert "against slerp" in compact(frame, "slerp")


def test_settings_stay_apart() -> None:
    both = pd.concat([table(full=values(0, 3.0)), table(full=values(1, 9.0)).assign(eta=0.5)])
    assert len(compare(both)) == 2


def test_methods_are_paired_with_the_reference_of_their_prior() -> None:
    made = pd.concat(
        [
            table(full=values(0, 3.0), fitted=values(1, 3.0)).assign(prior="wide"),
            table(full=values(2, 8.0), fitted=values(3, 8.0)).assign(prior="thin"),
        ]
    )
    frame = compare(made)
    thin = frame[(frame["prior"] == "thin") & (frame["method"] == "full")].iloc[0]
    assert thin.kid_h_difference == pytest.approx((values(2, 8.0) - values(3, 8.0)).mean())


def test_empty_tables_and_unknown_suffixes_are_refused(tmp_path) -> None:
    made = table(full=values(0, 3.0), fitted=values(1, 3.0))
    with pytest.raises(InputError, match="no generated images"):
        compare(made.assign(row="held_out"))
    with pytest.raises(InputError, match="unknown suffix"):
        write_comparison(compare(made), tmp_path / "table.xls")
    for suffix in ("md", "tex"):
        write_comparison(compare(made), tmp_path / f"table.{suffix}")
        text = (tmp_path / f"table.{suffix}").read_text()
        assert "full" in text
        assert "this pool" in text
        assert "f features" in text


def test_draws_with_a_missing_point_are_left_out() -> None:
    made = table(full=values(0, 1.0))
    assert replicates(made.assign(kid_h=np.nan), "kid_h").empty
    assert len(replicates(made[~((made["draw"] == 2) & (made["seed"] == 1))], "kid_h")) == 4


def test_intervals_of_shares_stay_within_their_range() -> None:
    rng = np.random.default_rng(0)
    made = table(full=values(0, 3.0)).assign(recall=np.clip(rng.normal(0.5, 0.5, 15), 0, 1), coverage=0.0)
    made.loc[made["draw"] == 0, "coverage"] = 0.01
    found = compare(made).iloc[0]
    for name in ("recall", "coverage"):
        assert 0 <= found[f"{name}_low"] < found[name] < found[f"{name}_high"] <= 1
    assert "% (" in compact(compare(made), scores=["recall"])["rec"].iloc[0]


def test_a_fid_of_another_number_of_images_is_marked() -> None:
    made = table(full=values(0, 3.0), fitted=values(1, 3.0), slerp=values(2, 3.0)).assign(fid_h=5.0)
    made.loc[made["method"] == "slerp", "n"] = 50
    text = compact(compare(made), scores=["kid_h", "fid_h"])
    marked = text["FID-H"].str.endswith("*")
    assert list(text["method"][marked]) == ["slerp"]
