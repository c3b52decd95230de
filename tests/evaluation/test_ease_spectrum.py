"""EASE from one decomposition equals the inverse in both forms, and its approximation is near where it must be."""

import numpy as np
import pytest
import torch
from scipy import sparse

from recsys_fed.evaluation import ease as module
from recsys_fed.evaluation.baselines import ease
from recsys_fed.evaluation.ease import ease_spectrum


def train_of(n_users, n_items, *, seed=0, rank=6):
    """Users of planted tastes, so that a few directions hold most of it."""
    rng = np.random.default_rng(seed)
    taste = rng.integers(0, rank, n_users)
    likely = np.where(np.arange(n_items) % rank == taste[:, None], 0.5, 0.02)
    return sparse.csr_matrix((rng.random((n_users, n_items)) < likely).astype(np.float32))


def unseen(scores, train):
    return np.where(train.toarray() > 0, np.nan, scores.numpy())


@pytest.mark.parametrize("shape", [(80, 30), (30, 80), (40, 40)], ids=["primal", "dual", "square"])
@pytest.mark.parametrize("regularization", [0.5, 20.0, 1e4])
def test_it_is_ease_of_the_inverse(shape, regularization):
    dense = train_of(*shape).toarray()
    dense[3], dense[:, 4] = 0, 0
    train = sparse.csr_matrix(dense)
    spectrum = ease_spectrum(train)
    assert spectrum.exact
    found, expected = (
        fit(slice(0, shape[0]))
        for fit in (spectrum.scorer(regularization), ease(train, regularization=regularization))
    )
    np.testing.assert_allclose(unseen(found, train), unseen(expected, train), atol=2e-4)
    assert torch.equal(spectrum.scorer(regularization)(slice(5, 9)), found[5:9])


def test_where_it_is_too_large_it_says_so_and_keeps_the_planted_directions(monkeypatch):
    train = train_of(300, 200)
    exact = ease_spectrum(train).scorer(30.0)(slice(0, 300))
    monkeypatch.setattr(module, "_MOST_SIDE", 100)
    monkeypatch.setattr(module, "DIRECTIONS", 8)
    approximate = ease_spectrum(train)
    assert not approximate.exact
    scores = approximate.scorer(30.0)(slice(0, 300))
    mask = torch.from_numpy(train.toarray() == 0)
    assert float(torch.corrcoef(torch.stack([exact[mask], scores[mask]]))[0, 1]) > 0.9
    assert torch.equal(ease_spectrum(train).scorer(30.0)(slice(0, 300)), scores)
