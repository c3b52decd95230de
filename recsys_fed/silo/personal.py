"""The silo's own model beside the released one, for "silo-trusted": fitted to its users, kept sealed, never released.

It follows from what the silo keeps of a training (`state`), so it is made when it is first asked for.
"""

import hashlib

import numpy as np
from safetensors.numpy import load, save
from scipy import sparse

from recsys_fed.models.items import ItemEmbeddings
from recsys_fed.personalisation.choice import choose
from recsys_fed.personalisation.silo_model import ItemModel, Recipe, SiloModel, Singles, fit_silo_model

# In the place of an infinite weight, where the released model cannot be left out.
_ALMOST_ALONE = 1e5


def fitted(histories: sparse.csr_matrix, released: ItemEmbeddings, *, purpose: str) -> SiloModel:
    """Choose a recipe on the silo's users and fit it to all of them.

    Args:
        histories: of the silo's users, csr [n_users, n_items] of ones.
        released: the model in use.
        purpose: a public text that the folds of users follow from, so that the same state gives the same model.
    """
    seed = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "big")
    return fit_silo_model(histories, released, choose(histories, released, rng=np.random.default_rng(seed)).recipe)


def packed(model: SiloModel) -> bytes:
    """Everything but the released model; `unpacked` gives it back."""
    recipe = model.recipe
    tensors = {
        "recipe": np.array([recipe.own_weight, recipe.pull, recipe.regularization]),
        "spreads": np.array(model.spreads),
    }
    if model.item_model is not None:
        tensors["left"] = np.ascontiguousarray(model.item_model.left)
        if model.item_model.right is not None:
            tensors["right"] = np.ascontiguousarray(model.item_model.right)
    return save(tensors)


def unpacked(content: bytes, released: ItemEmbeddings) -> SiloModel:
    """What `packed` wrote, with the released model that it was fitted beside."""
    tensors = load(content)
    own_weight, pull, regularization = tensors["recipe"].tolist()
    first, second = tensors["spreads"].tolist()
    return SiloModel(
        recipe=Recipe(own_weight=own_weight, pull=pull, regularization=regularization),
        released=released,
        item_model=ItemModel(left=tensors["left"], right=tensors.get("right")) if "left" in tensors else None,
        spreads=(first, second),
    )


def residual_of(model: SiloModel) -> Singles:
    """B [n_items, n_items]: scores of the released model + sum of B's rows of a history rank as `model` does.

    B = own_weight * spreads[0] / spreads[1] * (item model), 0 on the diagonal. Where the recipe leaves the released
    model out, own_weight is 100,000: that orders only what the item model scores alike. Private to the silo.
    """
    n_items = model.released.n_items
    if model.item_model is None:
        return np.zeros((n_items, n_items), dtype=np.float32)
    left, right = model.item_model.left, model.item_model.right
    table = np.array(left if right is None else left @ right.T, dtype=np.float32)
    table *= np.float32(min(model.recipe.own_weight, _ALMOST_ALONE) * model.spreads[0] / model.spreads[1])
    np.fill_diagonal(table, 0.0)
    return table
