"""A silo that is read in blocks from disk: the same users, the same model, and no user named beside it."""

import tracemalloc
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from deployment_kit import CONFIG, USER, deployed, train_in_process

from client.deployed import forget_silos, open_deployed_silo
from recsys_fed.catalogue.items import Catalogue
from recsys_fed.deployment.checking import check_silo
from recsys_fed.federation.run_files import EMBEDDINGS
from recsys_fed.models import stored_histories
from recsys_fed.silo.interactions import SiloData, read_silo_data
from recsys_fed.silo.on_disk import SERVING, clear_blocks, open_silo_data
from recsys_fed.silo.secret import Pseudonyms, SiloSecret
from recsys_fed.silo.settings import DataSettings

PSEUDONYMS = Pseudonyms(SiloSecret.generate())
CATALOGUE = Catalogue(item_ids=np.array([f"sku-{n}" for n in range(40)], dtype=object))
FILTERS = [
    {},
    {"hold_out": "last"},
    {"minimum_history": 5, "minimum_value": 2.0},
    {"since": "2024-01-02", "until": "2024-03-01", "hold_out": "last"},
]


@pytest.fixture(autouse=True)
def _opened_anew():
    forget_silos()
    yield
    forget_silos()


def purchases(path: Path, *, rows: int, users: int, items: int = 45) -> Path:
    """Rows in no order, with repeated pairs, unknown items, and rows without a user or an item."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "customer": [f"{USER}{user}" for user in rng.integers(0, users, rows)],
            "sku": [f"sku-{item}" for item in rng.integers(0, items, rows)],
            "stars": rng.integers(1, 6, rows).astype(float),
            "at": 1_704_067_200 + rng.integers(0, 100 * 86_400, rows),
        }
    )
    table.loc[rng.random(rows) < 0.01, "customer"] = None
    table.loc[rng.random(rows) < 0.01, "sku"] = None
    table.to_csv(path, index=False)
    return path


def settings_of(path: Path, **more) -> DataSettings:
    columns = {"user": "customer", "item": "sku", "value": "stars", "time": "at"}
    return DataSettings(source="csv", path=str(path), **columns, **more)


@pytest.mark.parametrize("filters", FILTERS)
def test_histories_are_those_of_a_silo_in_memory(filters, tmp_path, monkeypatch):
    monkeypatch.setattr(stored_histories, "block_size", lambda n_items: 300)
    path = purchases(tmp_path / "purchases.csv", rows=4_000, users=200)
    memory = read_silo_data(settings_of(path, **filters), CATALOGUE, PSEUDONYMS)
    data = settings_of(path, block_rows=333, blocks=str(tmp_path / "blocks"), **filters)
    disk = open_silo_data(data, CATALOGUE, PSEUDONYMS)
    assert disk.users.tolist() == memory.users.tolist()
    assert (disk.interactions, disk.unknown_items, disk.short) == (
        memory.interactions,
        memory.unknown_items,
        memory.short,
    )
    assert (disk.test != memory.test).nnz == 0
    parts = list(disk.parts())
    assert len(parts) > 5
    assert np.concatenate([users for users, _ in parts]).tolist() == memory.users.tolist()
    ((_, whole),) = memory.parts()
    rows = [set(row.indices.tolist()) for _, part in parts for row in part.matrix()]
    assert rows == [set(row.indices.tolist()) for row in whole.matrix()]
    assert {f.rule: f.count for f in disk.report.findings} == {f.rule: f.count for f in memory.report.findings}
    assert (disk.report.n_rows, disk.report.n_kept) == (memory.report.n_rows, memory.report.n_kept)


def in_order(path: Path) -> dict[str, list[tuple[int, str, float]]]:
    """Time, item and value of each user's rows in the file, oldest first; of a repeated pair the latest row."""
    users: dict[str, dict[str, tuple[int, int, float]]] = {}
    for number, row in enumerate(pd.read_csv(path).itertuples()):
        if isinstance(row.customer, str) and isinstance(row.sku, str):
            items = users.setdefault(PSEUDONYMS.of(row.customer), {})
            items[row.sku] = max(items.get(row.sku, (0, 0, 0.0)), (row.at, number, row.stars))
    ordered = {
        user: sorted((at, number, item, stars) for item, (at, number, stars) in items.items())
        for user, items in users.items()
    }
    return {user: [(at, item, stars) for at, _, item, stars in rows] for user, rows in ordered.items()}


def read_in_order(users, blocks) -> dict[str, list[tuple[str, float]]]:
    """Item and value of each user's interactions, oldest first; without users who have none."""
    found = []
    for block in blocks:
        entries = list(zip(CATALOGUE.item_ids[block.items.numpy()], block.signals.value.tolist(), strict=True))
        for first, last in pairwise(block.starts.tolist()):
            found.append([entries[place] for place in block.by_order[first:last].tolist()])
    return {user: entries for user, entries in zip(users.tolist(), found, strict=True) if entries}


