"""Ceilings are tuned: settings are chosen on a part of train and follow the data; none is left out without a word."""

import numpy as np
import torch
from scipy import sparse

from recsys_fed.comparison import _ceilings
from recsys_fed.comparison._ceilings import _choose_setting, pooled_ceilings
from recsys_fed.errors import ConfigurationError
from recsys_fed.evaluation import ease
from recsys_fed.evaluation.baselines import implicit_als
from recsys_fed.personalisation.choice import hold_out_items


def test_the_strength_that_finds_most_is_taken():
    kept, held = sparse.csr_matrix((4, 60)), sparse.csr_matrix(([1.0] * 4, (range(4), [50] * 4)), shape=(4, 60))
    asked = []

    def fit(strength):
        asked.append(strength)
        row = -(torch.arange(60.0) - (50 if strength == 3.0 else 0)).abs()
        return lambda rows: row.expand(rows.stop - rows.start, -1)

    assert _choose_setting(fit, (1.0, 3.0, 9.0), kept, held) == 3.0
    assert asked == [1.0, 3.0, 9.0]
    assert _choose_setting(fit, (1.0, 3.0), kept, sparse.csr_matrix((4, 60))) == 1.0


def planted(n_users=90, n_items=60, seed=0):
    rng = np.random.default_rng(seed)
    likely = np.where(np.arange(n_items) % 3 == (np.arange(n_users) % 3)[:, None], 0.5, 0.02)
    return sparse.csr_matrix((rng.random((n_users, n_items)) < likely).astype(np.float32)), rng


def test_planted_tastes_are_found_under_a_strength_that_fits():
    train, rng = planted()
    kept, held = hold_out_items(train, share=0.1, rng=rng)
    assert _choose_setting(lambda value: implicit_als(kept, regularization=value), (1e5, 1.0), kept, held) == 1.0


def test_both_ceilings_say_how_they_were_fitted(monkeypatch):
    train, rng = planted()
    exact = {found.method: found for found in pooled_ceilings(train, rng=rng)}
    assert "approximate" not in exact["pooled EASE"].note
    assert "dimensions" in exact["pooled implicit ALS"].note
    monkeypatch.setattr(ease, "_MOST_SIDE", 10)
    approximate = next(pooled_ceilings(train, rng=rng))
    assert f"approximate, by {ease.DIRECTIONS} directions" in approximate.note


def test_a_ceiling_that_cannot_be_fitted_is_there_and_says_why(monkeypatch):
    def missing(*_, **__):
        raise ConfigurationError("no library")

    monkeypatch.setattr(_ceilings, "implicit_als", missing)
    train, rng = planted()
    last = list(pooled_ceilings(train, rng=rng))[-1]
    assert last.score is None
    assert last.note == "not fitted: no library"
