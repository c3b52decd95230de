"""A real run with canaries in its data: the same apps, engine, ledgers and messages as any other, overheard.

*Canaries* are users with crafted histories, whose contributions are long and nearly orthogonal to each other's.
A released table has a row an item, and what a user adds to it lies in the rows of that user's history (but for a
part along popularity). Histories of few items, disjoint as far as the head has items enough, are nearly orthogonal
in every release, of either trainer. Clipping scales every contribution to the same norm, so a small history has the
whole sensitivity: a worst case for the mechanism, at whichever rows.

The items must get into the head, which follows from noisy counts: canaries take the items that the head will
probably hold, the rarer ones first, as fewer users share them.

The federation with canaries in it is written as data files that the ordinary run reads: nothing of it is special.
Items get their rows of the catalogue as ids, so that any data set can be written as the lists of `data.sources`, and
the catalogue is saved with its public columns, from which features follow.
"""

import logging
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import sparse

from recsys_fed import checks
from recsys_fed.audit._mechanism import Mechanism
from recsys_fed.audit._transcript import Round, Wiretap
from recsys_fed.catalogue.items import Catalogue
from recsys_fed.config import FederationConfig, SimulationConfig, flat
from recsys_fed.data.simulated import SimulatedFederation, simulated_federation
from recsys_fed.errors import DataError
from recsys_fed.federation.inprocess import run_in_process
from recsys_fed.federation.messages import Greeting
from recsys_fed.federation.metrics_round import STAGE as METRICS_STAGE
from recsys_fed.federation.noise_split import resolve_masking
from recsys_fed.federation.planning import PublicCatalogue, planned_schedule, stages_of
from recsys_fed.federation.release import SiloUsers
from recsys_fed.federation.run_files import EMBEDDINGS
from recsys_fed.federation.schedule import begin
from recsys_fed.models.histories import histories_of
from recsys_fed.models.items import ItemEmbeddings, load_item_embeddings
from recsys_fed.settings_file import Value
from recsys_fed.simulation.flower_engine import load_apps
from recsys_fed.simulation.runner import Progress, ReleaseCounter, one_digit
from recsys_fed.trainers.popularity import contribute_counts
from recsys_fed.trainers.registry import configured_trainer

SMALLEST_HISTORY, LARGEST_HISTORY = 2, 8
_DATA, _RUN = "data", "run"


@dataclass(frozen=True, kw_only=True, eq=False)
class _Canaries:
    """Crafted users and the coins that decided who takes part.

    Attributes:
        histories: csr [n_canaries, n_items], 1.0 an item.
        included: bool [n_canaries], independent fair coins. Secret of the auditor until the guesses are made.
    """

    histories: sparse.csr_matrix
    included: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.included)