@pytest.mark.parametrize("hold_out", ["none", "last"])
def test_the_order_of_a_users_rows_is_kept_in_memory_and_on_disk(hold_out, tmp_path, monkeypatch):
    monkeypatch.setattr(stored_histories, "block_size", lambda n_items: 300)
    path = purchases(tmp_path / "purchases.csv", rows=4_000, users=200)
    table = pd.read_csv(path)
    table["at"] = 1_704_067_200 + table["at"] % 9 * 86_400
    table.to_csv(path, index=False)
    whole, known = in_order(path), set(CATALOGUE.item_ids)
    # A user's only row stays; the last one may be of an item that the catalogue lacks.
    trained = {user: rows[:-1] if hold_out == "last" and len(rows) > 1 else rows for user, rows in whole.items()}
    expected = {user: [(item, stars) for _, item, stars in rows if item in known] for user, rows in trained.items()}
    for blocks in ({}, {"block_rows": 333, "blocks": str(tmp_path / "blocks")}):
        data = settings_of(path, hold_out=hold_out, **blocks)
        silo = open_silo_data(data, CATALOGUE, PSEUDONYMS, reads=frozenset({"order", "value"}))
        assert isinstance(silo, SiloData) != bool(blocks)
        held = read_in_order(silo.users, silo.histories().blocks())
        assert held == {user: entries for user, entries in expected.items() if entries}
        # What is kept of a training has the held-out items too, as each user's latest.
        kept = read_in_order(silo.users, (histories for _, histories in silo.parts()))
        all_known = {
            user: [(item, stars) for _, item, stars in rows if item in known] for user, rows in whole.items()
        }
        assert kept == {user: entries for user, entries in all_known.items() if entries}
        assert silo.ties == sum(one[0] == other[0] for rows in whole.values() for one, other in pairwise(rows)) > 500


def test_who_reads_nothing_holds_nothing_and_ties_are_counted_where_there_are_times(tmp_path):
    path = purchases(tmp_path / "purchases.csv", rows=500, users=30)
    memory = read_silo_data(settings_of(path), CATALOGUE, PSEUDONYMS)
    assert (memory.signals, memory.histories().signals) == (None, None)
    assert memory.ties == 0
    untimed = DataSettings(source="csv", path=str(path), user="customer", item="sku")
    for blocks in ("", str(tmp_path / "blocks")):
        reads = frozenset({"order", "time", "value"})
        silo = open_silo_data(replace(untimed, blocks=blocks), CATALOGUE, PSEUDONYMS, reads=reads)
        assert silo.ties is None
        assert all(block.signals is None for block in silo.histories().blocks())


def test_a_deployed_silo_trains_the_same_model_from_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_histories, "block_size", lambda n_items: 200)
    models, states = [], []
    for name in ("memory", "disk"):
        forget_silos()
        there = deployed(tmp_path / name, simulated=True)
        for silo in there.silos if name == "disk" else ():
            path = silo / "silo.toml"
            path.write_text(path.read_text() + 'blocks = "blocks"\nblock-rows = 100\n')
        train_in_process(there, tmp_path / name / "training")
        models.append((tmp_path / name / "training" / EMBEDDINGS).read_bytes())
        opened = open_deployed_silo(there.silos[0])
        assert isinstance(opened.data, SiloData) == (name == "memory")
        states.append(opened.state.users())
        # How many blocks the users fill depends on their order, which the silo's secret decides.
        sealed = len(list((there.silos[0] / "state").glob("users-*.sealed")))
        assert sealed == 1 if name == "memory" else sealed >= 3
    assert models[0] == models[1]
    (one, other) = (state.vectors.numpy() for state in states)
    # Secrets, hence pseudonyms and the order of users, are each silo's own.
    assert np.allclose(sorted(one.tolist()), sorted(other.tolist()), atol=1e-6)
    one, other = (sorted(map(tuple, state.histories.matrix().toarray())) for state in states)
    assert one == other
    assert CONFIG.rounds == 3


def test_disk_holds_items_without_users_for_as_long_as_a_silo_serves(tmp_path):
    path = purchases(tmp_path / "purchases.csv", rows=500, users=30)
    data = settings_of(path, blocks=str(tmp_path / "blocks"))
    disk = open_silo_data(data, CATALOGUE, PSEUDONYMS)
    (folder,) = (tmp_path / "blocks").iterdir()
    assert sorted(file.name for file in folder.iterdir()) == ["items.i32", "starts.i64"]
    assert folder.stat().st_mode & 0o077 == 0
    for file in folder.iterdir():
        for name in (USER, *disk.users[:5].tolist()):
            assert name.encode() not in file.read_bytes()
    # What a crash leaves is removed at the next start; what somebody else has put there is not.
    (tmp_path / "blocks" / f"{SERVING}left").mkdir()
    (tmp_path / "blocks" / "else").mkdir()
    del disk
    clear_blocks(data)
    assert [file.name for file in (tmp_path / "blocks").iterdir()] == ["else"]


def test_a_check_reads_in_blocks_too_and_leaves_nothing(tmp_path):
    there = deployed(tmp_path, simulated=True)
    path = there.silos[0] / "silo.toml"
    before = {finding.name: finding.detail for finding in check_silo(path, reach=False)}
    path.write_text(path.read_text() + 'blocks = "blocks"\n')
    after = {finding.name: finding.detail for finding in check_silo(path, reach=False)}
    assert after == before
    assert list((there.silos[0] / "blocks").iterdir()) == []


def test_memory_does_not_follow_the_rows(tmp_path):
    def peak(rows: int, **more) -> int:
        path = purchases(tmp_path / f"{rows}.csv", rows=rows, users=50, items=40)
        tracemalloc.start()
        open_silo_data(settings_of(path, block_rows=2_000, **more), CATALOGUE, PSEUDONYMS)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(2_000, blocks=str(tmp_path / "blocks"))
    grown = {rows: peak(rows, blocks=str(tmp_path / "blocks")) for rows in (20_000, 120_000)}
    in_memory = {rows: peak(rows) for rows in (20_000, 120_000)}
    assert in_memory[120_000] - in_memory[20_000] > 3e6
    # A bucket of fifty users is what grows.
    assert grown[120_000] - grown[20_000] < (in_memory[120_000] - in_memory[20_000]) / 4
