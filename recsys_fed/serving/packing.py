"""Turn a trained model's files into a version that the service reads, without torch.

Run as a process of its own, `python -m recsys_fed.serving.packing MODEL CATALOGUE FOLDER`, so that the service goes
on answering meanwhile. It prints the version.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys_fed.catalogue.items import Catalogue, catalogue_of_model
from recsys_fed.context import read_effects
from recsys_fed.errors import ConfigurationError, RecsysFedError
from recsys_fed.models.item_file import TENSORS, FoldIn, check_item_tables, read_item_file
from recsys_fed.serving.packed_model import PackedModel, write_packed_model
from recsys_fed.serving.versions import DIGITS, model_version

# What a run writes beside its model (`simulation.record`, `federation.run_files`).
_METRICS, _EVENTS = "metrics.json", "events.jsonl"


def pack(
    model_path: Path,
    catalogue_path: Path,
    folder: Path,
    *,
    residual: Path | None = None,
    effects: Path | None = None,
) -> str:
    """Check a model and write it as `folder`/versions/VERSION; returns the version.

    Args:
        model_path: item embeddings. catalogue_path: the catalogue that they were trained on, or a later version.
        folder: state of the service.
        residual: item-item weights of the silo's own users (.npy, [n_items, n_items]), for "silo-trusted".
        effects: of attributes and contexts (.npz, see `effects`), beside a residual.

    Raises:
        DataError: a file is missing or damaged, or they do not belong together.
        ConfigurationError: it is a model of ratings, and there is a residual; or effects without one.
    """
    content = model_path.read_bytes() if model_path.is_file() else b""
    read = read_item_file(model_path, framework="np")
    check_item_tables({name: read[name] for name in TENSORS}, is_finite=np.isfinite)
    vectors, fold_in = read["vectors"], read["fold_in"]
    catalogue = catalogue_of_model(
        Catalogue.load(catalogue_path), content_hash=read["catalogue_hash"], n_items=len(vectors)
    )
    _check_beside(fold_in, residual, effects)
    release = PackedModel(
        version=model_version(content, residual, effects),
        item_ids=tuple(map(str, catalogue.item_ids)),
        titles=catalogue.titles or ("",) * catalogue.n_items,
        categories=catalogue.categories or ((),) * catalogue.n_items,
        vectors=vectors,
        bias=read["bias"],
        weights=read["history_weights"],
        gramian=_gramian_of(vectors),
        kind=fold_in.kind,
        unobserved_weight=fold_in.unobserved_weight,
        regularization=fold_in.regularization,
        half_life=fold_in.half_life,
        half_life_days=fold_in.half_life_days,
        lowest=fold_in.lowest,
        highest=fold_in.highest,
        provenance=_provenance_of(model_path.parent),
        residual=None if residual is None else np.load(residual).astype(np.float32),
        effects={} if effects is None else read_effects(effects, n_items=len(vectors)),
    )
    versions = folder / "versions"
    versions.mkdir(parents=True, exist_ok=True)
    target = versions / release.version[:DIGITS]
    if not target.is_dir():
        partial = Path(tempfile.mkdtemp(dir=versions, prefix=".part-"))
        try:
            write_packed_model(release, partial)
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return release.version


def _check_beside(fold_in: FoldIn, residual: Path | None, effects: Path | None) -> None:
    if fold_in.kind == "ratings" and residual is not None:
        raise ConfigurationError("Expected no residual beside a model of ratings: it orders nothing.")
    if effects is not None and residual is None:
        raise ConfigurationError("Expected effects of attributes beside a residual, got them alone.")


# In blocks, so that no copy of the whole table is made in float64.
_ROWS = 1 << 15


def _gramian_of(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """V^T V of a table [n_rows, dim], float64 [dim, dim]."""
    total = np.zeros((vectors.shape[1], vectors.shape[1]))
    for start in range(0, len(vectors), _ROWS):
        rows = vectors[start : start + _ROWS].astype(np.float64)
        total += rows.T @ rows
    return total


def _provenance_of(run: Path) -> dict[str, Any]:
    """What the run's own files say of its guarantee and rounds; empty where there are none."""
    found: dict[str, Any] = {}
    record = _json(run / _METRICS)
    for name in ("guarantee", "epsilon", "delta", "rounds", "note", "trainer"):
        if name in record:
            found[name] = record[name]
    if (run / _EVENTS).is_file():
        lines = [json.loads(line) for line in (run / _EVENTS).read_text(encoding="utf-8").splitlines()]
        found["releases"] = sorted({f"{line.get('stage', '?')} round {line.get('round', '?')}" for line in lines})
    return found


def _json(path: Path) -> Mapping[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def main(arguments: Sequence[str] | None = None) -> int:
    """Pack and print the version; an error of the library is one line and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m recsys_fed.serving.packing", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("catalogue", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--residual", type=Path)
    parser.add_argument("--effects", type=Path)
    given = parser.parse_args(arguments)
    try:
        sys.stdout.write(
            pack(given.model, given.catalogue, given.folder, residual=given.residual, effects=given.effects)
        )
        sys.stdout.write("\n")
    except (RecsysFedError, OSError, ValueError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
