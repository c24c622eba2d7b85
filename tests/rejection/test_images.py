"""Selection by images: thresholds from the references alone, decisions that see no other image, honest counts."""

import pytest
import torch
from torch import Tensor, nn

from unseen_diffusion.domains.symmetries import under_symmetries
from unseen_diffusion.models.analytic import natural_gaussian
from unseen_diffusion.models.blocks import block_features, readable_blocks
from unseen_diffusion.rejection.images.base import ImageSelection, ImageTask, NoSelection, Seen
from unseen_diffusion.rejection.images.control import RandomImages
from unseen_diffusion.rejection.images.copies import CopyRejection
from unseen_diffusion.rejection.images.features import FeatureSelection, odds_bound
from unseen_diffusion.rejection.images.herding import Herding, herded, kernel
from unseen_diffusion.scores.symmetric import as_images, left_out_distances, nearest_under
from unseen_diffusion.utils.errors import InputError

SIDE, D = 4, 48


def pixels(count: int, seed: int) -> Tensor:
    return torch.randn(count, D, generator=torch.Generator().manual_seed(seed))


def seen(count: int, seed: int, shift: float = 0.0) -> Seen:
    features = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed + 100)) + shift
    return Seen(pixels(count, seed), features, torch.arange(count))


REFERENCES = seen(80, 0)
COPIES = CopyRejection(quantile=0.05)
ODDS = FeatureSelection(rule="odds", acceptance=0.3, before=None)
NEAREST = FeatureSelection(rule="nearest", acceptance=0.3, before=None)
HERDING = Herding(acceptance=0.5, before=None)


def turned(flat: Tensor) -> Tensor:
    return as_images(flat).rot90(1, (2, 3)).flip(3).flatten(1)


def test_symmetries_are_the_eight_of_a_square() -> None:
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    for symmetries, count in (("none", 1), ("mirror", 2), ("all", 8)):
        sets = [one.flatten().tolist() for one in under_symmetries(image, symmetries)]
        assert len({tuple(one) for one in sets}) == count
    assert torch.equal(list(under_symmetries(image, "mirror"))[1], image.flip(3))


def test_distances_over_symmetries() -> None:
    """Those to all turned references; leaving one out, its own turned copies do not count."""
    r, x = pixels(20, 1), pixels(7, 2)
    every = torch.cat([one.flatten(1) for one in under_symmetries(as_images(r), "all")])
    torch.testing.assert_close(nearest_under(x, r, "all"), torch.cdist(x.double(), every.double()).amin(1))
    assert float(nearest_under(turned(r), r, "all").max()) < 1e-5
    assert float(nearest_under(turned(r), r, "none").min()) > 1
    expected = [float(nearest_under(r[i : i + 1], torch.cat([r[:i], r[i + 1 :]]), "all")) for i in range(20)]
    torch.testing.assert_close(left_out_distances(r, "all"), torch.tensor(expected, dtype=torch.float64))
    with pytest.raises(InputError, match="pixels: 10 values an image"):
        nearest_under(torch.zeros(2, 10), torch.zeros(2, 10), "mirror")


def test_near_copies_are_dropped_over_the_domains_symmetries() -> None:
    """Copies with little noise are dropped, turned ones too where the domain has that symmetry; new images stay."""
    noise = 0.01 * pixels(10, 3)
    candidates = torch.cat([REFERENCES.pixels[:10] + noise, turned(REFERENCES.pixels[:10]) + noise, pixels(30, 4)])
    whole = Seen(candidates, None, torch.arange(50))
    for symmetries, dropped in (("none", 10), ("all", 20)):
        choice = COPIES.choose(whole, REFERENCES, ImageTask(50, 0, symmetries))
        assert set(range(dropped)).isdisjoint(choice.kept.tolist())
        assert len(choice.kept) >= 0.8 * (50 - dropped)
        assert choice.facts["near_copies"] == pytest.approx(1 - len(choice.kept) / 50)


def test_five_per_cent_of_new_images_are_near_copies() -> None:
    """What the quantile means: as many of the domain's own new images fall below the threshold."""
    r = Seen(pixels(1000, 5), None, torch.arange(1000))
    new = Seen(pixels(1000, 6), None, torch.arange(1000))
    assert COPIES.choose(new, r, ImageTask(10, 0, "none")).facts["near_copies"] == pytest.approx(0.05, abs=0.03)


@pytest.mark.parametrize("selection", [COPIES, ODDS, NEAREST], ids=lambda one: one.name)
def test_later_candidates_change_no_decision(selection: ImageSelection) -> None:
    task = ImageTask(30, 3, "all")
    every = seen(300, 7, shift=0.5)
    first = every.at(torch.arange(150))
    whole = selection.choose(every, REFERENCES, task).kept
    assert len(whole) > 0
    assert selection.choose(first, REFERENCES, task).kept.tolist() == whole[whole < 150].tolist()


@pytest.mark.parametrize("selection", [ODDS, NEAREST], ids=lambda one: one.rule)
def test_no_image_is_judged_by_a_rule_that_has_seen_it(selection: FeatureSelection) -> None:
    """Another image in the place of one candidate changes no decision about others of its half."""
    task, every = ImageTask(18, 3, "none"), seen(60, 8, shift=0.5)
    assert every.features is not None
    before = set(selection.choose(every, REFERENCES, task).kept.tolist())
    features = every.features.clone()
    features[10] += 5
    after = set(selection.choose(every._replace(features=features), REFERENCES, task).kept.tolist())
    even = set(range(0, 60, 2)) - {10}
    assert before & even == after & even


