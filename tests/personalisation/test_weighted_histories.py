"""A silo's own model on weighted histories: what weighs little says little, and is not what is to be found."""

import numpy as np
import torch
from scipy import sparse

from recsys_fed.models.items import FoldIn, ItemEmbeddings
from recsys_fed.personalisation.choice import hold_out_items
from recsys_fed.personalisation.silo_model import Recipe, fit_silo_model


def drawn(values, seed=0):
    rng = np.random.default_rng(seed)
    matrix = (rng.random((120, 30)) < 0.25) * rng.choice(values, (120, 30))
    return sparse.csr_matrix(matrix.astype(np.float32))


def released(seed=0):
    rng = np.random.default_rng(seed)
    return ItemEmbeddings(
        vectors=torch.from_numpy(rng.standard_normal((30, 4))).float(),
        bias=torch.zeros(30),
        history_weights=torch.ones(30),
        fold_in=FoldIn(kind="projection"),
        catalogue_hash="c",
    )


def test_views_are_kept_apart_and_are_not_to_be_found():
    users = drawn([0.125, 1.0])
    kept, held = hold_out_items(users, share=0.5, rng=np.random.default_rng(1))
    assert set(np.unique(held.data)) == {1.0} and set(np.unique(kept.data)) == {0.125, 1.0}
    assert not kept.multiply(held).nnz and kept.nnz + held.nnz < users.nnz
    assert ((kept + held) - users.multiply(kept + held > 0)).nnz == 0
    plain = drawn([1.0])
    kept, held = hold_out_items(plain, share=0.5, rng=np.random.default_rng(1))
    assert kept.nnz + held.nnz == plain.nnz


def test_what_weighs_little_says_little_of_what_goes_together():
    users, model = drawn([0.125, 1.0]), released()
    recipe = Recipe(own_weight=1.0, pull=1.0)
    weighed = fit_silo_model(users, model, recipe)
    alike = fit_silo_model((users > 0).astype(np.float32), model, recipe)
    heavy = fit_silo_model(users.multiply(users == 1).tocsr().astype(np.float32), model, recipe)
    tables = [one.item_model.left for one in (weighed, alike, heavy)]
    tables = [table if one.item_model.right is None else table @ one.item_model.right.T
              for table, one in zip(tables, (weighed, alike, heavy), strict=True)]  # fmt: skip
    off = ~np.eye(30, dtype=bool)
    correlation = [np.corrcoef(tables[0][off], other[off])[0, 1] for other in tables[1:]]
    assert correlation[1] > correlation[0] + 0.1, correlation
    # Scores of a history are those of its weights.
    some = users[:5]
    assert not np.allclose(weighed.scores(some), weighed.scores((some > 0).astype(np.float32)))
