"""A trainer that reads the order gets it in every silo, simulated or deployed; one that does not costs nothing."""

from itertools import pairwise
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from deployment_kit import CONFIG, deployed, train_in_process
from flwr.app import Context, RecordDict

from client.deployed import forget_silos, open_deployed_silo
from client.state import forget_histories, open_simulated_silo
from recsys_fed.config import FederationConfig, SimulationConfig, flat
from recsys_fed.data.simulated import simulated_federation
from recsys_fed.federation.run_files import EMBEDDINGS
from recsys_fed.models import stored_histories
from recsys_fed.models.histories import Signal
from recsys_fed.simulation.runner import Simulation, simulate
from recsys_fed.trainers.popularity import PopularItems
from recsys_fed.trainers.registry import TRAINERS, Auto

READS_NOTHING = FederationConfig(silos=3, trainer="popularity", threads=1, metrics_epsilon=0.0)


class OrderReader(PopularItems):
    """Counts items, and notes every user's items in the order that it sees; None where there is no order."""

    reads: ClassVar[frozenset[Signal]] = frozenset({"order"})

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def contribution(self, stage, tables, histories, *, settings):
        for block in histories.blocks():
            assert set(block.signals.columns()) == {"rank"}
            ordered = block.items[block.by_order].tolist()
            self.seen += [tuple(ordered[first:last]) for first, last in pairwise(block.starts.tolist())]
        return super().contribution(stage, tables, histories, settings=settings)


@pytest.fixture(autouse=True)
def _opened_anew():
    forget_silos()
    forget_histories()
    yield
    forget_silos()
    forget_histories()


@pytest.fixture
def reader(monkeypatch):
    """A trainer that reads the order, in the place of the one that counts."""
    made = OrderReader()

    class Given(OrderReader):
        def __new__(cls):
            return made

    monkeypatch.setitem(TRAINERS, "popularity", Given)
    return made


def shuffled_days(rows: int, *, seed: int) -> np.ndarray:
    """Days with many ties, in seconds."""
    return 1_700_000_000 + 86_400 * np.random.default_rng(seed).integers(0, 6, rows)


def in_order(table: pd.DataFrame, column_of: dict[str, int]) -> list[tuple[int, ...]]:
    """Columns of every user's items by time, of equal times in the order of the file."""
    users: dict[str, list[tuple[int, int, int]]] = {}
    for number, row in enumerate(table.itertuples()):
        users.setdefault(row.customer, []).append((row.day, number, column_of[str(row.sku)]))
    return sorted(tuple(column for *_, column in sorted(rows)) for rows in users.values())


def columns_of(catalogue) -> dict[str, int]:
    return {item: column for column, item in enumerate(catalogue.item_ids)}


@pytest.fixture
def table(tmp_path):
    """Rows of 60 users in no order, as a file."""
    rng = np.random.default_rng(3)
    pairs = pd.DataFrame(np.argwhere(rng.random((60, 30)) < 0.4), columns=["user", "item"])
    pairs = pairs.sample(frac=1, random_state=3).reset_index(drop=True)
    made = pd.DataFrame({"customer": "u" + pairs.user.astype(str), "sku": "i" + pairs.item.astype(str)})
    made["day"] = shuffled_days(len(made), seed=4)
    made.rename(columns={"customer": "user_id", "sku": "item_id", "day": "timestamp"}).to_csv(
        tmp_path / "rows.csv", index=False
    )
    return made


@pytest.mark.parametrize("block_interactions", [0, 20])
def test_a_simulated_federation_hands_over_the_order_of_the_file(
    block_interactions, table, reader, tmp_path, monkeypatch
):
    monkeypatch.setattr(stored_histories, "block_size", lambda n_items: 50)
    data = SimulationConfig(
        data=str(tmp_path / "rows.csv"), split="leave-last-out", block_interactions=block_interactions
    )
    simulate(Simulation(federation=READS_NOTHING, data=data))
    federation = simulated_federation(data, silos=3, seed=READS_NOTHING.seed)
    whole = in_order(table, columns_of(federation.catalogue))
    assert sorted(reader.seen) == sorted(items[:-1] for items in whole)


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_deployed_silos_hand_over_the_order_of_their_files(where, reader, tmp_path, monkeypatch):
    monkeypatch.setattr(stored_histories, "block_size", lambda n_items: 100)
    config = FederationConfig(**(vars(CONFIG) | {"trainer": "popularity", "rounds": 0, "embedding_dim": 0}))
    there = deployed(tmp_path, config=config, simulated=True)
    tables = []
    for index, silo in enumerate(there.silos):
        table = pd.read_csv(tmp_path / f"silo-{index}.csv").sample(frac=1, random_state=index)
        table["day"] = shuffled_days(len(table), seed=index)
        table.to_csv(tmp_path / f"silo-{index}.csv", index=False)
        tables.append(table)
        path = silo / "silo.toml"
        blocks = 'blocks = "blocks"\nblock-rows = 100\n' if where == "disk" else ""
        path.write_text(path.read_text() + 'time = "day"\n' + blocks)
    train_in_process(there, tmp_path / "training", config=config)
    assert (tmp_path / "training" / EMBEDDINGS).is_file()
    assert sorted(reader.seen) == in_order(pd.concat(tables), columns_of(there.simulated.catalogue))


@pytest.mark.parametrize("trainer", sorted({"auto", "dp-sgd", "popularity", "spectral"} & TRAINERS.keys()))
def test_trainers_of_any_item_read_weights_and_their_silos_hold_none(trainer, table, tmp_path, monkeypatch):
    """Nothing is looked up in the interactions, in a simulation whose data has times."""

    def refuse(*_, **__):
        raise AssertionError

    monkeypatch.setattr("recsys_fed.data.silo._sources", refuse)
    assert TRAINERS[trainer]().reads == {"weight"}
    data = SimulationConfig(data=str(tmp_path / "rows.csv"))
    config = FederationConfig(**(vars(READS_NOTHING) | {"trainer": trainer}))
    context = Context(
        run_id=1,
        node_id=1,
        node_config={"partition-id": 1, "num-partitions": 3},
        state=RecordDict(),
        run_config=flat(config) | flat(data) | {"ledgers": str(tmp_path / "ledgers")},
    )
    histories = open_simulated_silo(context).users("a-run").histories
    assert histories.signals is None
    assert histories.items.dtype == torch.int32


def test_a_deployed_silo_with_times_writes_no_file_that_its_trainer_does_not_read(tmp_path):
    there = deployed(tmp_path, simulated=True)
    path = there.silos[0] / "silo.toml"
    path.write_text(path.read_text() + 'time = "day"\nblocks = "blocks"\n')
    silo = open_deployed_silo(there.silos[0])
    assert silo.users("a-run").histories.signals == ()
    (folder,) = (there.silos[0] / "blocks").iterdir()
    assert sorted(file.name for file in folder.iterdir()) == ["items.i32", "starts.i64"]


def test_auto_reads_what_the_trainers_that_it_chooses_from_read():
    assert Auto.reads >= TRAINERS["spectral"]().reads | PopularItems.reads
