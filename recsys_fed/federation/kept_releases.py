"""What a run has released, kept for later trainings: one file beside the model, and how those trainings read it.

The file is a safetensors container of noisy sums and of what they were asked with; its metadata holds stages, noise
and the hash of the catalogue. It holds nothing that was not released. Every certificate of the run names its SHA-256,
and those of the files that the run itself has pooled: a table that was changed later is refused.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from recsys_fed.catalogue.items import Catalogue, catalogue_of_model
from recsys_fed.certificates.earlier import joined
from recsys_fed.certificates.run import read_certificates
from recsys_fed.config import FederationConfig
from recsys_fed.errors import ConfigurationError, DataFormatError, DataNotFoundError, LedgerIntegrityError
from recsys_fed.federation.schedule import Schedule
from recsys_fed.models.items import load_item_embeddings
from recsys_fed.signing import sha256
from recsys_fed.trainers.pooling import ReleasedTable, remap
from recsys_fed.trainers.trainer import EarlierTraining

RELEASES, CATALOGUE = "releases.safetensors", "catalogue.parquet"
_METADATA, _VERSION = "recsys-fed releases", 1


@dataclass(frozen=True, kw_only=True, eq=False)
class EarlierTrainings:
    """What a training builds on, oldest first.

    Attributes:
        trainings: their tables and models.
        digests: SHA-256 of each file of releases.
        certificates: of each, all in one text; what silos are shown (`certificates.earlier`).
    """

    trainings: tuple[EarlierTraining, ...] = ()
    digests: tuple[str, ...] = ()
    certificates: tuple[bytes, ...] = ()


def take_releases_apart(releases: Sequence[ReleasedTable]) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Tensors by name, and the rest as JSON values; `put_releases_together` is the reverse."""
    tensors: dict[str, torch.Tensor] = {}
    records = []
    for number, table in enumerate(releases):
        prefix = f"releases.{number}."
        tensors |= {prefix + "rows": table.rows.contiguous(), prefix + "total": table.total.contiguous()}
        tensors |= {} if table.asked is None else {prefix + "asked": table.asked.contiguous()}
        records.append({"stage": table.stage, "noise_std": float(table.noise_std)})
    return tensors, records


def put_releases_together(
    tensors: Mapping[str, torch.Tensor], records: Sequence[Mapping[str, Any]]
) -> tuple[ReleasedTable, ...]:
    """The releases; raises KeyError where one is missing."""
    return tuple(
        ReleasedTable(
            stage=str(record["stage"]),
            rows=tensors[f"releases.{number}.rows"],
            total=tensors[f"releases.{number}.total"],
            noise_std=float(record["noise_std"]),
            asked=tensors.get(f"releases.{number}.asked"),
        )
        for number, record in enumerate(records)
    )


def releases_bytes(schedule: Schedule) -> bytes:
    """The file of a run that is finished."""
    tensors, records = take_releases_apart(schedule.releases)
    facts = {"version": _VERSION, "catalogue_hash": schedule.facts.catalogue_hash, "releases": records}
    return save(tensors, metadata={_METADATA: json.dumps(facts, sort_keys=True)})


def read_earlier(config: FederationConfig, catalogue: Catalogue | None) -> EarlierTrainings:
    """What the runs that a configuration names have released, over the rows of today's catalogue.

    Args:
        config: of the training that begins.
        catalogue: today's; runs over another one are mapped by the ids of the items.

    Raises:
        ConfigurationError: as many runs as the plan counts are not named, or their items cannot be mapped.
        DataNotFoundError, DataFormatError: a folder is not that of a finished run with kept releases.
        LedgerIntegrityError: the releases or the model are not those that the silos' certificates name.
    """
    folders = [Path(place) for place in json.loads(config.earlier or "[]")]
    if len(folders) != config.earlier_trainings:
        raise ConfigurationError(
            f"Expected the folders of {config.earlier_trainings} earlier trainings, got {len(folders)}."
        )
    read = [_read_run(folder, catalogue) for folder in folders]
    trainings, digests, certificates = zip(*read, strict=True) if read else ((), (), ())
    return EarlierTrainings(trainings=trainings, digests=digests, certificates=certificates)


def _read_run(folder: Path, catalogue: Catalogue | None) -> tuple[EarlierTraining, str, bytes]:
    from recsys_fed.federation.run_files import CERTIFICATES, EMBEDDINGS  # noqa: PLC0415

    path, model_path = folder / RELEASES, folder / EMBEDDINGS
    if not path.is_file() or not model_path.is_file():
        raise DataNotFoundError(f"Cannot find {RELEASES} of a finished run in {folder}. Start without it.")
    content = path.read_bytes()
    digest = sha256(content)
    certificates = _certificates_of(folder / CERTIFICATES, releases=digest, model=sha256(model_path.read_bytes()))
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})[_METADATA])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        if facts["version"] != _VERSION:
            raise ValueError(f"its version is {facts['version']}")
        releases = put_releases_together(tensors, facts["releases"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataFormatError(f"Expected released tables in {path}, got another file: {error}.") from error
    model = load_item_embeddings(model_path)
    if catalogue is None or facts["catalogue_hash"] == catalogue.content_hash:
        return EarlierTraining(releases=releases, vectors=model.vectors), digest, certificates
    row_now = _rows_now(folder, facts["catalogue_hash"], catalogue, n_items=model.n_items)
    vectors = torch.zeros(catalogue.n_items, model.embedding_dim)
    vectors[row_now[row_now >= 0]] = model.vectors[row_now >= 0]
    moved = EarlierTraining(releases=tuple(remap(one, row_now) for one in releases), vectors=vectors)
    return moved, digest, certificates


def _rows_now(folder: Path, catalogue_hash: str, catalogue: Catalogue, *, n_items: int) -> torch.Tensor:
    """For each of the `n_items` rows of the run's own catalogue that of the same item today, -1 for none."""
    if not (folder / CATALOGUE).is_file():
        try:
            catalogue_of_model(catalogue, content_hash=catalogue_hash, n_items=n_items)
        except DataFormatError as error:
            raise ConfigurationError(
                f"The run in {folder} is over another catalogue, of which today's is no later version. Put its own "
                f"there as {CATALOGUE}, or start without this run."
            ) from error
        # An earlier version of a catalogue is its beginning.
        return torch.arange(n_items)
    then = Catalogue.load(folder / CATALOGUE)
    if then.content_hash != catalogue_hash:
        raise ConfigurationError(f"The catalogue in {folder} is not that of its releases.")
    return torch.from_numpy(np.asarray(catalogue.rows(then.item_ids)))


def _certificates_of(place: Path, *, releases: str, model: str) -> bytes:
    """The certificates of a run in one text; refuses tables and models that one of them does not name."""
    certificates, problems = read_certificates(place)
    if problems:
        raise LedgerIntegrityError(problems[0])
    for name, certificate in certificates.items():
        if not certificate.tables:
            raise LedgerIntegrityError(
                f"{name}: it names no released tables, an earlier version signed it. Start without this run."
            )
        if (certificate.tables, certificate.model) != (releases, model):
            raise LedgerIntegrityError(
                f"{name}: the released tables or the model in {place.parent} are not those that it was signed for: "
                "they were changed later. Restore them, or start without this run."
            )
    return joined((place / name).read_bytes() for name in certificates)
