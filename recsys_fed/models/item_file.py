"""The file of item embeddings, and what stands in it beside the tables; read and checked without torch.

A safetensors file with the float32 tables `TENSORS` and one JSON record in its metadata. The service reads it as
numpy arrays, training as tensors.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safetensors import SafetensorError, safe_open

from recsys_fed import checks
from recsys_fed.errors import ConfigurationError, DataFormatError, DataNotFoundError

if TYPE_CHECKING:
    from recsys_fed.models.histories import Signal

_METADATA = "recsys-fed item embeddings"
_VERSION = 1
TENSORS = ("vectors", "bias", "history_weights")
_FIRST_KEYS = ("kind", "unobserved_weight", "regularization")


@dataclass(frozen=True, kw_only=True)
class FoldIn:
    """How a user's vector u [embedding_dim] follows from a history H, with item vectors v_i and weights w_i.

    "projection":  u = sum_{i in H} w_i v_i / ||w_H||
    "ridge":       u = argmin sum_{i in H} w_i (1 - v_i u)^2 + unobserved_weight sum_i (v_i u)^2
                       + regularization ||u||^2              (implicit ALS, Hu, Koren and Volinsky 2008)
    "ratings":     u = argmin sum_{i in H} (r_i - b_i - v_i u)^2 + regularization ||u||^2 over the interactions that
                       have a rating r_i; v_i u + b_i is then the rating to expect

    An empty history gives the zero vector under all of them: the ranking is then that of the item bias.

    Under projection and ridge w_i is multiplied by the weight of the interaction, where the history has weights.

    With a half-life the weight of an interaction is w_i 2^(-age / half-life). Its age is the number of the user's
    later interactions; or, under `half_life_days`, the time to the user's latest one, and for an interaction without
    a time that of the earliest which has one. In histories that do not say (see `Signals`) all count alike.

    Attributes:
        kind: of those above.
        unobserved_weight: of ridge.
        regularization: of ridge and ratings.
        half_life: in positions; 0: age does not matter.
        half_life_days: in days of the clock; 0: age does not matter.
        lowest, highest: of ratings: the scale that predictions are cut off at.
    """

    kind: str
    unobserved_weight: float = 0.0
    regularization: float = 1.0
    half_life: float = 0.0
    half_life_days: float = 0.0
    lowest: float = 0.0
    highest: float = 0.0

    def __post_init__(self) -> None:
        checks.one_of(("projection", "ridge", "ratings"), kind=self.kind)
        checks.non_negative(unobserved_weight=self.unobserved_weight)
        checks.positive(regularization=self.regularization)
        checks.non_negative(half_life=self.half_life, half_life_days=self.half_life_days)
        if self.half_life and self.half_life_days:
            raise ConfigurationError("Expected a half-life in positions or in days, got both.")

    @property
    def reads(self) -> "frozenset[Signal]":
        """Which signals of histories it reads."""
        read: dict[Signal, object] = {
            "order": self.half_life,
            "time": self.half_life_days,
            "value": self.kind == "ratings",
        }
        return frozenset(signal for signal, does in read.items() if does)

    def record(self) -> dict[str, Any]:
        """As a model's file has it; what earlier versions did not know is left out where it is zero."""
        return {key: value for key, value in asdict(self).items() if value or key in _FIRST_KEYS}


@dataclass(frozen=True, kw_only=True)
class TrainedModule:
    """The PyTorch module whose item table was trained, public: what its private parts are fitted by in a silo.

    Attributes:
        name: of `models.torch_modules`. dim: it was made with. item_table: the parameter.
        loss: name of the one that was trained with.
        bias_scale: of a last column of the table that is the model's bias; 0 where there is none.
    """

    name: str
    dim: int
    item_table: str
    loss: str
    bias_scale: float = 0.0


def item_file_metadata(fold_in: FoldIn, catalogue_hash: str, module: TrainedModule | None) -> dict[str, str]:
    """The metadata of such a file; equal models give equal bytes."""
    # One key only: safetensors writes several in an order that changes from process to process.
    record = {"version": _VERSION, "catalogue_hash": catalogue_hash, "fold_in": fold_in.record()}
    if module is not None:
        record["module"] = asdict(module)
    return {_METADATA: json.dumps(record, sort_keys=True)}


def read_item_file(path: Path, *, framework: Literal["np", "pt"]) -> dict[str, Any]:
    """The fields of `models.items.ItemEmbeddings` by name, tables as numpy arrays or as tensors of torch.

    Raises:
        DataNotFoundError: there is no such file.
        DataFormatError: it is not such a file. Shapes and values: `check_item_tables`.
    """
    if not path.is_file():
        raise DataNotFoundError(f"Cannot find item embeddings at {path}. Train first.")
    try:
        with safe_open(path, framework=framework) as file:
            record: Mapping[str, Any] = json.loads((file.metadata() or {})[_METADATA])
            tables = {name: file.get_tensor(name) for name in TENSORS}
        _check_types(record, tables)
        fold_in = FoldIn(**record["fold_in"])
        module = TrainedModule(**record["module"]) if "module" in record else None
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError, ConfigurationError) as error:
        raise DataFormatError(f"Expected item embeddings in {path}, got another file: {error}.") from error
    return tables | {"fold_in": fold_in, "catalogue_hash": record["catalogue_hash"], "module": module}


def check_item_tables(tables: Mapping[str, Any], *, is_finite: Callable[[Any], Any]) -> None:
    """Check shapes and values of the tables; raises DataFormatError."""
    vectors, *columns = (tables[name] for name in TENSORS)
    if vectors.ndim != 2 or any(tuple(column.shape) != (len(vectors),) for column in columns):
        shapes = ", ".join(str(tuple(tables[name].shape)) for name in TENSORS)
        raise DataFormatError(
            f"Expected vectors [n_items, embedding_dim] with bias and history_weights [n_items], got {shapes}."
        )
    for name, table in tables.items():
        if not is_finite(table).all():
            raise DataFormatError(f"Expected finite {name}, got NaN or infinity: the training diverged.")


def _check_types(record: Mapping[str, Any], tables: Mapping[str, Any]) -> None:
    if record["version"] != _VERSION:
        raise ConfigurationError(f"expected version {_VERSION}, got {record['version']!r}")
    if not isinstance(record["catalogue_hash"], str):
        raise ConfigurationError(f"expected catalogue_hash to be a text, got {record['catalogue_hash']!r}")
    for name, table in tables.items():
        kind = str(table.dtype).removeprefix("torch.")
        if kind != "float32":
            raise ConfigurationError(f"expected {name} of type float32, got {kind}")
