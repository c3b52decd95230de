"""Private parts of a module: fitted in the silo on a table that stays, sealed, chosen only where they are better."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from recsys_fed.errors import ConfigurationError
from recsys_fed.models.items import FoldIn, ItemEmbeddings, TrainedModule, load_item_embeddings, save_item_embeddings
from recsys_fed.models.torch_modules import MODULES, item_table_of, make_module
from recsys_fed.personalisation.choice import choose_alone, choose_on, split_folds
from recsys_fed.personalisation.private_parts import fit_private_parts, has_private_parts, start_private_parts
from recsys_fed.personalisation.silo_model import Recipe, fit_silo_model
from recsys_fed.silo._own_model import pack_model, unpack_model

N_ITEMS, DIM = 24, 4


def released_for(name, *, seed=0):
    rng = np.random.default_rng(seed)
    columns = item_table_of(make_module(name, N_ITEMS, DIM), "items.weight", n_items=N_ITEMS).shape[1]
    columns -= name == "mf"
    return ItemEmbeddings(
        vectors=torch.from_numpy(0.5 * rng.standard_normal((N_ITEMS, columns))).float(),
        bias=torch.zeros(N_ITEMS),
        history_weights=torch.ones(N_ITEMS),
        fold_in=FoldIn(kind="projection"),
        catalogue_hash="c",
        module=TrainedModule(name=name, dim=DIM, item_table="items.weight", loss="bce", bias_scale=0.1),
    )


@pytest.fixture(scope="module")
def train():
    """Users who like the first or the second half of the catalogue."""
    rng = np.random.default_rng(1)
    halves = np.arange(120)[:, None] % 2 == (np.arange(N_ITEMS) >= N_ITEMS // 2)[None]
    return sparse.csr_matrix((rng.random((120, N_ITEMS)) < np.where(halves, 0.5, 0.05)).astype(np.float32))


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"mf"}))
def test_all_but_the_table_is_fitted(name, train):
    released = released_for(name)
    before, after = start_private_parts(released), fit_private_parts(train, released, epochs=2)
    for parts in (before, after):
        table = item_table_of(parts.module, "items.weight", n_items=N_ITEMS)
        assert torch.equal(table[:-1], released.vectors)
        assert "items.weight" not in parts.state()
    moved = {part for part, values in after.state().items() if not np.array_equal(values, before.state()[part])}
    assert moved
    assert has_private_parts(released)
    # The same users give the same parts.
    again = fit_private_parts(train, released, epochs=2)
    assert np.array_equal(again.scores(train[:9]), after.scores(train[:9]))


def test_fitting_helps_the_users_that_it_is_fitted_to(train):
    released = released_for("recommender-net")
    half = np.arange(N_ITEMS) >= N_ITEMS // 2

    def contrast(parts):
        scores = parts.scores(train)
        apart = scores[:, half].mean(1) - scores[:, ~half].mean(1)
        return (apart[1::2].mean() - apart[0::2].mean()) / apart.std()

    fitted, start = fit_private_parts(train, released, epochs=20), start_private_parts(released)
    assert abs(contrast(fitted)) > abs(contrast(start)) or contrast(fitted) * contrast(start) < 0


def test_matrix_factorisation_has_none(train):
    assert not has_private_parts(released_for("mf"))
    assert not has_private_parts(replace(released_for("mf"), module=None))
    with pytest.raises(ConfigurationError, match="no PyTorch module"):
        fit_private_parts(train, replace(released_for("mf"), module=None))


def test_the_released_file_names_the_module_and_older_files_do_not(tmp_path):
    released = released_for("attention")
    for model in (released, replace(released, module=None)):
        save_item_embeddings(model, tmp_path / "model")
        assert load_item_embeddings(tmp_path / "model").module == model.module
    assert b"module" not in (tmp_path / "model").read_bytes()


@pytest.mark.parametrize("own_weight", [0.0, 2.0])
def test_what_is_sealed_gives_the_same_scores(own_weight, train):
    released = released_for("two-tower")
    model = fit_silo_model(train, released, Recipe(own_weight=own_weight, private_parts=True))
    assert model.recipe.name == "silo-trusted"
    opened = unpack_model(pack_model(model), released)
    assert opened.recipe == model.recipe
    np.testing.assert_allclose(opened.scores(train[:5]), model.scores(train[:5]), rtol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_parts_are_not_chosen_where_they_lose_on_the_silos_own_users(seed, train):
    folds = split_folds(train, rng=np.random.default_rng(seed))
    own, released = choose_alone(folds), released_for("autoencoder", seed=seed)
    choice = choose_on(folds, own, released)
    tried = {recipe: value for recipe, value in choice.validation.items() if recipe.private_parts}
    assert any(recipe.own_weight == 0 for recipe in tried)
    assert any(0 < recipe.own_weight < math.inf for recipe in tried)
    assert choice.validation[choice.recipe] >= choice.validation[own.recipe]
    if choice.recipe.private_parts:
        assert choice.validation[choice.recipe] > choice.validation[own.recipe]