@pytest.mark.parametrize("selection", [ODDS, NEAREST, HERDING], ids=str)
def test_selection_in_features_moves_towards_the_references(selection: ImageSelection) -> None:
    """Candidates around 0.6 with references around 0: those kept are nearer to 0 than all, and than the control."""
    every = seen(1200, 9, shift=0.6)
    assert every.features is not None
    task = ImageTask(300, 1, "none")
    control = RandomImages(match=selection)
    kept = selection.choose(every, REFERENCES, task).kept
    drawn = control.choose(every, REFERENCES, task).kept
    mean, random = (float(every.features[rows].mean()) for rows in (kept, drawn))
    assert mean < 0.45
    assert random == pytest.approx(0.6, abs=0.1)
    assert len(drawn) == min(len(kept), 300)
    assert control.needs_features


def test_acceptance_is_about_what_was_asked_for() -> None:
    for selection in (ODDS, NEAREST):
        kept = selection.choose(seen(1000, 11, shift=0.3), REFERENCES, ImageTask(300, 1, "none")).kept
        assert len(kept) / 1000 == pytest.approx(0.3, abs=0.1)


def test_odds_bound() -> None:
    odds = torch.linspace(-3, 4, 50, dtype=torch.float64)
    for acceptance in (0.05, 0.5, 1.0):
        bound = odds_bound(odds, acceptance)
        assert float((odds - bound).clamp(max=0).exp().mean()) == pytest.approx(acceptance, abs=1e-6)


def test_herding_is_greedy_in_the_kernel_distance() -> None:
    """Each step: the row that gives the least MMD^2 among all that are left, by brute force."""
    rng = torch.Generator().manual_seed(2)
    x, r = (torch.randn(n, 3, generator=rng, dtype=torch.float64) for n in (12, 9))

    def distance(rows: list[int]) -> float:
        return float(kernel(x[rows], x[rows]).mean() - 2 * kernel(x[rows], r).mean())

    order = herded(x, r, 6).tolist()
    assert len(set(order)) == 6
    for size in range(6):
        best = min((i for i in range(12) if i not in order[:size]), key=lambda i: distance([*order[:size], i]))
        assert order[size] == best


def test_herding_waits_for_candidates_and_is_no_set_of_draws() -> None:
    task = ImageTask(40, 0, "none")
    assert len(HERDING.choose(seen(79, 1), REFERENCES, task).kept) == 0
    choice = HERDING.choose(seen(80, 1), REFERENCES, task)
    assert (len(choice.kept), choice.judged) == (40, 80)
    assert not HERDING.independent


def test_a_selection_after_another_sees_only_what_that_keeps() -> None:
    every = seen(200, 12, shift=0.2)
    copied = every.pixels.clone()
    copied[::4] = REFERENCES.pixels[:50]
    every, task = every._replace(pixels=copied), ImageTask(50, 0, "none")
    both = FeatureSelection(rule="odds", acceptance=0.9, before=COPIES)
    choice = both.choose(every, REFERENCES, task)
    kept = set(choice.kept.tolist())
    assert kept <= set(COPIES.choose(every, REFERENCES, task).kept.tolist())
    assert kept.isdisjoint(range(0, 200, 4))
    assert choice.facts["before"]["name"] == "copies"
    assert [one.name for one in RandomImages(match=both).every()] == ["random", "features", "copies"]


def test_a_rule_waits_for_the_candidates_that_it_is_fitted_to() -> None:
    task = ImageTask(30, 0, "none")
    for selection in (ODDS, NEAREST):
        assert len(selection.choose(seen(99, 1), REFERENCES, task).kept) == 0
        assert len(selection.choose(seen(100, 1), REFERENCES, task).kept) > 0


def test_no_selection_keeps_every_image() -> None:
    assert NoSelection().choose(seen(5, 0), REFERENCES, ImageTask(5, 0, "none")).kept.tolist() == list(range(5))


class Blocks(nn.Module):
    """A network with the parts of a U-Net: doubles, adds 1, squares."""

    def __init__(self) -> None:
        super().__init__()
        self.down_blocks = nn.ModuleList([nn.Identity(), nn.Identity()])
        self.mid_block = nn.ReLU()
        self.up_blocks = nn.ModuleList([nn.Tanh()])

    def forward(self, x: Tensor) -> Tensor:
        return self.up_blocks[0](self.mid_block(self.down_blocks[1](x)))


def test_features_are_means_and_deviations_of_the_blocks() -> None:
    network, x = Blocks(), torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = block_features(readable_blocks(network, "x"), lambda: network(x))
    expected = [f for y in (x, x.relu(), x.relu().tanh()) for f in (y.mean((2, 3)), y.std((2, 3), unbiased=False))]
    torch.testing.assert_close(found, torch.cat(expected, 1))
    assert not network.mid_block._forward_hooks


def test_a_model_without_blocks_is_refused() -> None:
    for attempt in (
        lambda: natural_gaussian(8, 3, 0.5, 2.0).features(torch.zeros(1, 3, 8, 8)),
        lambda: readable_blocks(nn.Identity(), "analytic"),
    ):
        with pytest.raises(InputError, match="model=analytic: has no network whose blocks give features"):
            attempt()
