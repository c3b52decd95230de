"""Every search gives the list that sorting all scores gives, equal scores by row."""

import numpy as np
import pytest
from serving_kit import made_release

from recsys_fed.serving.search import ExactSearch, best_of_many, search_of, top_rows

NOBODY = np.zeros(0, dtype=np.int64)


def sorted_rows(scores, k, without=NOBODY):
    left = [row for row in range(len(scores)) if row not in set(without.tolist())]
    return sorted(left, key=lambda row: (-scores[row], row))[:k]


@pytest.mark.parametrize("n", [1, 7, 60, 2_000])
@pytest.mark.parametrize("k", [1, 5, 50])
def test_ties_go_by_row_whatever_the_size(n, k):
    rng = np.random.default_rng([n, k])
    for distinct in (1, 3, 1_000):
        scores = rng.integers(distinct, size=n).astype(np.float32)
        assert top_rows(scores.copy(), k).tolist() == sorted_rows(scores, k)


def test_what_is_left_out_never_fills_a_short_list():
    scores = np.full(10, -np.inf, dtype=np.float32)
    scores[[4, 2]] = 1.0
    assert top_rows(scores, 5).tolist() == [2, 4]


@pytest.mark.parametrize("how", ["exact", "int8"])
def test_searches_agree_with_sorting(how):
    if how == "int8":
        pytest.importorskip("faiss")
    release = made_release(n_items=5_000, dim=24, seed=2)
    search, rng = search_of(release, how), np.random.default_rng(4)
    for _ in range(20):
        vector = rng.normal(size=24).astype(np.float32)
        without = np.sort(rng.choice(5_000, size=30, replace=False))
        scores = release.vectors @ vector + release.bias
        rows, values = search.best(vector, 10, without=without)
        assert rows.tolist() == sorted_rows(scores, 10, without)
        np.testing.assert_allclose(values, scores[rows], rtol=1e-5, atol=1e-5)


def test_int8_looks_further_where_codes_cannot_tell_items_apart():
    pytest.importorskip("faiss")
    # Ten thousand items within one step of the codes, and one item that stretches the scale.
    rng = np.random.default_rng(0)
    vectors = (1.0 + 1e-4 * rng.normal(size=(10_000, 4))).astype(np.float32)
    vectors[0] = 50.0
    release = made_release(n_items=10_000, dim=4, vectors=vectors, bias=np.zeros(10_000, dtype=np.float32))
    vector = np.array([1.0, -0.5, 0.25, -0.8], dtype=np.float32)
    rows, _ = search_of(release, "int8").best(vector, 10, without=NOBODY)
    exact, _ = ExactSearch(release).best(vector, 10, without=NOBODY)
    assert rows.tolist() == exact.tolist()


def test_a_graph_finds_nearly_all():
    pytest.importorskip("faiss")
    release = made_release(n_items=5_000, dim=16, seed=9, bias=np.zeros(5_000, dtype=np.float32))
    graph, exact, rng = search_of(release, "hnsw"), ExactSearch(release), np.random.default_rng(1)
    found = 0
    for _ in range(50):
        vector = rng.normal(size=16).astype(np.float32)
        rows, values = graph.best(vector, 10, without=NOBODY)
        assert (np.diff(values) <= 0).all()
        found += len(set(rows.tolist()) & set(exact.best(vector, 10, without=NOBODY)[0].tolist()))
    assert found >= 0.9 * 500


def test_a_batch_is_what_each_user_gets_alone():
    release, rng = made_release(n_items=700, dim=8), np.random.default_rng(5)
    vectors = rng.normal(size=(600, 8)).astype(np.float32)
    vectors[::50] = 0.0
    without = [np.sort(rng.choice(700, size=size, replace=False)) for size in rng.integers(0, 695, size=600)]
    rows, values = best_of_many(release, vectors, 10, without=without)
    exact = ExactSearch(release)
    for user in range(600):
        alone, scores = exact.best(vectors[user], 10, without=without[user])
        kept = rows[user] >= 0
        assert kept.sum() == len(alone) == min(10, 700 - len(without[user]))
        np.testing.assert_allclose(values[user][kept], scores, rtol=1e-4, atol=1e-4)
        assert not set(rows[user][kept].tolist()) & set(without[user].tolist())
