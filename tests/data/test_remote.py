"""Data and runs at an address: what is read is what the same files give here, and no copy is left."""

import tempfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
from command_line import json_of, run_command

from recsys_fed import Dataset, Federation, Recommender, Run
from recsys_fed.errors import ConfigurationError, DataNotFoundError, MissingExtraError

TABLE = "customer,sku,day\nada,tea,2026-01-02\nada,milk,2026-01-03\nbob,tea,2026-01-04\n"
COLUMNS = {"user": "customer", "item": "sku", "time": "day"}


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch):
    """An empty file system of this process, and a folder of temporary files that is empty again afterwards."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    yield files
    files.store.clear()


def same(one, other):
    left, right = one.interactions, other.interactions
    return all(np.array_equal(getattr(left, n), getattr(right, n)) for n in ("user", "item", "time", "item_ids"))


def test_a_table_is_read_as_the_same_file_here(memory, tmp_path):
    (tmp_path / "shop.csv").write_text(TABLE)
    memory.pipe("/bucket/shop.csv", TABLE.encode())
    here = Dataset.open(tmp_path / "shop.csv", columns=COLUMNS)
    for address in ("memory://bucket/shop.csv", f"file://{tmp_path}/shop.csv"):
        there = Dataset.open(address, columns=COLUMNS)
        assert same(there, here) and there.name == "shop"
    assert not list((tmp_path / "temporary").iterdir())


def test_a_folder_with_more_files_is_read_too_and_a_split_behind_the_address(memory):
    memory.pipe("/bucket/ours/a.inter", b"user_id:token\titem_id:token\n1\t7\n2\t7\n")
    memory.pipe("/bucket/ours/a.item", b"item_id:token\ttitle:token\n7\tTea\n")
    assert Dataset.open("memory://bucket/ours").catalogue.titles == ("Tea",)
    memory.pipe("/bucket/gcn/train.txt", b"0 1 2\n1 2\n")
    memory.pipe("/bucket/gcn/test.txt", b"0 0\n1 1\n")
    assert Dataset.open("memory://bucket/gcn/").is_test.sum() == 2
    with pytest.raises(ConfigurationError, match="no #split"):
        Dataset.open("memory://bucket/gcn#random90")


def test_a_run_is_trained_from_there_saved_there_and_recommends_from_there(memory, tmp_path):
    rows = [f"c{c},sku-{(5 * c + 7 * i) % 40},2026-01-0{1 + i}" for c in range(90) for i in range(5)]
    memory.pipe("/bucket/shop.csv", "\n".join(["customer,sku,day", *rows]).encode())
    settings = {"columns": "user=customer,item=sku"}
    run = Federation("memory://bucket/shop.csv", silos=2, settings=settings).train("popularity", epsilon=9.0)
    run.save("memory://models/mine")
    with pytest.raises(ConfigurationError, match="already"):
        run.save("memory://models/mine")
    again = Run.load("memory://models/mine")
    assert again.metrics == run.metrics and again.verify().holds
    expected = run.model.recommend(["sku-3"], k=4)
    assert Recommender.load("memory://models/mine").recommend(["sku-3"], k=4) == expected
    code, out, _ = run_command("recommend", "--run", "memory://models/mine", "--history", "sku-3", "-k", 4, "--json")
    assert code == 0 and [one["item"] for one in json_of(out)["recommendations"]] == [one.item for one in expected]
    kept = Path(again.folder).parent
    del again, run
    assert not kept.exists() and not list((tmp_path / "temporary").iterdir())


def test_what_cannot_be_read_is_said(monkeypatch):
    with pytest.raises(DataNotFoundError, match=r"memory://bucket/nothing\.csv"):
        Dataset.open("memory://bucket/nothing.csv")
    with pytest.raises(DataNotFoundError):
        Run.load("memory://models/nothing")
    with pytest.raises(ConfigurationError, match="Protocol not known"):
        Dataset.open("nowhere://shop.csv")
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(MissingExtraError, match="s3fs"):
        Dataset.open("s3://bucket/shop.csv")
