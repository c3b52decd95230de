"""Attributes and contexts as effects on items: the formula, a choice that is never worse, and what is not known."""

import numpy as np
import pytest
import torch
from scipy import sparse

from recsys_fed.context import contexts_at
from recsys_fed.errors import ConfigurationError
from recsys_fed.models.items import FoldIn, ItemEmbeddings
from recsys_fed.personalisation.choice import choose_fusion, fit_with_fusion, split_folds
from recsys_fed.personalisation.fusion import KAPPA, Effects, Fusion, Told, fit_effects
from recsys_fed.personalisation.silo_model import Recipe

N_ITEMS, N_USERS = 40, 120
ALONE = Recipe(own_weight=0.0)


def world(seed=0):
    """Half of the users take even items, half odd ones; in the evening all take the last ten items."""
    rng = np.random.default_rng(seed)
    kind = np.array([("even", "odd")[row % 2] for row in range(N_USERS)], dtype=object)
    day = np.where(np.arange(N_ITEMS) % 2 == (np.arange(N_USERS) % 2)[:, None], 0.3, 0.03)
    evening = np.broadcast_to(np.where(np.arange(N_ITEMS) < 30, 0.01, 0.4), day.shape)
    late = rng.random(day.shape) < 0.3
    train = sparse.csr_matrix((rng.random(day.shape) < np.where(late, evening, day)).astype(np.float32))
    when = np.where(late[train.nonzero()], "evening", "day").astype(object)
    return train, kind, when


def by_popularity(train):
    counts = torch.from_numpy(np.asarray(train.sum(axis=0)).ravel())
    return ItemEmbeddings(
        vectors=torch.zeros(N_ITEMS, 2), bias=counts.log1p().float(),
        history_weights=torch.ones(N_ITEMS), fold_in=FoldIn(kind="projection"), catalogue_hash="c",
    )  # fmt: skip


def folds_of(train, seed=0):
    return split_folds(train, rng=np.random.default_rng(seed))


def test_effects_are_the_formula():
    train, kind, when = world()
    kind[:7] = ""
    told, users = Told(attributes={"kind": kind}, contexts={"when": when}), np.arange(3, 90)
    rows, columns = train.nonzero()
    sizes = np.diff(train.indptr)
    for name, known in (("kind", kind[rows]), ("when", when)):
        found = fit_effects(train, told, name, users=users)
        counts = {value: np.zeros(N_ITEMS) for value in found.values}
        weights = []
        for row, column, value in zip(rows, columns, known, strict=True):
            if row in users and value:
                counts[value][column] += 1 / np.sqrt(sizes[row])
                weights.append(1 / np.sqrt(sizes[row]))
        table = np.array([counts[value] for value in found.values]) / np.mean(weights)
        expected = table.sum(1)[:, None] * table.sum(0)[None] / table.sum()
        np.testing.assert_allclose(found.table, np.log((table + KAPPA) / (expected + KAPPA)), atol=1e-5)
    assert fit_effects(train, told, "kind", users=users).values == ("even", "odd")


def test_what_tells_of_items_is_taken_and_ranks_them_for_users_without_a_history():
    train, kind, when = world()
    told = Told(attributes={"kind": kind}, contexts={"when": when})
    found = choose_fusion(train, told, folds_of(train), by_popularity(train), ALONE)
    assert set(found.weights) == {"kind", "when"}
    assert found.gain > 0.2 * found.without
    model = fit_with_fusion(train, told, by_popularity(train), ALONE, found.weights)
    nobody = sparse.csr_matrix((3, N_ITEMS))
    asked = {"kind": ["odd", "even", ""], "when": ["day", "day", "evening"]}
    scores = model.fusion.add_to(model.scores(nobody), asked)
    best = np.argsort(-scores, axis=1)[:, :5]
    assert (best[0] % 2 == 1).all() and (best[1] % 2 == 0).all() and (best[2] >= 30).all()
    np.testing.assert_array_equal(model.fusion.add_to(model.scores(nobody), {}), model.scores(nobody))
    unknown = {"kind": ["", "unheard of", "odd "], "weather": ["rain"] * 3}
    np.testing.assert_array_equal(model.fusion.add_to(model.scores(nobody), unknown), model.scores(nobody))


@pytest.mark.parametrize("seed", range(3))
def test_what_is_taken_is_never_worse_and_what_tells_nothing_gains_next_to_nothing(seed):
    train, kind, when = world(seed)
    rng = np.random.default_rng(seed)
    told = Told(attributes={"kind": rng.permutation(kind)}, contexts={"when": rng.permutation(when)})
    found = choose_fusion(train, told, folds_of(train, seed), by_popularity(train), ALONE)
    assert 0 <= found.gain < 0.05 * found.without
    assert bool(found.gain) == bool(found.weights)


def test_nothing_is_taken_where_there_is_nobody_to_measure_on():
    train, kind, when = world()
    few = train[:20]
    told = Told(attributes={"kind": kind[:20]}, contexts={})
    assert choose_fusion(few, told, folds_of(few), by_popularity(train), ALONE).weights == {}
    assert fit_with_fusion(few, told, by_popularity(train), ALONE, {}).fusion is None
    empty = sparse.csr_matrix((0, N_ITEMS))
    none = Told(attributes={"kind": kind[:0]}, contexts={"when": when[:0]})
    assert choose_fusion(empty, none, folds_of(empty), by_popularity(train), ALONE).weights == {}


def test_a_name_is_an_attribute_or_a_context():
    with pytest.raises(ConfigurationError, match="hour"):
        Told(attributes={"hour": np.array(["a"])}, contexts={"hour": np.array(["b"])})


def test_effects_of_values_that_were_not_fitted_are_zero():
    effects = Effects(values=("a", "b"), table=np.array([[1, 2], [3, 4]], dtype=np.float32))
    np.testing.assert_array_equal(effects.of(["b", "c", "a"]), [[3, 4], [0, 0], [1, 2]])
    assert Fusion(effects={"x": effects}).add_to(np.ones((1, 2)), {"x": ["a"]}).tolist() == [[2, 3]]


def test_hours_and_weekdays_are_those_of_the_time_in_utc():
    times = np.array(
        ["2024-02-29T00:00:00", "2024-02-29T23:59:59", "2026-11-30T12:00:00", "1969-12-31T23:59:59"],
        dtype="datetime64[ns]",
    )
    found = contexts_at(times.astype(np.int64), ("hour", "weekday"))
    assert found["hour"].tolist() == ["0 to 3", "20 to 23", "12 to 15", ""]
    assert found["weekday"].tolist() == ["Thursday", "Thursday", "Monday", ""]
