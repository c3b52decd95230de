"""The lists of long rows, which are found by the maxima of groups, are those of a stable sort."""

import numpy as np
import pytest
import torch

from recsys_fed.evaluation.ranking import top_items


def sorted_lists(scores, k):
    return np.argsort(-scores.numpy().astype(np.float64), axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("n_items", [8_192, 8_255, 20_001])
@pytest.mark.parametrize("levels", [3, 50, 10**6])
def test_long_rows_rank_as_a_stable_sort_does_with_ties_within_and_between_groups(n_items, levels):
    rng = np.random.default_rng([n_items, levels])
    scores = torch.from_numpy(rng.integers(0, levels, (7, n_items)).astype(np.float32))
    scores[1] = -scores[1].abs()
    scores[2, rng.permutation(n_items)[: n_items - 5]] = -torch.inf  # fewer candidates than places
    scores[3, -1], scores[4, 0] = 2.0 * levels, 2.0 * levels  # the best one in the rest, and in the first group
    assert np.array_equal(top_items(scores, 20).numpy(), sorted_lists(scores, 20))


def test_all_of_the_best_in_one_group_are_found():
    scores = torch.zeros(1, 10_000)
    scores[0, 640:704] = torch.arange(64.0) + 1
    assert top_items(scores, 20)[0].tolist() == list(range(703, 683, -1))


def test_long_lists_of_long_rows_are_whole():
    scores = torch.randn(2, 9_000, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(top_items(scores, 500).numpy(), sorted_lists(scores, 500))
