"""Scores on grids are exact: whatever stands beside a user, and however large or small the tables are."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from recsys_fed.models.exact_scores import items_on_grid, users_on_grid


@pytest.mark.parametrize("dim", [0, 1, 2, 5, 16, 33, 64, 200, 512])
def test_a_score_has_the_same_bits_in_every_company(dim):
    rng = np.random.default_rng(dim)
    items = items_on_grid(torch.from_numpy(rng.standard_normal((70, dim))).float())
    users = users_on_grid(torch.from_numpy(rng.standard_normal((40, dim))).float())
    whole = users.whole @ items.whole.T
    for first in range(1, 39, 5):
        assert torch.equal(whole[first:], users.whole[first:].clone() @ items.whole.T)
        assert torch.equal(whole[first:].T, items.whole @ users.whole[first:].clone().T)


@pytest.mark.parametrize("item_size", [1e-45, 1e-20, 1.0, 1e20, 3e38])
@pytest.mark.parametrize("user_size", [1e-45, 1e-20, 1.0, 1e20, 3e38])
def test_scores_are_near_the_real_ones_and_products_are_exact(item_size, user_size):
    rng = np.random.default_rng(0)
    vectors = torch.from_numpy(np.clip(rng.standard_normal((6, 4)), -1, 1) * item_size).float()
    folded = torch.from_numpy(np.clip(rng.standard_normal((3, 4)), -1, 1) * user_size).float()
    items, users = items_on_grid(vectors), users_on_grid(folded)
    found = (users.whole @ items.whole.T) * (users.scales[:, None] * items.scales)
    bound = 4 * 2.0**-22 * float(vectors.double().abs().max() * folded.double().abs().max())
    assert (found - folded.double() @ vectors.double().T).abs().max() <= bound
    for user in range(3):
        for item in range(6):
            terms = zip(users.whole[user].tolist(), items.whole[item].tolist(), strict=True)
            exact = sum(Fraction(one) * Fraction(other) for one, other in terms)
            assert Fraction(float(found[user, item])) == exact * Fraction(float(users.scales[user])) * Fraction(
                float(items.scales[0])
            )


def test_zeros_and_what_is_not_finite_are_zero():
    table = torch.tensor([[0.0, 0.0], [float("inf"), float("nan")]])
    for on_grid in (items_on_grid(table), users_on_grid(table)):
        assert not on_grid.whole.any()
        assert on_grid.scales.isfinite().all()
