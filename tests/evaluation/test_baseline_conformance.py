"""What holds for every baseline, by one suite: each name in `BASELINES` goes through all of it."""

import numpy as np
import pytest
import torch
from scipy import sparse

from recsys_fed.evaluation.baselines import BASELINES, ease, implicit_als, pure_svd
from recsys_fed.evaluation.protocol import evaluate_ranking, score_block

pytest.importorskip("implicit", reason="needs the extra [baselines]")

# Small data needs few neighbours, few dimensions and less shrinkage than the defaults, which fit MovieLens-1M.
SMALL = {
    "item-knn": {"neighbours": 12},
    "user-knn": {"neighbours": 60},
    "pure-svd": {"embedding_dim": 4},
    "implicit-als": {"embedding_dim": 4, "regularization": 1.0},
    "bpr-mf": {"embedding_dim": 4, "epochs": 60, "batch_size": 256, "regularization": 0.01},
    "ease": {"regularization": 5.0},
}
PERSONAL = sorted(SMALL)
ALL = sorted(BASELINES)


def fit(name, train):
    return BASELINES[name](train, **SMALL.get(name, {}))


def checkerboard(n=20, copies=6):
    """Even users like even items, odd ones odd items; each of them withholds one."""
    rows = np.arange(n * copies)
    likes = ((rows[:, None] % 2) == (np.arange(n) % 2)).astype(float)
    withheld = rows % n
    likes[rows, withheld] = 0
    return sparse.csr_matrix(likes), withheld


@pytest.mark.parametrize("name", PERSONAL)
def test_the_withheld_item_comes_first(name):
    train, withheld = checkerboard()
    scores = fit(name, train)(slice(0, train.shape[0])).clone()
    scores[train.nonzero()] = -torch.inf
    assert torch.equal(scores.argmax(dim=1), torch.from_numpy(withheld))


@pytest.mark.parametrize("name", ALL)
def test_values_types_and_the_argument_do_not_matter(name):
    train, _ = checkerboard()
    rated = train.copy()
    rated.data[:] = np.arange(len(rated.data)) % 5 + 1
    before = rated.copy()
    expected = fit(name, train)(slice(0, 30))
    torch.testing.assert_close(fit(name, sparse.csr_array(rated))(slice(0, 30)), expected)
    assert (rated != before).nnz == 0


@pytest.mark.parametrize("name", ALL)
def test_twice_is_the_same_and_blocks_are_parts_of_the_whole(name):
    train, _ = checkerboard()
    first, second = fit(name, train), fit(name, train)
    whole = score_block(first, slice(0, 120), 20)
    assert torch.equal(second(slice(0, 120)), whole)
    torch.testing.assert_close(score_block(first, slice(50, 70), 20), whole[50:70])


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", [(1, 1), (4, 1), (1, 5), (6, 3)])
def test_small_and_empty_rows_have_finite_scores(name, shape):
    train = sparse.csr_matrix(np.ones(shape))
    train[0] = 0
    train.eliminate_zeros()
    scores = score_block(fit(name, train), slice(0, shape[0]), shape[1])
    assert scores.shape == shape


@pytest.mark.parametrize("name", PERSONAL)
def test_planted_taste_is_found(name):
    rng, group = np.random.default_rng(3), np.arange(80) % 4
    likely = np.where(group == (np.arange(400) % 4)[:, None], 0.4, 0.05)
    whole = sparse.csr_matrix((rng.random((400, 80)) < likely).astype(float))
    held = np.random.default_rng(4).random(whole.nnz) < 0.2
    rows, columns = whole.nonzero()
    train, test = (sparse.csr_matrix((np.ones(m.sum()), (rows[m], columns[m])), whole.shape) for m in (~held, held))
    found, plain = (
        evaluate_ranking(score, train=train, test=test, cutoffs=(10,)).means()["ndcg@10"]
        for score in (fit(name, train), BASELINES["popularity"](train))
    )
    assert found > 2 * plain


def test_pure_svd_is_the_projection_on_singular_vectors():
    matrix = (np.random.default_rng(0).random((30, 12)) < 0.4).astype(float)
    right = np.linalg.svd(matrix)[2][:3]
    found = pure_svd(sparse.csr_matrix(matrix), embedding_dim=3)(slice(0, 30))
    np.testing.assert_allclose(found.numpy(), matrix @ right.T @ right, atol=1e-8)


def test_ease_solves_its_constrained_least_squares():
    matrix = (np.random.default_rng(1).random((40, 6)) < 0.4).astype(float)
    weights = np.linalg.lstsq(matrix, ease(sparse.csr_matrix(matrix), regularization=2.0)(slice(0, 40)), rcond=None)[
        0
    ]
    np.testing.assert_allclose(np.diag(weights), 0, atol=1e-10)
    for item in range(6):
        others = np.delete(np.arange(6), item)
        x = matrix[:, others]
        own = np.linalg.solve(x.T @ x + 2.0 * np.eye(5), x.T @ matrix[:, item])
        np.testing.assert_allclose(weights[others, item], own, atol=1e-10)


def test_more_shrinkage_gives_shorter_factors():
    train, _ = checkerboard()
    weak, strong = (implicit_als(train, embedding_dim=4, regularization=r)(slice(0, 120)) for r in (1.0, 100.0))
    assert float(strong.norm()) < 0.9 * float(weak.norm())
