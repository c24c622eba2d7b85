"""What draws have in common, and what an interval over them is for."""

import numpy as np
import pandas as pd
import pytest

from unseen_diffusion.reports.comparison import compare
from unseen_diffusion.reports.populations import SplitNames, overlap_of, split_names, stored_names
from unseen_diffusion.scores.intervals import crossed_interval, inflation, t_interval
from unseen_diffusion.utils.errors import InputError


def names(references: range, heldout: range) -> SplitNames:
    return SplitNames(*(frozenset(map(str, part)) for part in (references, (), heldout)))


def test_the_overlap_is_the_mean_over_pairs_of_draws() -> None:
    same = [names(range(start, start + 10), range(90, 100)) for start in (0, 5, 10)]
    found = overlap_of(same, "heldout")
    assert (found.references, found.target) == (pytest.approx((0.5 + 0 + 0.5) / 3), 1.0)
    assert found.correlation == found.references
    assert "held-out" in found.population
    fresh = [names(range(10), range(50 + start, 60 + start)) for start in (0, 2)]
    assert overlap_of([names(range(5, 15), range(70, 80)), fresh[0]], "heldout").correlation == pytest.approx(0.5)
    assert overlap_of([names(range(5, 15), range(52, 62)), fresh[0]], "heldout").population == "the domain"


def test_the_same_images_in_all_draws_have_no_interval_for_the_domain() -> None:
    found = overlap_of([names(range(10), range(90, 100))] * 3, "heldout")
    assert (found.correlation, found.population) == (0.0, "these images")
    assert overlap_of([names(range(10), range(90, 100)), None], "heldout").population == "this pool"


def test_a_correlated_mean_has_the_interval_of_nadeau_and_bengio() -> None:
    values = [1.0, 2.0, 4.0, 4.5]
    plain, wide = t_interval(values), t_interval(values, correlation=0.5)
    assert wide.standard_error == pytest.approx(np.std(values, ddof=1) * np.sqrt(1 / 4 + 0.5 / 0.5))
    assert (wide.high - wide.low) / (plain.high - plain.low) == pytest.approx(np.sqrt(inflation(4, 0.5)))
    assert crossed_interval([[value] for value in values], correlation=0.5) == wide
    with pytest.raises(InputError, match="correlation=1"):
        t_interval(values, correlation=1.0)


@pytest.mark.parametrize("overlap", [0.77, 0.38, 0.33, 0.2, 0.08])
@pytest.mark.parametrize("variances", [(1.0, 0.0, 0.0), (1.0, 0.0, 1.0), (1.0, 1.0, 1.0)])
def test_the_corrected_interval_covers_the_mean_of_the_domain(overlap: float, variances) -> None:
    """Of draws, seeds and the rest, for 5 draws that share images as those of the bundled domains do, and 3 seeds."""
    rng, draws, seeds, hits, count = np.random.default_rng(0), 5, 3, 0, 1500
    of_draws, of_seeds, rest = np.sqrt(variances)
    for _ in range(count):
        common, own = np.sqrt(overlap) * rng.normal(size=(1, seeds + 1)), rng.normal(size=(draws, seeds + 1))
        effects = common + np.sqrt(1 - overlap) * own
        table = of_draws * effects[:, :1] + of_seeds * rng.normal(size=(1, seeds)) + rest * effects[:, 1:]
        found = crossed_interval(table.tolist(), correlation=overlap)
        hits += found.low <= 0 <= found.high
    assert 0.93 <= hits / count <= 0.985


def test_a_comparison_says_what_its_intervals_are_for() -> None:
    rng = np.random.default_rng(0)
    lines = [
        {
            **dict.fromkeys(("domain", "model", "solver", "features", "tolerances", "prior"), "x"),
            **{"row": "generated", "method": "full", "target": "heldout", "t": 500.0, "eta": 0.0, "n": 10, "run": "r"},
            **{"draw": draw, "seed": seed, "kid_h": 3.0 * draw + rng.normal()},
            "split": names(range(5 * draw, 5 * draw + 10), range(90, 100)),
        }
        for draw in range(3)
        for seed in range(2)
    ]
    table = pd.DataFrame(lines)
    found, unknown = compare(table).iloc[0], compare(table.assign(split=None)).iloc[0]
    assert found["overlap"] == pytest.approx(1 / 3)
    assert found["population"] == "the domain, for these held-out images"
    assert found["kid_h_high"] - found["kid_h_low"] > unknown["kid_h_high"] - unknown["kid_h_low"]
    assert np.isnan(unknown["overlap"])
    assert unknown["population"] == "this pool"


def test_names_are_read_from_results_or_from_the_artefact_of_the_split(tmp_path) -> None:
    facts = {"names": {"reference": ["a", "b"], "validation": [], "heldout": ["c"]}}
    (tmp_path / "artefact.json").write_text(pd.Series({"facts": facts}).to_json())
    stored = stored_names([{"stage": "invert", "folder": "nowhere"}, {"stage": "split", "folder": str(tmp_path)}])
    assert stored == split_names(facts["names"])
    assert len(SplitNames.of(stored).references) == 2
    assert stored_names([{"stage": "split", "folder": str(tmp_path / "gone")}]) is None
