"""The ratings trainer: contributions as in the formula, a bounded user whatever the ratings, planted tastes found."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_trainers import one_thread as _one_thread  # noqa: F401
from rated_users import FIVE_STARS, drawn, error, fitted, own, plain_vector, rated, user_mean_error, world

from recsys_fed.errors import ConfigurationError
from recsys_fed.models.histories import Histories, Signals
from recsys_fed.models.items import user_vectors
from recsys_fed.testing import check_trainer
from recsys_fed.trainers.ratings import BETA, MEANS, RESIDUALS, Ratings


def tables_of(rng, n_items, head):
    return {
        "means": torch.from_numpy(rng.uniform(-0.5, 0.5, n_items)).float(),
        "known": torch.from_numpy(rng.standard_normal((n_items, 3)) * 0.3).float(),
        "head": torch.tensor(head),
        "damping": torch.from_numpy(rng.random(len(head)) + 0.5).float(),
        "subspace": torch.from_numpy(rng.standard_normal((len(head), 2))).float(),
    }


def plain_means(table):
    total = np.zeros((table.shape[1], 2))
    for row in table:
        items, x = own(row)
        if len(items):
            term = np.column_stack([np.ones(len(items)), BETA * x])
            total[items] += term / np.linalg.norm(term)
    return total


def plain_residuals(tables, table):
    known, means = tables["known"].double().numpy(), tables["means"].double().numpy()
    head, damping = tables["head"].numpy(), tables["damping"].double().numpy()
    W = tables["subspace"].double().numpy()
    total = np.zeros(W.shape)
    for row in table:
        items, x = own(row)
        left = x - means[items]
        left = left - known[items] @ plain_vector(known[items], left, FIVE_STARS["regularization"])
        r = np.zeros(table.shape[1])
        r[items] = left
        term = np.outer(r[head] * damping, W.T @ (r[head] * damping))
        if np.linalg.norm(term) > 0:
            total += term / np.linalg.norm(term)
    return total


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 999), n_users=st.integers(0, 6), l2_clip_norm=st.sampled_from([0.3, 1.0, 9.0]))
def test_both_contributions_are_their_formulas(seed, n_users, l2_clip_norm):
    rng = np.random.default_rng(seed)
    table, tables = drawn(rng, n_users, 9), tables_of(rng, 9, [0, 2, 3, 5, 6, 8])
    how = {**FIVE_STARS, "l2_clip_norm": l2_clip_norm}
    for stage, expected in ((MEANS, plain_means(table)), (RESIDUALS, plain_residuals(tables, table))):
        found = Ratings().contribution(stage, tables, rated(table), settings=how).numpy()
        np.testing.assert_allclose(found, l2_clip_norm * expected, atol=1e-5 * l2_clip_norm)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 9_999), scale=st.sampled_from([0.0, 1e-30, 1.0, 1e30, np.inf, np.nan]))
def test_one_user_moves_a_sum_by_the_clip_norm_at_most_whatever_ratings_and_tables_hold(seed, scale):
    rng = np.random.default_rng(seed)
    values = (0, 0, -1, 1, 3, 5, 1e30, -1e30, 1e-30, np.inf, -np.inf)
    table = drawn(rng, 5, 7, values=values)
    tables = tables_of(rng, 7, [1, 2, 4, 6])
    tables |= {name: tables[name] * scale for name in ("known", "subspace") if scale != 1}
    how = {**FIVE_STARS, "l2_clip_norm": 1.0}
    for stage in (MEANS, RESIDUALS):
        whole = Ratings().contribution(stage, tables, rated(table), settings=how)
        assert bool(whole.isfinite().all())
        for row in range(len(table)):
            without = Ratings().contribution(stage, tables, rated(np.delete(table, row, axis=0)), settings=how)
            assert float((whole - without).norm()) <= 1 + 2**-10


@pytest.mark.parametrize("trainer", [Ratings(), Ratings(biases=False), Ratings(lowest=0, highest=10)])
def test_it_conforms(trainer):
    check_trainer(trainer, n_items=12)


def test_a_residual_round_under_noise_conforms():
    class Deeper(Ratings):
        def _rounds(self, facts):
            return 2

    check_trainer(Deeper(), n_items=12)


def test_data_without_ratings_adds_nothing_in_the_same_shape():
    histories = Histories(items=torch.tensor([0, 2]), starts=torch.tensor([0, 2]), n_items=4)
    found = Ratings().contribution(MEANS, {}, histories, settings={**FIVE_STARS, "l2_clip_norm": 1.0})
    assert found.shape == (4, 2)
    assert not found.any()


def test_the_fold_in_is_ridge_regression_on_the_ratings():
    rng = np.random.default_rng(3)
    table = drawn(rng, 8, 12)
    model = fitted(Ratings(), rated(table), embedding_dim=3)
    vectors = user_vectors(model, rated(table)).double().numpy()
    z, b = model.vectors.double().numpy(), model.bias.double().numpy()
    for row, vector in zip(table, vectors, strict=True):
        items = np.flatnonzero((row != 0) & (row != -1))
        expected = plain_vector(z[items], row[items] - b[items], model.fold_in.regularization)
        np.testing.assert_allclose(vector, expected, atol=1e-4)


def test_without_noise_levels_means_and_tastes_are_found():
    train, test, features = world()
    alone = user_mean_error(train, test)
    assert error(fitted(Ratings(), rated(train), embedding_dim=2), rated(train), test) < 0.7 * alone
    assert error(fitted(Ratings(), rated(train), features=features), rated(train), test) < 0.7 * alone


@pytest.mark.parametrize("noise", [5.0, 100.0, 1e6])
def test_noise_never_makes_it_worse_than_the_users_own_mean(noise):
    train, test, features = world(1)
    for public in (None, features):
        model = fitted(Ratings(), rated(train), noise=noise, features=public, declared_users=400)
        assert error(model, rated(train), test) < 1.01 * user_mean_error(train, test)


def test_a_small_table_of_zeros_and_ones_is_fitted_at_rank_two():
    # Zeros are ratings here: the best two dimensions leave a mean squared error of .026.
    table = np.array([[0, 1, 1], [0, 1, 0], [1, 0, 1], [1, 1, 1]], dtype=np.float32)
    histories = Histories(
        items=torch.arange(3, dtype=torch.int32).repeat(4),
        starts=torch.arange(0, 13, 3),
        n_items=3,
        signals=Signals(value=torch.from_numpy(table.ravel())),
    )
    trainer = Ratings(lowest=0, highest=1, biases=False, regularization=1e-6)
    model = fitted(trainer, histories, embedding_dim=2, declared_users=4)
    predicted = user_vectors(model, histories) @ model.vectors.T + model.bias
    assert float((predicted - torch.from_numpy(table)).square().mean()) <= 0.03


def test_a_scale_that_is_none_is_refused():
    for lowest, highest in ((5, 1), (1, 1), (1, float("inf")), (float("nan"), 5)):
        with pytest.raises(ConfigurationError, match="lowest < highest"):
            Ratings(lowest=lowest, highest=highest)
