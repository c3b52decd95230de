"""A silo's file trains the same model from memory and, regrouped by user, from blocks on disk."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.data.identifiers import id_array
from recsys_fed.data.regroup import USERS, regroup
from recsys_fed.data.silo import silo_dataset
from recsys_fed.data.silo_file import SiloFile, open_histories
from recsys_fed.data.sources import Request, read
from recsys_fed.errors import ConfigurationError, DataFormatError, DataNotFoundError
from recsys_fed.models import user_blocks
from recsys_fed.models.histories import Histories
from recsys_fed.models.stored_histories import ITEMS, STARTS, HistoryWriter, StoredHistories, stored_histories
from recsys_fed.trainers import popularity
from recsys_fed.trainers.spectral import SUBSPACE, Spectral

N_ITEMS = 40
CATALOGUE = Catalogue(item_ids=id_array(range(N_ITEMS)))


def table(n_rows=4_000, n_users=150, *, seed=0, text=False) -> pd.DataFrame:
    """Rows of users in no order, with pairs that come again, values, an unknown item and gaps."""
    rng = np.random.default_rng(seed)
    users = rng.integers(0, n_users, n_rows)
    frame = pd.DataFrame(
        {
            "user_id": [f"u{user}" for user in users] if text else users,
            "item_id": rng.integers(0, N_ITEMS + 2, n_rows),
            "rating": rng.integers(1, 6, n_rows).astype(float),
            "timestamp": rng.integers(0, 50, n_rows),
        }
    )
    frame.loc[rng.integers(0, n_rows, 20), "rating"] = np.nan
    return frame


def written(frame, folder):
    path = folder / "interactions.parquet"
    frame.to_parquet(path)
    return path


@pytest.fixture(params=["numbers", "texts"])
def parquet(request, tmp_path):
    return written(table(text=request.param == "texts"), tmp_path)


def by_user(histories, user_ids):
    sets, row = {}, 0
    for block in histories.blocks():
        starts = block.starts.tolist()
        for user in range(block.n_users):
            sets[user_ids[row]] = block.items[starts[user] : starts[user + 1]].tolist()
            row += 1
    return sets


@pytest.mark.parametrize("min_value", [None, 3.0])
def test_every_user_has_the_history_that_reading_the_whole_file_gives(parquet, tmp_path, min_value):
    dataset = read(Request(path=parquet))
    whole = silo_dataset(dataset.interactions, CATALOGUE, min_value=min_value)
    expected = {user: row.indices.tolist() for user, row in zip(whole.user_ids, whole.histories, strict=True)}
    silo = SiloFile(path=parquet, block_interactions=100, folder=tmp_path / "silo", min_value=min_value)
    stored = open_histories(silo, CATALOGUE)
    assert isinstance(stored, StoredHistories)
    assert by_user(stored, pd.read_parquet(tmp_path / "silo" / USERS)["user_id"].tolist()) == expected


def test_many_buckets_and_batches_split_no_user_and_leave_nothing_behind(parquet, tmp_path, monkeypatch):
    monkeypatch.setattr("recsys_fed.data.regroup._BATCH_ROWS", 300)
    use = {"user": "user_id", "item": "item_id", "value": "rating", "time": "timestamp"}
    found = regroup(parquet, CATALOGUE, tmp_path / "many", columns=use, bucket_rows=90)
    whole = silo_dataset(read(Request(path=parquet)).interactions, CATALOGUE)
    users = pd.read_parquet(tmp_path / "many" / USERS)["user_id"].tolist()
    expected = {user: row.indices.tolist() for user, row in zip(whole.user_ids, whole.histories, strict=True)}
    assert by_user(stored_histories(tmp_path / "many", n_items=N_ITEMS), users) == expected
    assert (found.n_users, found.unknown_items) == (len(whole.user_ids), whole.unknown_items)
    assert found.kept_rows == whole.histories.nnz + whole.unknown_items
    assert {path.name for path in (tmp_path / "many").iterdir()} == {ITEMS, STARTS, USERS}


def ordered_by_user(histories, user_ids):
    found, row = {}, 0
    for block in histories.blocks():
        for first, last in pairwise(block.starts.tolist()):
            places = block.by_order[first:last]
            found[user_ids[row]] = list(
                zip(block.items[places].tolist(), block.signals.value[places].tolist(), strict=True)
            )
            row += 1
    return found


def test_a_regrouped_file_keeps_the_order_and_values_of_every_user(parquet, tmp_path):
    reads = frozenset({"order", "value"})
    memory = open_histories(SiloFile(path=parquet), CATALOGUE, reads=reads)
    silo = SiloFile(path=parquet, block_interactions=100, folder=tmp_path / "silo")
    stored = open_histories(silo, CATALOGUE, reads=reads)
    users = pd.read_parquet(tmp_path / "silo" / USERS)["user_id"].tolist()
    interactions = read(Request(path=parquet)).interactions
    expected: dict[str, list] = {user: [] for user in interactions.user_ids}
    for row in np.argsort(interactions.time, kind="stable").tolist():
        item = int(interactions.item_ids[interactions.item[row]])
        if item < N_ITEMS:
            expected[interactions.user_ids[interactions.user[row]]].append((item, float(interactions.value[row])))
    assert ordered_by_user(memory, interactions.user_ids) == expected
    assert ordered_by_user(stored, users) == expected


def tables_of(k=3):
    rng = np.random.default_rng(1)
    head = torch.arange(0, N_ITEMS, 2)
    direction = torch.rand(len(head), generator=torch.Generator().manual_seed(0)) + 0.1
    return {
        "head": head,
        "damping": torch.rand(len(head), generator=torch.Generator().manual_seed(1)) + 0.5,
        "direction": direction / direction.norm(),
        "subspace": torch.from_numpy(np.linalg.qr(rng.standard_normal((len(head), k)))[0]).float(),
    }


@pytest.mark.parametrize("stage", [popularity.STAGE, SUBSPACE])
@pytest.mark.parametrize("block", [1, 200, 10**6])
def test_the_contribution_from_disk_is_bit_by_bit_that_from_memory(parquet, tmp_path, monkeypatch, stage, block):
    memory = open_histories(SiloFile(path=parquet), CATALOGUE)
    assert isinstance(memory, Histories)
    stored = open_histories(SiloFile(path=parquet, block_interactions=100, folder=tmp_path / "silo"), CATALOGUE)
    tables, settings = tables_of(), {"l2_clip_norm": 1.0}
    expected = Spectral().contribution(stage, tables, memory, settings=settings)
    monkeypatch.setattr(user_blocks, "_LEAST_INTERACTIONS", block)
    monkeypatch.setattr(user_blocks, "_INTERACTIONS_AN_ITEM", 0)
    assert len(list(stored.blocks())) == {1: 150, 200: 21, 10**6: 1}[block] or block == 200
    assert torch.equal(Spectral().contribution(stage, tables, stored, settings=settings), expected)
    assert expected.norm() > 1


def test_a_subset_and_a_range_are_those_users(tmp_path, monkeypatch):
    monkeypatch.setattr(user_blocks, "_LEAST_INTERACTIONS", 7)
    monkeypatch.setattr(user_blocks, "_INTERACTIONS_AN_ITEM", 0)
    path = written(table(), tmp_path)
    stored = open_histories(SiloFile(path=path, block_interactions=1, folder=tmp_path / "silo"), CATALOGUE)
    names = list(range(stored.n_users))
    everyone = by_user(stored, names)
    chosen = torch.rand(stored.n_users, generator=torch.Generator().manual_seed(0)) < 0.4
    expected = [everyone[user] for user in names if chosen[user]]
    assert list(by_user(stored.subset(chosen), names).values()) == expected
    part = stored.subset(chosen).users_from(20, 90)
    assert list(by_user(part, names).values()) == [everyone[user] for user in range(20, 90) if chosen[user]]


def test_a_large_file_without_a_folder_is_refused(parquet):
    with pytest.raises(ConfigurationError, match="block-interactions"):
        open_histories(SiloFile(path=parquet, block_interactions=100), CATALOGUE)


def test_what_was_not_written_to_its_end_cannot_be_opened(tmp_path):
    with pytest.raises(RuntimeError), HistoryWriter(tmp_path) as writer:
        writer.append(silo_dataset(read(Request(path=written(table(), tmp_path))).interactions, CATALOGUE).histories)
        raise RuntimeError
    with pytest.raises(DataNotFoundError):
        stored_histories(tmp_path, n_items=N_ITEMS)


def test_a_file_that_was_cut_off_or_changed_is_refused(parquet, tmp_path):
    folder = tmp_path / "silo"
    open_histories(SiloFile(path=parquet, block_interactions=1, folder=folder), CATALOGUE)
    content = (folder / ITEMS).read_bytes()
    (folder / ITEMS).write_bytes(content[:-4])
    with pytest.raises(DataFormatError):
        stored_histories(folder, n_items=N_ITEMS)
    (folder / ITEMS).write_bytes(b"\xff" * len(content))
    with pytest.raises(DataFormatError):
        list(stored_histories(folder, n_items=N_ITEMS).blocks())
