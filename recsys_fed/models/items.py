"""The shared model: one embedding and one bias an item, and how a user's vector follows from a history.

User vectors are private and never leave a silo; the fold-in is in closed form.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save

from recsys_fed.errors import ConfigurationError
from recsys_fed.files import write_whole
from recsys_fed.models.exact_scores import observed_scores
from recsys_fed.models.histories import Histories
from recsys_fed.models.item_file import TENSORS, check_item_tables, item_file_metadata, read_item_file
from recsys_fed.models.item_file import FoldIn as FoldIn  # noqa: PLC0414  (trainers import it from here)
from recsys_fed.models.item_file import TrainedModule as TrainedModule  # noqa: PLC0414


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemEmbeddings:
    """All that is ever aggregated. The score of item i for a user's vector u is v_i u + b_i.

    Attributes:
        vectors: V, float32 [n_items, embedding_dim].
        bias: b, float32 [n_items].
        history_weights: w, float32 [n_items], how much an item counts in a fold-in.
        fold_in: how a user's vector follows from a history.
        catalogue_hash: content hash of the catalogue whose rows these are.
        module: of the trainer torch.
    """

    vectors: torch.Tensor
    bias: torch.Tensor
    history_weights: torch.Tensor
    fold_in: FoldIn
    catalogue_hash: str
    module: TrainedModule | None = None

    def __post_init__(self) -> None:
        check_item_tables({name: getattr(self, name) for name in TENSORS}, is_finite=torch.isfinite)

    @property
    def n_items(self) -> int:
        """Number of rows."""
        return len(self.vectors)

    @property
    def embedding_dim(self) -> int:
        """Length of an item's and of a user's vector."""
        return self.vectors.shape[1]

    def to(self, device: torch.device | str) -> "ItemEmbeddings":
        """Return the same model on another device."""
        tensors = {name: getattr(self, name).to(device) for name in TENSORS}
        return replace(self, **tensors)


def favour_rare_items(model: ItemEmbeddings, share: float) -> ItemEmbeddings:
    """The model with scores v_i u / |v_i|^share + (1 - share) b_i, and users folded in as before.

    What is frequent has long vectors and a large bias, so lists go to rarer items, at a cost in recall. The vectors
    become v_i / |v_i|^share and the weights w_i |v_i|^share, so that their products, of which a user's vector is the
    sum, stay; it is still divided by the length of the weights. Guarantees: post-processing of the released model.

    Args:
        model: of fold-in "projection".
        share: from 0, which changes nothing, to below 1.

    Raises:
        ConfigurationError: another fold-in, whose user vectors are no such sums.
    """
    if not share:
        return model
    if model.fold_in.kind != "projection":
        raise ConfigurationError(
            f"Expected long-tail = 0 with a model of fold-in {model.fold_in.kind}, got {share:g}. "
            "Take trainer = auto or spectral."
        )
    norms = model.vectors.norm(dim=1)
    lengths = torch.where(norms > 0, norms, 1.0) ** share
    return replace(
        model,
        vectors=model.vectors / lengths[:, None],
        history_weights=model.history_weights * lengths,
        bias=model.bias * (1 - share),
    )


def item_embeddings_bytes(model: ItemEmbeddings) -> bytes:
    """The model as one safetensors blob; equal models give equal bytes."""
    metadata = item_file_metadata(model.fold_in, model.catalogue_hash, model.module)
    tensors = {name: getattr(model, name).detach().cpu().float().contiguous() for name in TENSORS}
    return save(tensors, metadata=metadata)


def save_item_embeddings(model: ItemEmbeddings, path: Path) -> None:
    """Write the model; the file appears whole or not at all."""
    write_whole(path, item_embeddings_bytes(model))


def load_item_embeddings(path: Path) -> ItemEmbeddings:
    """Read what `save_item_embeddings` wrote.

    Raises:
        DataNotFoundError: there is no such file.
        DataFormatError: it is not such a file.
    """
    return ItemEmbeddings(**read_item_file(path, framework="pt"))


# Bounds what a batch holds, in floats: gathered rows [users, length, dim] and equations [users, dim, dim].
_BATCH_FLOATS = 1 << 19
_LONG_ROWS = 512
_ALIGNED = 16


def gramian_of(vectors: torch.Tensor) -> torch.Tensor:
    """V^T V of a table [n_rows, dim], float64 [dim, dim]; see `long_product`."""
    return long_product(vectors, vectors)


def long_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """left^T right of two tables with many rows, [n_rows, m] and [n_rows, k]: float64 [m, k].

    In blocks of few rows, which no library splits over threads: the bytes do not depend on their number.
    """
    total = torch.zeros(left.shape[1], right.shape[1], dtype=torch.float64, device=left.device)
    for start in range(0, len(left), _LONG_ROWS):
        rows = left[start : start + _LONG_ROWS].double()
        others = rows if right is left else right[start : start + _LONG_ROWS].double()
        total.addmm_(rows.T, others)
    return total


def ridge(
    vectors: torch.Tensor,
    histories: Histories,
    weights: torch.Tensor,
    *,
    how: FoldIn,
    gramian: torch.Tensor | None = None,
    targets: torch.Tensor | None = None,
) -> torch.Tensor:
    """User vectors [n_users, dim] from item vectors [n_items, dim] and weights [n_items].

    The scores v_i u are fitted to `targets` [n_interactions], all ones without them; `gramian` is that of the
    vectors, for a pull of unobserved scores towards zero.

    Guarantees: a user's vector depends on the tables and on that user's history alone. The length to which a
    history is padded is a function of its own length, and every user's products lie alike in memory, so that on a CPU
    not even rounding depends on other users (the library's product of a batch is taken to treat a matrix alike
    wherever in the batch it stands; tests ask it). A user without interactions, and one whose equations overflow or
    have no solution, gets the zero vector; no exception.
    """
    dim = vectors.shape[1]
    # The library's last bits depend on where in memory a matrix of odd width starts.
    wide = dim + (-dim % _ALIGNED if dim % 4 else 0)
    users = torch.zeros(histories.n_users, dim, dtype=vectors.dtype, device=vectors.device)
    identity = torch.eye(dim, dtype=torch.float64, device=vectors.device)
    shared = how.regularization * identity
    if gramian is not None:
        shared = how.unobserved_weight * gramian + shared
    shared = shared.to(vectors.dtype)
    per_interaction = _weights_of(histories, weights, how=how)
    aims = per_interaction if targets is None else per_interaction * targets.to(per_interaction.dtype)
    projected = histories.times(aims, vectors)
    vectors, projected = _widen(vectors, wide), _widen(projected, wide)
    shared = _widen(_widen(shared, wide).T, wide)
    shared.diagonal()[dim:] = 1.0
    lengths = _pad(histories.starts.diff())
    for length in torch.unique(lengths).tolist():
        if not length:
            continue
        same = (lengths == length).nonzero()[:, 0]
        for some in same.split(max(1, _BATCH_FLOATS // ((length + dim) * dim))):
            rows = _gather(vectors, histories, per_interaction, users=some, length=length)
            normal = torch.baddbmm(shared, rows.mT, rows)
            # solve_ex does not raise: whether a user's equations overflow must not decide whether a silo answers.
            users[some] = torch.linalg.solve_ex(normal, projected[some]).result[:, :dim]
    return users.masked_fill_(~users.isfinite().all(1, keepdim=True), 0.0)


def _widen(table: torch.Tensor, columns: int) -> torch.Tensor:
    """Columns of zeros beside those of a table."""
    extra = columns - table.shape[1]
    return torch.nn.functional.pad(table, (0, extra)) if extra else table


def _gather(
    vectors: torch.Tensor, histories: Histories, weights: torch.Tensor, *, users: torch.Tensor, length: int
) -> torch.Tensor:
    """sqrt(w) v_i of the users' interactions, w [n_interactions], zeros after the last: [n_users, length, dim]."""
    starts, stops = histories.starts[users], histories.starts[users + 1]
    places = starts[:, None] + torch.arange(length, device=starts.device)
    inside = places < stops[:, None]
    taken = torch.where(inside, places, starts[:, None]).flatten()
    rows = vectors.index_select(0, histories.items[taken]).mul_((weights[taken].sqrt() * inside.flatten())[:, None])
    return rows.view(len(users), length, -1)


