"""The example's model under implicit's own methods is the released model."""

import runpy
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "model_for_implicit.py"


@pytest.fixture(scope="module")
def fitted():
    names = runpy.run_path(str(EXAMPLE))
    matrix = names["shop"](users=120, items=90, taken=6)
    matrix.data[:] = 1
    model = names["FederatedModel"](silos=3, epsilon=20.0)
    model.fit(matrix)
    return model, matrix


def test_its_lists_are_those_of_the_released_model(fitted):
    model, matrix = fitted
    users = np.array([0, 7, 31])
    ids, scores = model.recommend(users, matrix[users], N=8)
    again, _ = model.recommend(users, matrix[users], N=8, recalculate_user=True)
    assert np.array_equal(ids, again)
    for user, row, values in zip(users, ids, scores, strict=True):
        seen = [str(item) for item in matrix[user].indices]
        expected = model.run.model.recommend(seen, k=8)
        assert [str(item) for item in row] == [one.item for one in expected]
        assert np.allclose(values, [one.score for one in expected], rtol=1e-5, atol=1e-5)
        assert not set(row) & set(matrix[user].indices)
    near, cosines = model.similar_items(3, N=4)
    expected = model.run.model.similar("3", k=3)
    assert near[0] == 3 and [str(item) for item in near[1:]] == [one.item for one in expected]
    assert np.allclose(cosines[1:], [one.score for one in expected], rtol=1e-5, atol=1e-5)


def test_columns_that_nobody_has_are_items_too_and_a_new_user_gets_a_list(fitted):
    model, matrix = fitted
    assert model.item_factors.shape[0] == matrix.shape[1]
    heavier = matrix[0].copy()
    heavier.data[0] = 4
    assert not np.allclose(model.recalculate_user(0, heavier), model.user_factors[0], atol=1e-3), "weights count"
    nobody = matrix[0] * 0
    nobody.eliminate_zeros()
    ids, _ = model.recommend(0, nobody, N=5, recalculate_user=True)
    assert [str(item) for item in ids] == [one.item for one in model.run.model.recommend([], k=5)]