def _crafted_canaries(
    popularity: npt.NDArray[np.float64], *, count: int, n_head: int, rng: np.random.Generator
) -> _Canaries:
    """`count` canaries over the `n_head` items that are expected in the head, and their coins.

    Args:
        popularity: what the counts release would hold without noise, [n_items].
        count: canaries to craft.
        n_head: rows of the later releases.
        rng: of the histories and of the coins.

    Histories are as equal in length as the head allows, 2 to 8 items; every item is used about equally often, and no
    pair of items twice while there are pairs left.
    """
    checks.at_least(1, count=count, n_head=n_head)
    head = np.argsort(-popularity, kind="stable")[:n_head]
    size = int(np.clip(len(head) // count, SMALLEST_HISTORY, LARGEST_HISTORY))
    size = min(size, len(head))
    # The rarer part of the head first: with room to spare the popular items are left alone.
    pool = head[::-1][: max(size, min(len(head), count * size))]
    rows = _spread(pool, count=count, size=size, rng=rng)
    indices = np.sort(rows, axis=1)
    matrix = sparse.csr_matrix(
        (np.ones(indices.size, dtype=np.float32), indices.ravel(), np.arange(count + 1) * size),
        shape=(count, len(popularity)),
    )
    return _Canaries(histories=matrix, included=rng.random(count) < 0.5)


def _spread(pool: npt.NDArray[np.int64], *, count: int, size: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Sets of `size` items [count, size]: shuffled pools cut into sets, so that use is even and sets are distinct."""
    rows: list[npt.NDArray[np.int64]] = []
    seen: set[tuple[int, ...]] = set()
    stubborn = 0
    while len(rows) < count:
        for part in rng.permutation(pool)[: len(pool) // size * size].reshape(-1, size):
            key = tuple(sorted(part.tolist()))
            # A small pool runs out of distinct sets; then they repeat.
            if len(rows) == count or (key in seen and stubborn < 4 * count):
                stubborn += 1
                continue
            seen.add(key)
            rows.append(part)
    return np.array(rows)


_TRAIN, _TEST, _CATALOGUE = "train.txt", "test.txt", "catalogue.parquet"


@dataclass(frozen=True, kw_only=True, eq=False)
class _Placed:
    """The federation of an audited run.

    Attributes:
        name: of the data set that was taken.
        data: what a run reads.
        federation: what it finds there: ordinary users and the canaries that are in.
        canaries: all of them, also those that are not in.
        silo_of_canary: int64 [n_canaries]; where one that is out would have been, a coin's choice.
        others: rows of the ordinary users of each silo.
        withheld: csr, ordinary users who were taken out: the non-members of attacks.
    """

    name: str
    data: SimulationConfig
    federation: SimulatedFederation
    canaries: _Canaries
    silo_of_canary: npt.NDArray[np.int64]
    others: tuple[npt.NDArray[np.int64], ...]
    withheld: sparse.csr_matrix


def _place(
    federation: SimulatedFederation,
    data: SimulationConfig,
    canaries: _Canaries,
    *,
    folder: Path,
    silos: int,
    seed: int,
    withheld: npt.NDArray[np.int64],
    rng: np.random.Generator,
) -> _Placed:
    """Write the users of `federation` but those `withheld`, and the canaries that are in, to `folder`.

    Guarantees: a canary is a user of its own, in one silo, with training items only; canaries that are out leave no
    trace in the files.

    Raises:
        DataError: a user of the written federation is not found again when it is read.
    """
    kept = np.setdiff1d(np.arange(federation.train.shape[0]), withheld)
    order = rng.permutation(len(kept) + int(canaries.included.sum()))
    inside = np.flatnonzero(canaries.included)
    train = sparse.vstack([federation.train[kept], canaries.histories[inside]], format="csr")[order]
    test = sparse.vstack(
        [federation.test[kept], sparse.csr_matrix((len(inside), train.shape[1]), dtype=np.float32)], format="csr"
    )[order]
    folder.mkdir(parents=True, exist_ok=True)
    _write_lists(folder / _TRAIN, train)
    _write_lists(folder / _TEST, test)
    _number_items(federation.catalogue).save(folder / _CATALOGUE)
    where = replace(
        data,
        data=str(folder),
        protocol="",
        columns="",
        item_catalogue=str(folder / _CATALOGUE),
        split="given",
        held_out="test",
        min_value=-np.inf,
    )
    found = simulated_federation(where, silos=silos, seed=seed)
    position = _positions(found, len(order))
    # Line k of the files is user order[k]; canary inside[c] is user len(kept) + c.
    line_of = np.empty(len(order), dtype=np.int64)
    line_of[order] = np.arange(len(order))
    row_of_canary = np.full(len(canaries), -1)
    row_of_canary[inside] = position[line_of[len(kept) :]]
    silo = _silo_of_rows(found.users_of_silo, found.train.shape[0])
    silo_of_canary = np.where(row_of_canary >= 0, silo[row_of_canary], rng.integers(0, silos, len(canaries)))
    return _Placed(
        name=federation.dataset.name,
        data=where,
        federation=found,
        canaries=canaries,
        silo_of_canary=silo_of_canary,
        others=tuple(np.setdiff1d(rows, row_of_canary[inside]) for rows in found.users_of_silo),
        withheld=federation.train[withheld],
    )


def _number_items(catalogue: Catalogue) -> Catalogue:
    """The same public items with their row as their id."""
    ids = np.array([str(row) for row in range(catalogue.n_items)], dtype=object)
    return replace(catalogue, item_ids=ids)


def _write_lists(path: Path, matrix: sparse.csr_matrix) -> None:
    starts, items = matrix.indptr, matrix.indices
    lines = (f"{row} {_join_texts(items[starts[row] : starts[row + 1]])}\n" for row in range(matrix.shape[0]))
    path.write_text("".join(lines), encoding="ascii")


def _join_texts(items: Iterable[int]) -> str:
    return " ".join(str(item) for item in items)


def _positions(found: SimulatedFederation, lines: int) -> npt.NDArray[np.int64]:
    """Row of the user of every line of the files; -1 for one who has no interaction at all."""
    ids = np.array([int(name) for name in found.dataset.interactions.user_ids], dtype=np.int64)
    if len(ids) and (ids.max() >= lines or len(np.unique(ids)) != len(ids)):
        raise DataError("The users of the written federation are not those that were read again.")
    position = np.full(lines, -1)
    position[ids] = np.arange(len(ids))
    return position


def _silo_of_rows(users_of_silo: Sequence[npt.NDArray[np.int64]], n_users: int) -> npt.NDArray[np.int64]:
    silo = np.full(n_users, -1)
    for index, rows in enumerate(users_of_silo):
        silo[rows] = index
    return silo


@dataclass(frozen=True, kw_only=True, eq=False)
class AuditedRun:
    """A finished run with canaries.

    Attributes:
        config: as the run's silos agreed on it.
        placed: users and canaries.
        rounds: what was asked and seen.
        model: what it ended with.
        folder: with the run's events and certificates.
    """

    config: FederationConfig
    placed: _Placed
    rounds: tuple[Round, ...]
    model: ItemEmbeddings
    folder: Path

    def users(self, *, canaries: bool) -> list[SiloUsers]:
        """Every silo's users, with the canaries that are in or without any."""
        train, test = self.placed.federation.train, self.placed.federation.test
        rows = self.placed.federation.users_of_silo if canaries else self.placed.others
        return [SiloUsers(histories=histories_of(train[some]), test=test[some]) for some in rows]


def canary_data(
    config: FederationConfig,
    data: SimulationConfig,
    *,
    count: int,
    withhold: int,
    folder: Path,
    rng: np.random.Generator,
) -> tuple[FederationConfig, _Placed]:
    """Craft canaries for a run, place them, and settle what the run declares of its users."""
    plain = simulated_federation(data, silos=config.silos, seed=config.seed)
    n_users = plain.train.shape[0]
    config = resolve_masking(replace(config, declared_users=one_digit(n_users)), simulated=True)
    withheld = np.sort(rng.choice(n_users, size=min(withhold, n_users // 4), replace=False))
    kept = plain.train[np.setdiff1d(np.arange(n_users), withheld)]
    popularity = contribute_counts(histories_of(kept), l2_clip_norm=1.0)[:, 0].numpy()
    canaries = _crafted_canaries(popularity, count=count, n_head=_expected_head(config, plain.catalogue), rng=rng)
    placed = _place(
        plain, data, canaries, folder=folder / _DATA, silos=config.silos, seed=config.seed, withheld=withheld, rng=rng
    )
    return config, placed


def _expected_head(config: FederationConfig, catalogue: Catalogue) -> int:
    """Rows of the last training release, from the public plan alone."""
    schedule = planned_schedule(config, PublicCatalogue(n_items=catalogue.n_items, items=catalogue))
    training = [stage for stage in stages_of(schedule) if stage.asked.stage != METRICS_STAGE]
    return int(training[-1].asked.shape[0])


def run_with_canaries(
    config: FederationConfig, placed: _Placed, *, folder: Path, progress: Progress | None = None
) -> AuditedRun:
    """Run the federation from its data files through both apps, and keep what the server sees."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    logging.getLogger("flwr").setLevel(logging.WARNING)
    output = folder / _RUN
    # An audited run has no history: what an earlier one left there goes.
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    data = replace(placed.data, ledgers=str(output / "ledgers"))
    placed.federation.catalogue.save(output / _CATALOGUE)
    config = replace(config, output=str(output), catalogue=str(output / _CATALOGUE))
    server_app, client_app = load_apps()
    tap = Wiretap(client_app)
    run_config: dict[str, Value] = flat(config) | flat(data)
    counter = ReleaseCounter(output, config.silos, progress or Progress())
    run_in_process(
        server_app,
        tap.as_client_app(),
        run_config=run_config,
        n_silos=config.silos,
        on_reply=lambda reply: counter.count() if reply.metadata.message_type == "train" else None,
    )
    catalogue = placed.federation.catalogue
    agreed = Greeting(silo="server", catalogue_hash=catalogue.content_hash, n_items=catalogue.n_items)
    return AuditedRun(
        config=config,
        placed=placed,
        rounds=tap.rounds(begin(config, agreed, catalogue)),
        model=load_item_embeddings(output / EMBEDDINGS),
        folder=output,
    )


def deployed_mechanism(run: AuditedRun, *, key: int) -> Mechanism:
    """The run's mechanism in the auditor's hands, with keys of the auditor."""
    return Mechanism(trainer=configured_trainer(run.config), key=key, public_seed=run.config.seed)
