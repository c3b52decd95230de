"""One version of the released model, ready to serve: plain arrays that nobody writes to."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys_fed.context import PackedEffects, read_effects, write_effects
from recsys_fed.errors import DataFormatError, DataNotFoundError

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
_ARRAYS, RECORD = ("vectors", "bias", "weights", "gramian"), "release.json"
_EFFECTS = "effects.npz"


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedModel:
    """A model version. The score of item i for a user's vector u is v_i u + b_i (+ the silo's residual).

    Attributes:
        version: SHA-256 (hex) of the model's file.
        item_ids, titles, categories: of the catalogue's rows; titles are "" and categories empty where unknown.
        vectors: V, float32 [n_items, dim]. bias: b, float32 [n_items]. weights: of items in a fold-in, float32
        [n_items]. gramian: V^T V, float64 [dim, dim].
        kind: "projection", "ridge" or "ratings". unobserved_weight, regularization: of the latter two.
        lowest, highest: of "ratings": the scale.
        half_life: of a history in positions; 0: places do not matter. half_life_days: the same of times.
        provenance: what is known of the training: guarantee, epsilon, rounds.
        residual: item-item weights of this silo's own users, float32 [n_items, n_items], or None. Private.
        effects: of attributes and contexts, beside a residual. Private.
    """

    version: str
    item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    categories: tuple[tuple[str, ...], ...]
    vectors: Floats
    bias: Floats
    weights: Floats
    gramian: npt.NDArray[np.float64]
    kind: str
    unobserved_weight: float
    regularization: float
    provenance: Mapping[str, Any]
    residual: Floats | None = None
    effects: Mapping[str, PackedEffects] = field(default_factory=dict)
    half_life: float = 0.0
    half_life_days: float = 0.0
    lowest: float = 0.0
    highest: float = 0.0

    @property
    def n_items(self) -> int:
        """Rows of the catalogue."""
        return len(self.item_ids)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.vectors.shape[1])

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Row by item id."""
        return {item: row for row, item in enumerate(self.item_ids)}

    @cached_property
    def category_rows(self) -> dict[str, Rows]:
        """Rows of every category, ascending."""
        found: dict[str, list[int]] = {}
        for row, names in enumerate(self.categories):
            for name in dict.fromkeys(names):
                found.setdefault(name, []).append(row)
        return {name: np.array(rows, dtype=np.int64) for name, rows in found.items()}

    @cached_property
    def norms(self) -> Floats:
        """|v_i|, float32 [n_items]."""
        return np.asarray(np.linalg.norm(self.vectors, axis=1), dtype=np.float32)

    def rows(self, items: Iterable[str]) -> Rows:
        """Rows of those of `items` that are known, ascending, each once."""
        found = {self.row_of[item] for item in items if item in self.row_of}
        return np.array(sorted(found), dtype=np.int64)


def write_packed_model(release: PackedModel, folder: Path) -> None:
    """Write a version into an empty folder; `read_packed_model` reads it without torch."""
    for name in _ARRAYS:
        np.save(folder / f"{name}.npy", getattr(release, name))
    if release.residual is not None:
        np.save(folder / "residual.npy", release.residual)
    if release.effects:
        with (folder / _EFFECTS).open("wb") as file:
            write_effects(file, release.effects)
    record = {
        "version": release.version,
        "item_ids": release.item_ids,
        "titles": release.titles,
        "categories": release.categories,
        "kind": release.kind,
        "unobserved_weight": release.unobserved_weight,
        "regularization": release.regularization,
        "half_life": release.half_life,
        "half_life_days": release.half_life_days,
        "lowest": release.lowest,
        "highest": release.highest,
        "provenance": dict(release.provenance),
    }
    (folder / RECORD).write_text(json.dumps(record), encoding="utf-8")


def read_packed_model(folder: Path) -> PackedModel:
    """Read a version that `write_packed_model` wrote; arrays are mapped, and read when they are needed.

    Raises:
        DataNotFoundError: there is none. DataFormatError: it is damaged.
    """
    if not (folder / RECORD).is_file():
        raise DataNotFoundError(f"There is no model version in {folder}.")
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        arrays = {name: np.load(folder / f"{name}.npy") for name in _ARRAYS}
        residual = folder / "residual.npy"
        release = PackedModel(
            version=str(record["version"]),
            item_ids=tuple(record["item_ids"]),
            titles=tuple(record["titles"]),
            categories=tuple(map(tuple, record["categories"])),
            kind=str(record["kind"]),
            unobserved_weight=float(record["unobserved_weight"]),
            regularization=float(record["regularization"]),
            half_life=float(record.get("half_life", 0.0)),
            half_life_days=float(record.get("half_life_days", 0.0)),
            lowest=float(record.get("lowest", 0.0)),
            highest=float(record.get("highest", 0.0)),
            provenance=record["provenance"],
            residual=np.load(residual, mmap_mode="r") if residual.is_file() else None,
            effects=read_effects(folder / _EFFECTS, n_items=len(record["item_ids"])),
            **arrays,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataFormatError(f"Expected a model version in {folder}, it is damaged: {error}.") from error
    _check(release, folder)
    return release


def _check(release: PackedModel, folder: Path) -> None:
    n, dim = release.n_items, release.gramian.shape[0]
    shapes = (release.vectors.shape, release.bias.shape, release.weights.shape, release.gramian.shape)
    if shapes != ((n, dim), (n,), (n,), (dim, dim)) or not len(release.titles) == len(release.categories) == n:
        raise DataFormatError(f"Expected tables of {n} items in {folder}, got shapes {shapes}.")
    if release.residual is not None and release.residual.shape != (n, n):
        raise DataFormatError(f"Expected a residual of [{n}, {n}], got {release.residual.shape}.")
