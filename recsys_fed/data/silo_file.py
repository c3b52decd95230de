"""A silo's file of interactions as histories: in memory where they fit, in blocks from disk where they do not."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
import torch

from recsys_fed import checks
from recsys_fed.catalogue.items import Catalogue
from recsys_fed.data.regroup import regroup
from recsys_fed.data.silo import silo_dataset
from recsys_fed.data.sources import Request, read
from recsys_fed.data.sources.parquet import column_names
from recsys_fed.data.sources.table import PARQUET, resolve_columns
from recsys_fed.errors import ConfigurationError
from recsys_fed.models.histories import histories_of
from recsys_fed.models.signals import NOTHING, Signal
from recsys_fed.models.stored_histories import stored_histories
from recsys_fed.models.user_blocks import UserHistories

# About 4 GB while a table is read and validated.
MEMORY_INTERACTIONS = 40_000_000


@dataclass(frozen=True, kw_only=True)
class SiloFile:
    """Where a silo's interactions are, and how they are held.

    Attributes:
        path: of a file or folder that `data.sources` reads.
        columns: for user, item, value and time the name of its column, where it is not a usual one.
        min_value: only interactions with at least this value count.
        block_interactions: a Parquet file with more rows is trained from disk, in blocks.
        folder: for the histories on disk; only the silo may read it.
    """

    path: Path
    columns: Mapping[str, str] = field(default_factory=dict)
    min_value: float | None = None
    block_interactions: int = MEMORY_INTERACTIONS
    folder: Path | None = None

    def __post_init__(self) -> None:
        checks.at_least(1, block_interactions=self.block_interactions)


def open_histories(
    silo: SiloFile,
    catalogue: Catalogue,
    *,
    device: torch.device | str = "cpu",
    reads: frozenset[Signal] = NOTHING,
) -> UserHistories:
    """The histories of a silo's file over a catalogue; both ways of holding them train the same model.

    Sums over users are the same to the last bit for `spectral` and the item counts, and to rounding for `dp-sgd`.
    They carry those signals that the trainer `reads` and the file has.

    Raises:
        DataError, ConfigurationError: see `read` and `regroup`; or the file is large and there is no folder.
    """
    if not _is_large(silo):
        dataset = read(Request(path=silo.path, columns=silo.columns))
        kept = silo_dataset(dataset.interactions, catalogue, min_value=silo.min_value, reads=reads)
        return histories_of(kept.histories, signals=kept.signals, device=device)
    if silo.folder is None:
        raise ConfigurationError(
            f"Expected a folder for the histories of {silo.path}, which has more than {silo.block_interactions} "
            "rows, got none. Name one, or raise block-interactions if it fits into memory."
        )
    use = resolve_columns(column_names(silo.path), silo.columns, path=silo.path)
    regroup(silo.path, catalogue, silo.folder, columns=use, min_value=silo.min_value, reads=reads)
    return stored_histories(silo.folder, n_items=catalogue.n_items, device=device)


def _is_large(silo: SiloFile) -> bool:
    if not silo.path.is_file() or silo.path.suffix.lower() not in PARQUET:
        return False
    return int(pq.read_metadata(silo.path).num_rows) > silo.block_interactions