def _pad(lengths: torch.Tensor) -> torch.Tensor:
    """The next length that is a power of two or 5, 6 or 7 quarters of one: at most a quarter more; 0 stays 0."""
    quarter = torch.ones_like(lengths)
    while bool((lengths > 8 * quarter).any()):
        quarter = torch.where(lengths > 8 * quarter, 2 * quarter, quarter)
    return (lengths + quarter - 1) // quarter * quarter


def user_vectors(model: ItemEmbeddings, histories: Histories) -> torch.Tensor:
    """Fold in every user of `histories`: [n_users, embedding_dim] float32 on the model's device.

    Guarantees: row u depends on the model and on the history of user u alone, so serving from a released
    model costs no further privacy. A user without interactions gets the zero vector.
    """
    if model.fold_in.kind == "ratings":
        return _fold_in_ratings(model, histories)
    return fold_in(model.vectors, histories, model.history_weights, how=model.fold_in)


def _fold_in_ratings(model: ItemEmbeddings, histories: Histories) -> torch.Tensor:
    values = histories.signals.value if histories.signals is not None else None
    if values is None:
        return torch.zeros(histories.n_users, model.embedding_dim, dtype=model.vectors.dtype, device=histories.device)
    there = ~values.isnan()
    rated = histories.where(there)
    targets = values[there] - model.bias[rated.items]
    return ridge(model.vectors, rated, model.history_weights, how=model.fold_in, targets=targets)


