"""A silo's own model: fitted to its state, as sealed bytes and back, and as the tables of its service. Private."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load, save
from scipy import sparse

from recsys_fed.context import PackedEffects
from recsys_fed.errors import ConfigurationError
from recsys_fed.models.histories import Histories
from recsys_fed.models.items import ItemEmbeddings
from recsys_fed.models.self_attention import AttentionSettings, SelfAttention
from recsys_fed.models.transitions import Following, Transitions
from recsys_fed.personalisation.choice import (
    WAYS,
    choose_alone,
    choose_fusion,
    choose_on,
    fit_with_fusion,
    split_folds,
)
from recsys_fed.personalisation.fusion import Effects, Fusion
from recsys_fed.personalisation.next_item import (
    NextItemModel,
    NextRecipe,
    choose_next,
    fit_next_item_model,
    hold_out_latest,
)
from recsys_fed.personalisation.private_parts import restore_private_parts
from recsys_fed.personalisation.silo_model import (
    AS_RELEASED,
    ItemModel,
    Recipe,
    Shown,
    SiloModel,
    Singles,
    fit_silo_model,
)
from recsys_fed.silo.told import Knowledge

# In the place of an infinite weight, where the released model cannot be left out.
_ALMOST_ALONE = 1e5
# Before the names of what a module and self-attention hold, among the tensors of a silo's own model.
_PRIVATE, _ATTENTION = "private.", "attention."


OwnModel = SiloModel | NextItemModel


def fit_own_model(
    users: npt.NDArray[np.object_],
    histories: Histories,
    released: ItemEmbeddings,
    knowledge: Knowledge | None,
    *,
    purpose: str,
    self_attention: bool = False,
) -> OwnModel:
    """Choose a recipe on the silo's users and fit it to all of them: of the next item, where that is asked for.

    Args:
        users, histories: pseudonyms of the silo's users, and their histories.
        released: the model in use; it asks for the next item if it weighs a history by its order.
        knowledge: what else counts, where it wins; nothing beside a model of the next item.
        purpose: a public text that the choice of users follows from, so that the same state gives the same model.
        self_attention: whether that is tried, too, in a model of the next item.
    """
    rng = _rng_of(purpose)
    if "order" in released.fold_in.reads and histories.signals is not None and histories.signals.rank is not None:
        attention = AttentionSettings() if self_attention else None
        choice = choose_next(hold_out_latest(histories, rng=rng), released, attention=attention)
        return fit_next_item_model(histories, released, choice.recipe, attention=attention)
    return fit_unordered_model(users, histories, released, knowledge, purpose=purpose)


def fit_unordered_model(
    users: npt.NDArray[np.object_],
    histories: Histories,
    released: ItemEmbeddings,
    knowledge: Knowledge | None,
    *,
    purpose: str,
    ways: tuple[Shown, ...] = WAYS,
) -> SiloModel:
    """The same of recipes that score the released model in one of these ways."""
    matrix = histories.matrix()
    folds = split_folds(matrix, rng=_rng_of(purpose))
    recipe = choose_on(folds, choose_alone(folds), released, ways=ways).recipe
    if knowledge is None:
        return fit_silo_model(matrix, released, recipe)
    told = knowledge.of(users, histories)
    weights = choose_fusion(matrix, told, folds, released, recipe).weights
    return fit_with_fusion(matrix, told, released, recipe, weights)


def _rng_of(purpose: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "big"))


def pack_model(model: OwnModel, asked: tuple[str, ...] = ()) -> bytes:
    """Everything but the released model, and what attributes and contexts were `asked` for; see `unpack_model`."""
    shown = np.array([model.recipe.shown.row_exponent, model.recipe.shown.bias])
    tensors = {"spreads": np.array(model.spreads), "shown": shown}
    if isinstance(model, SiloModel):
        recipe = model.recipe
        tensors["recipe"] = np.array([recipe.own_weight, recipe.pull, recipe.regularization])
        tensors |= _pack_fusion(model.fusion)
        if model.parts is not None:
            tensors |= {f"{_PRIVATE}{name}": np.ascontiguousarray(part) for name, part in model.parts.state().items()}
    else:
        tensors["next"] = np.array([model.recipe.own_weight, model.recipe.ease_weight, *_numbers(model.recipe)])
        if model.transitions is not None:
            counts = model.transitions.counts
            tensors |= {"follow": counts.data, "follow_items": counts.indices, "follow_starts": counts.indptr}
        if model.attention is not None:
            tensors |= _pack_attention(*model.attention, weight=model.recipe.attention_weight)
    if model.item_model is not None:
        for name in _TABLES:
            tensors |= _pack_table(name, getattr(model.item_model, name))
    return save(tensors | {_ASKED: _text(asked)})


# Names of the attributes and contexts that a model was offered, and before each of those that it took.
_ASKED, _EFFECTS, _VALUES = "asked", "effects.", "values."


def _text(value: Any) -> npt.NDArray[np.uint8]:
    return np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)


def _pack_fusion(fusion: Fusion | None) -> dict[str, npt.NDArray[Any]]:
    found: dict[str, npt.NDArray[Any]] = {}
    for name, effects in fusion.effects.items() if fusion is not None else ():
        found |= {f"{_EFFECTS}{name}": effects.table, f"{_VALUES}{name}": _text(effects.values)}
    return found


def _unpack_fusion(tensors: Mapping[str, npt.NDArray[Any]]) -> Fusion | None:
    names = [name.removeprefix(_EFFECTS) for name in tensors if name.startswith(_EFFECTS)]
    found = {
        name: Effects(values=tuple(json.loads(tensors[_VALUES + name].tobytes())), table=tensors[_EFFECTS + name])
        for name in names
    }
    return Fusion(effects=found) if found else None


_TABLES = ("left", "right", "core")


def _pack_table(name: str, table: Singles | sparse.csr_matrix | None) -> dict[str, npt.NDArray[Any]]:
    if table is None:
        return {}
    if isinstance(table, sparse.csr_matrix):
        shape = np.array(table.shape, dtype=np.int64)
        return {
            name: table.data,
            f"{name}_items": table.indices,
            f"{name}_starts": table.indptr,
            f"{name}_shape": shape,
        }
    return {name: np.ascontiguousarray(table)}


def _unpack_table(tensors: Mapping[str, npt.NDArray[Any]], name: str) -> Singles | sparse.csr_matrix | None:
    if f"{name}_items" not in tensors:
        return tensors.get(name)
    arrays = (tensors[name], tensors[f"{name}_items"], tensors[f"{name}_starts"])
    return sparse.csr_matrix(arrays, shape=tuple(tensors[f"{name}_shape"].tolist()))


def _numbers(recipe: NextRecipe) -> list[float]:
    return [float(getattr(recipe.following, one.name)) for one in fields(Following)]


# What the shapes of self-attention's parameters, and its scores, follow from.
_SIZES = ("embedding_dim", "layers", "heads", "length")


def _pack_attention(model: SelfAttention, spread: float, *, weight: float) -> dict[str, npt.NDArray[Any]]:
    sizes = [getattr(model.settings, name) for name in _SIZES]
    tensors = {f"{_ATTENTION}{name}": part.numpy() for name, part in model.state_dict().items()}
    return tensors | {"attention": np.array([weight, spread, *sizes])}


def _unpack_attention(
    tensors: Mapping[str, npt.NDArray[Any]], *, n_items: int
) -> tuple[float, tuple[SelfAttention, float] | None]:
    """Weight, self-attention and the spread of its scores; 0 and None where there is none."""
    if "attention" not in tensors:
        return 0.0, None
    weight, spread, *sizes = tensors["attention"].tolist()
    model = SelfAttention(n_items, AttentionSettings(**dict(zip(_SIZES, map(int, sizes), strict=True))))
    named = {name.removeprefix(_ATTENTION): part for name, part in tensors.items() if name.startswith(_ATTENTION)}
    model.load_state_dict({name: torch.from_numpy(np.array(part)) for name, part in named.items()})
    return weight, (model.eval(), spread)


def asked_of(content: bytes) -> tuple[str, ...]:
    tensors = load(content)
    return tuple(json.loads(tensors[_ASKED].tobytes())) if _ASKED in tensors else ()


def unpack_model(content: bytes, released: ItemEmbeddings) -> OwnModel:
    """What `pack_model` wrote, with the released model that it was fitted beside."""
    tensors = load(content)
    tables = {name: _unpack_table(tensors, name) for name in _TABLES}
    item_model = None if tables["left"] is None else ItemModel(**tables)
    # Models that were sealed before there was a choice have none: they score the released model as it is.
    row_exponent, bias = tensors["shown"].tolist() if "shown" in tensors else (0.0, 1.0)
    shown = Shown(row_exponent=row_exponent, bias=bool(bias))
    if "next" in tensors:
        own_weight, ease_weight, *numbers = tensors["next"].tolist()
        values = dict(zip((one.name for one in fields(Following)), numbers, strict=True))
        following, counts = Following(**(values | {"directed": bool(values["directed"])})), None
        if "follow" in tensors:
            arrays = (tensors["follow"], tensors["follow_items"], tensors["follow_starts"])
            counts = sparse.csr_matrix(arrays, shape=(released.n_items, released.n_items))
        whole, follow, ease = tensors["spreads"].tolist()
        attention_weight, attention = _unpack_attention(tensors, n_items=released.n_items)
        recipe = NextRecipe(own_weight=own_weight, ease_weight=ease_weight, following=following, shown=shown)
        return NextItemModel(
            recipe=replace(recipe, attention_weight=attention_weight),
            released=released,
            transitions=None if counts is None else Transitions(how=following, counts=counts),
            item_model=item_model,
            spreads=(whole, follow, ease),
            attention=attention,
        )
    own_weight, pull, regularization = tensors["recipe"].tolist()
    private = {name.removeprefix(_PRIVATE): part for name, part in tensors.items() if name.startswith(_PRIVATE)}
    first, second = tensors["spreads"].tolist()
    return SiloModel(
        recipe=Recipe(
            own_weight=own_weight,
            pull=pull,
            regularization=regularization,
            shown=shown,
            private_parts=bool(private),
        ),
        released=released,
        item_model=item_model,
        spreads=(first, second),
        parts=restore_private_parts(private, released) if private else None,
        fusion=_unpack_fusion(tensors),
    )


def residual_of(model: SiloModel) -> Singles:
    """B [n_items, n_items]: scores of the released model + sum of B's rows of a history rank as `model` does.

    B = own_weight * spreads[0] / spreads[1] * (item model), 0 on the diagonal. Where the recipe leaves the released
    model out, own_weight is 100,000: that orders only what the item model scores alike. Private to the silo.

    Raises:
        ConfigurationError: the recipe scores the released model otherwise than the service does.
    """
    if model.recipe.shown != AS_RELEASED and not math.isinf(model.recipe.own_weight):
        raise ConfigurationError("Expected a recipe that scores the released model as it is, got another.")
    n_items = model.released.n_items
    if model.item_model is None:
        return np.zeros((n_items, n_items), dtype=np.float32)
    table = model.item_model.weights()
    table *= np.float32(_own_scale(model))
    np.fill_diagonal(table, 0.0)
    return table


def _own_scale(model: SiloModel) -> float:
    """What the item model's scores are multiplied by in the service, where the released model's are as they are."""
    return min(model.recipe.own_weight, _ALMOST_ALONE) * model.spreads[0] / model.spreads[1]


def effects_of(model: SiloModel) -> dict[str, PackedEffects]:
    """Effects by name in the units of the service's scores."""
    if model.fusion is None:
        return {}
    alone = math.isinf(model.recipe.own_weight)
    scale = 1.0 if model.item_model is None else _own_scale(model) if alone else model.spreads[0]
    return {
        name: PackedEffects(
            values={value: row for row, value in enumerate(one.values)}, table=np.float32(scale) * one.table
        )
        for name, one in model.fusion.effects.items()
    }
