"""Work-precision: counts and errors that can be known beforehand, on the analytic model."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from unseen_diffusion.models.analytic import natural_gaussian
from unseen_diffusion.solvers.work_precision import Pair, all_pairs, fresh_latents, solvers_figure, solvers_table
from unseen_diffusion.utils.errors import InputError

FEW = (
    Pair("ddim", "uniform_t"),
    Pair("dpmpp_2m", "karras"),
    Pair("dpmpp_2m", "karras", "half"),
    Pair("heun", "karras"),
)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    model = natural_gaussian(4, 1, 0.5, 1.0)
    images = 0.5 * torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return solvers_table(model, images, 500.0, (8, 32), FEW)


def test_a_row_for_every_pair_and_budget(table: pd.DataFrame) -> None:
    """With the evaluations that were spent; Heun's are one below an even budget."""
    assert len(table) == 8
    assert [row.up for row in table.itertuples() if row.solver == "dpmpp_2m"] == [8, 8, 32, 32]
    assert [(row.up, row.down) for row in table.itertuples() if row.solver == "heun"] == [(7, 7), (31, 31)]


def test_errors_fall_with_the_budget_and_the_order(table: pd.DataFrame) -> None:
    """DDIM's latents by about the factor 4 of the budgets, DPM-Solver++'s by more; half a clean end keeps more."""
    values = table.set_index(["solver", "clean_end", "steps"]).sort_index()
    ddim, second, half = (values.loc[key] for key in (("ddim", "full"), ("dpmpp_2m", "full"), ("dpmpp_2m", "half")))
    assert 2 < ddim["latent_rms"][8] / ddim["latent_rms"][32] < 6
    assert second["latent_rms"][8] / second["latent_rms"][32] > 8
    assert second["pair_psnr"][32] > second["pair_psnr"][8] > ddim["pair_psnr"][8]
    assert half["fresh_rms"][32] < second["fresh_rms"][32]


def test_the_figure_is_drawn(table: pd.DataFrame, tmp_path: Path) -> None:
    """Both formats; every pair in the legend."""
    solvers_figure(table, tmp_path / "a.svg")
    solvers_figure(table, tmp_path / "a.png")
    assert (tmp_path / "a.svg").read_text(encoding="utf-8").count("<svg") == 1
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match=r"ends in \.svg or \.png"):
        solvers_figure(table, tmp_path / "a.pdf")


def test_fresh_latents_have_the_moments_of_the_references() -> None:
    """Mean and covariance in the span, each draw from its own stream."""
    latents = torch.randn(400, 1, 2, 2, generator=torch.Generator().manual_seed(1)) * 2 + 1
    fresh = fresh_latents(latents, seed=3)
    assert float((fresh.mean(0) - latents.mean(0)).abs().max()) < 0.5
    assert float(fresh.std() / latents.std()) == pytest.approx(1, abs=0.1)
    assert not torch.equal(fresh, fresh_latents(latents, seed=4))


def test_refusals_come_before_any_evaluation() -> None:
    model = natural_gaussian(4, 1, 0.5, 1.0)
    with pytest.raises(InputError, match="1 images: give 2 or more"):
        solvers_table(model, torch.zeros(1, 1, 4, 4), 500.0, (8,))
    with pytest.raises(InputError, match=r"solver\.steps=4: give 8 or more to ddim_implicit"):
        solvers_table(model, torch.zeros(2, 1, 4, 4), 500.0, (4,), all_pairs()[:3])
    assert model.evaluations == 0
