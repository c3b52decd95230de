"""What every user gets: the figures of the headline protocol, and by group of items."""

import numpy as np
import pytest
import torch
from scipy import sparse

from recsys_fed.comparison import compare
from recsys_fed.comparison.compare import LISTS, Line, _measure_users
from recsys_fed.comparison.record import beyond_accuracy
from recsys_fed.evaluation.metrics import HEADLINE_NAMES, gini, items_by_popularity
from recsys_fed.evaluation.protocol import evaluate_ranking


def data(n_users=60, n_items=70, seed=0):
    rng = np.random.default_rng(seed)
    drawn = rng.random((n_users, n_items)) / np.linspace(1.5, 0.3, n_items)
    train, test = drawn < 0.12, (drawn >= 0.12) & (drawn < 0.2)
    test[::7] = False
    table = torch.from_numpy(rng.integers(12, size=(n_users, n_items)).astype(float))
    return sparse.csr_matrix(train.astype(np.float32)), sparse.csr_matrix(test.astype(np.float32)), table


@pytest.mark.parametrize("cells", [1 << 21, 70 * 8])
def test_figures_are_those_of_the_headline_protocol(monkeypatch, cells):
    monkeypatch.setattr(compare, "_BLOCK_SCORES", cells)
    train, test, table = data()
    found = _measure_users(lambda rows: table[rows], train, test, {})
    expected = evaluate_ranking(lambda rows: table[rows], train=train, test=test, cutoffs=(20,))
    for name in HEADLINE_NAMES:
        np.testing.assert_allclose(found[name][expected.users], expected.per_user[name])
        assert np.isnan(np.delete(found[name], expected.users)).all()


def test_a_group_counts_its_own_test_items_only():
    train, test, table = data()
    groups = items_by_popularity(train)
    found = _measure_users(lambda rows: table[rows], train, test, groups)
    for name, members in groups.items():
        some = sparse.csr_matrix(test.multiply(members[None, :].astype(np.float32)))
        some.eliminate_zeros()
        expected = evaluate_ranking(lambda rows: table[rows], train=train, test=some, cutoffs=(20,))
        np.testing.assert_allclose(found[name][expected.users], expected.per_user["recall@20"])
        assert np.isnan(np.delete(found[name], expected.users)).all()


def test_each_group_of_items_has_a_third_of_the_interactions():
    train = sparse.csr_matrix((np.random.default_rng(0).random((300, 40)) < np.linspace(0.9, 0.02, 40)).astype(float))
    groups, counts = items_by_popularity(train), np.asarray(train.sum(axis=0)).ravel()
    assert sum(members.astype(int) for members in groups.values()).tolist() == [1] * 40
    shares = [counts[members].sum() / counts.sum() for members in groups.values()]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.08)
    assert counts[groups["frequent items"]].min() >= counts[groups["rare items"]].max()


def test_scores_that_are_one_row_for_everybody_are_not_written_to():
    train, test, _ = data()
    row = torch.arange(70.0)
    _measure_users(lambda rows: row.expand(rows.stop - rows.start, -1), train, test, {})
    assert torch.equal(row, torch.arange(70.0))


def test_what_is_recommended_is_counted_beside_what_is_hit():
    train, test, table = data()
    groups = items_by_popularity(train)
    per_user = {
        name: values[None] for name, values in _measure_users(lambda rows: table[rows], train, test, groups).items()
    }
    found = beyond_accuracy(Line(method="m", per_user=per_user), groups)
    lists = per_user[LISTS][0]
    asked = np.flatnonzero(test.getnnz(axis=1))
    assert np.isnan(np.delete(lists, asked, axis=0)).all()
    items = lists[asked].astype(int)
    assert not train.toarray()[asked[:, None], items].any()
    counts = np.bincount(items.ravel(), minlength=70)
    assert found["coverage"] == pytest.approx((counts > 0).mean())
    assert sum(found[name] for name in groups) == pytest.approx(1)
    pairs = np.abs(counts[:, None] - counts).sum() / (2 * 70 * counts.sum())
    assert found["gini"] == pytest.approx(pairs)
    nobody = {LISTS: np.full((1, 60, 20), np.nan)}
    assert beyond_accuracy(Line(method="m", per_user=nobody), groups) is None


def test_the_gini_index_is_zero_for_equal_exposure_and_near_one_for_a_single_item():
    assert gini(torch.full((50,), 3)) == pytest.approx(0)
    assert gini(torch.tensor([9, *[0] * 99])) == pytest.approx(0.99)
    assert gini(torch.zeros(4)) == 0
