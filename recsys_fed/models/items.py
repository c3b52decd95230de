"""The shared model: one embedding and one bias an item, and how a user's vector follows from a history."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from recsys_fed import checks
from recsys_fed.errors import ConfigurationError, DataFormatError, DataNotFoundError

_METADATA = "recsys-fed item embeddings"
_VERSION = 1
TENSORS = ("vectors", "bias", "history_weights")


@dataclass(frozen=True, kw_only=True)
class FoldIn:
    """How a user's vector u [embedding_dim] follows from a history H, with item vectors v_i and weights w_i.

    "projection":  u = sum_{i in H} w_i v_i / ||w_H||
    "ridge":       u = argmin sum_{i in H} w_i (1 - v_i u)^2 + unobserved_weight sum_i (v_i u)^2
                       + regularization ||u||^2              (implicit ALS, Hu, Koren and Volinsky 2008)

    An empty history gives the zero vector under both: the ranking is then that of the item bias.
    """

    kind: str
    unobserved_weight: float = 0.0
    regularization: float = 1.0

    def __post_init__(self) -> None:
        checks.one_of(("projection", "ridge"), kind=self.kind)
        checks.non_negative(unobserved_weight=self.unobserved_weight)
        checks.positive(regularization=self.regularization)


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemEmbeddings:
    """All that is ever aggregated. The score of item i for a user's vector u is v_i u + b_i.

    Attributes:
        vectors: V, float32 [n_items, embedding_dim].
        bias: b, float32 [n_items].
        history_weights: w, float32 [n_items], how much an item counts in a fold-in.
        fold_in: how a user's vector follows from a history.
        catalogue_hash: content hash of the catalogue whose rows these are.
    """

    vectors: torch.Tensor
    bias: torch.Tensor
    history_weights: torch.Tensor
    fold_in: FoldIn
    catalogue_hash: str

    def __post_init__(self) -> None:
        n_items = len(self.vectors)
        if self.vectors.ndim != 2 or self.bias.shape != (n_items,) or self.history_weights.shape != (n_items,):
            raise DataFormatError(
                "Expected vectors [n_items, embedding_dim] with bias and history_weights [n_items], got "
                f"{tuple(self.vectors.shape)}, {tuple(self.bias.shape)}, {tuple(self.history_weights.shape)}."
            )
        for name in TENSORS:
            if not getattr(self, name).isfinite().all():
                raise DataFormatError(f"Expected finite {name}, got NaN or infinity: the training diverged.")

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
        return ItemEmbeddings(**tensors, fold_in=self.fold_in, catalogue_hash=self.catalogue_hash)


def item_embeddings_bytes(model: ItemEmbeddings) -> bytes:
    """The model as one safetensors blob; equal models give equal bytes."""
    # One key only: safetensors writes several in an order that changes from process to process.
    record = {"version": _VERSION, "catalogue_hash": model.catalogue_hash, "fold_in": asdict(model.fold_in)}
    metadata = {_METADATA: json.dumps(record, sort_keys=True)}
    tensors = {name: getattr(model, name).detach().cpu().float().contiguous() for name in TENSORS}
    return save(tensors, metadata=metadata)


def save_item_embeddings(model: ItemEmbeddings, path: Path) -> None:
    """Write the model; the file appears whole or not at all."""
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(item_embeddings_bytes(model))
    partial.replace(path)


def load_item_embeddings(path: Path) -> ItemEmbeddings:
    """Read what `save_item_embeddings` wrote.

    Raises:
        DataNotFoundError: there is no such file.
        DataFormatError: it is not such a file.
    """
    if not path.is_file():
        raise DataNotFoundError(f"Expected item embeddings at {path}, there is no such file. Train first.")
    try:
        with safe_open(path, framework="pt") as file:
            record: Mapping[str, Any] = json.loads((file.metadata() or {})[_METADATA])
            tensors = {name: file.get_tensor(name) for name in TENSORS}
        _check_types(record, tensors)
        fold_in = FoldIn(**record["fold_in"])
        return ItemEmbeddings(**tensors, fold_in=fold_in, catalogue_hash=record["catalogue_hash"])
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError, ConfigurationError) as error:
        raise DataFormatError(f"Expected item embeddings in {path}, got another file: {error}.") from error


def _check_types(record: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    if record["version"] != _VERSION:
        raise ConfigurationError(f"expected version {_VERSION}, got {record['version']!r}")
    if not isinstance(record["catalogue_hash"], str):
        raise ConfigurationError(f"expected catalogue_hash to be a text, got {record['catalogue_hash']!r}")
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise ConfigurationError(f"expected {name} of type float32, got {tensor.dtype}")
