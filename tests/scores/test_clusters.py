"""Permutation tests relabel whole clusters: images that depend on each other are not exchangeable."""

import numpy as np
import pytest
import torch

from unseen_diffusion.domains.folder import cluster_names
from unseen_diffusion.domains.hubble import Hubble
from unseen_diffusion.domains.pools import Pool
from unseen_diffusion.domains.split import clusters_of, split_pool
from unseen_diffusion.scores.kernel import cluster_labels, discrepancy, permutation_p_value
from unseen_diffusion.scores.suite import Views, pooled_clusters
from unseen_diffusion.utils.errors import InputError

X = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 4)))


def test_clusters_of_one_image_change_nothing() -> None:
    plain = permutation_p_value(X[:20], X[20:], 50, 0)
    assert permutation_p_value(X[:20], X[20:], 50, 0, clusters=torch.arange(40).flip(0)) == plain


def test_clusters_stay_whole_and_sets_nearly_keep_their_sizes() -> None:
    sizes = torch.tensor([14, 1, 1, 3, 2, 5, 1, 1, 4, 8])
    for seed in range(50):
        order = torch.randperm(len(sizes), generator=torch.Generator().manual_seed(seed))
        labels = cluster_labels(sizes, order, 18)
        rows = int((labels * sizes).sum())
        cuts = sizes[order].cumsum(0)
        assert abs(rows - 18) == int((cuts[cuts <= 38] - 18).abs().min())


def test_a_single_cluster_never_rejects() -> None:
    assert permutation_p_value(X[:20], 5 + X[20:], 50, 0, clusters=torch.zeros(40, dtype=torch.int64)) == 1.0


def test_clusters_of_another_length_are_refused() -> None:
    with pytest.raises(InputError, match="clusters of 3 rows for 40"):
        permutation_p_value(X[:20], X[20:], 50, 0, clusters=torch.arange(3))


def test_the_level_holds_for_the_clusters_of_hubble() -> None:
    """Cut-outs of a cluster share 15 % of their variance, which makes the test of single images reject 10 %."""
    pool = Hubble(sources=520).pool(8, 1)
    clusters = torch.from_numpy(clusters_of(pool))
    hits, count = np.zeros(2), 120
    for seed in range(count):
        rng = np.random.default_rng(seed)
        common = rng.normal(size=(520, 8))[clusters]
        features = torch.from_numpy(np.sqrt(0.3) * common + np.sqrt(0.7) * rng.normal(size=(520, 8)))
        r, _, h = split_pool(pool, 200, 70, 200, seed, 0)
        for index, numbers in enumerate((None, clusters[r + h])):
            hits[index] += permutation_p_value(features[r], features[h], 79, seed, clusters=numbers) <= 0.05
    alone, whole = hits / count
    assert alone > 0.12
    assert whole < 0.11  # 0.05 expected, standard deviation 0.02


def test_any_kernel_takes_clusters() -> None:
    clusters = torch.arange(40) // 2
    found = discrepancy(X @ X.T, 20, 50, 0, clusters)
    assert found.p_value != discrepancy(X @ X.T, 20, 50, 0).p_value
    assert found.value == discrepancy(X @ X.T, 20, 50, 0).value


def test_samples_are_clusters_of_their_own() -> None:
    target = Views(X[:4], X[:4], clusters=torch.tensor([7, 7, 2, 3]))
    numbers = pooled_clusters(Views(X[:3], X[:3]), target)
    assert numbers is not None
    assert numbers[3:].tolist() == [7, 7, 2, 3]
    assert len(set(numbers.tolist())) == 6
    assert pooled_clusters(Views(X, X), Views(X, X)) is None


def test_named_clusters_join_those_of_equal_images() -> None:
    names = ("a_1", "a_2", "b_1", "c")
    pool = Pool(names, lambda indices: X, "made", contents=("x", "y", "y", "z"), clusters=("a/", "a/", "b/", "c"))
    numbers = clusters_of(pool)
    assert numbers[0] == numbers[1] == numbers[2] != numbers[3]
    assert cluster_names(["a_1.png", "a_2.png", "b.png"], "^(.*)_") == ("a/", "a/", "b.png")
    assert cluster_names(["p/1.png", "p/2.png"], "^[^/]*/") == ("p//", "p//")