def predicted_ratings(model: ItemEmbeddings, users: torch.Tensor, histories: Histories) -> torch.Tensor:
    """The rating to expect at each interaction, float32 [n_interactions], from user vectors [n_users, dim].

    Raises:
        ConfigurationError: the model was not trained on ratings.
    """
    how = model.fold_in
    if how.kind != "ratings":
        raise ConfigurationError(
            f"Expected a model of ratings, got one of {how.kind}: its scores order items and are no ratings. "
            "Train with target = rating."
        )
    found = observed_scores(histories, users, model.vectors) + model.bias[histories.items]
    return found.clamp(how.lowest, how.highest)


def fold_in(vectors: torch.Tensor, histories: Histories, weights: torch.Tensor, *, how: FoldIn) -> torch.Tensor:
    """User vectors [n_users, embedding_dim] from item vectors [n_items, embedding_dim], weights [n_items]."""
    if how.kind == "ridge":
        return ridge(vectors, histories, weights, gramian=gramian_of(vectors), how=how)
    per_interaction = _weights_of(histories, weights, how=how)
    # h_u = sum_{i in H(u)} w_i v_i
    projected = histories.times(per_interaction, vectors)
    norms = histories.per_user(per_interaction.square()).sqrt()
    return projected / norms.clamp_min(torch.finfo(norms.dtype).tiny)[:, None]


def _weights_of(histories: Histories, weights: torch.Tensor, *, how: FoldIn) -> torch.Tensor:
    """What every interaction counts, [n_interactions], from the weights of items [n_items]."""
    found = weights[histories.items]
    if how.half_life or how.half_life_days:
        found = found * recency(histories, how).to(found.dtype)
    if histories.weights is not None and how.kind != "ratings":
        found = found * histories.weights.to(found.dtype)
    return found


_A_DAY = 86_400e9


def recency(histories: Histories, how: FoldIn) -> torch.Tensor:
    """2^(-age / half-life) of each interaction, float64 [n_interactions], see `FoldIn`; ones where nothing says ages.

    Guarantees: that of a user's interactions follows from the user's own alone.
    """
    signals = histories.signals
    if signals is not None and signals.rank is not None and how.half_life:
        ages = (histories.starts.diff()[histories.users] - 1 - signals.rank).double()
        return torch.exp2(-ages / how.half_life)
    if signals is not None and signals.time is not None and how.half_life_days:
        return torch.exp2(-_nanoseconds_before_newest(histories, signals.time) / (how.half_life_days * _A_DAY))
    return torch.ones(len(histories.items), dtype=torch.float64, device=histories.device)


def _nanoseconds_before_newest(histories: Histories, time: torch.Tensor) -> torch.Tensor:
    missing, values = time == torch.iinfo(time.dtype).min, time.double()
    newest = _largest_of_users(histories, values.masked_fill(missing, -torch.inf))
    ages = (newest[histories.users] - values).masked_fill_(missing, 0.0)
    return torch.where(missing, _largest_of_users(histories, ages)[histories.users], ages)


def _largest_of_users(histories: Histories, values: torch.Tensor) -> torch.Tensor:
    largest = values.new_full((histories.n_users,), -torch.inf)
    return largest.scatter_reduce_(0, histories.users, values, "amax")


def scores(model: ItemEmbeddings, users: torch.Tensor) -> torch.Tensor:
    """Scores [n_users, n_items] of all items for user vectors [n_users, embedding_dim]."""
    return torch.addmm(model.bias, users, model.vectors.T)
