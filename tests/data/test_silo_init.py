"""`silo init` writes what a simulation finds by itself, and the silo then reads the same."""

import json

import numpy as np
import pytest
from command_line import run_command
from doors import in_silo, in_simulation

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.silo.settings import read_silo_settings

KINDS = "view=0.1,Add to cart=0.5,buy=1"
EVENTS = (
    "timestamp,visitorid,event,itemid,more\n1433221332117,u,view,a,\n1433221332118,u,add to cart,b,\n,v,other,a,\n"
)
OBJECTS = [{"user_id": 1, "asin": ["a", "b"], "stars": 4, "ts": "2024-01-31"}, {"user_id": 2.0, "asin": "a"}]


@pytest.fixture
def join(tmp_path, monkeypatch):
    """Join a federation with a file; the silo's settings of its data."""
    monkeypatch.delenv("RECSYS_FED_PASSPHRASE", raising=False)
    Catalogue(item_ids=np.array(["a", "b"], dtype=object)).save(tmp_path / "c.parquet")
    made = run_command(
        "federation", "init", tmp_path / "federation", "--catalogue", tmp_path / "c.parquet", "--silos", 1,
        "--declared-users", 100, "--address", "127.0.0.1:1", "--epsilon", 2,
    )  # fmt: skip
    assert made[0] == 0, made

    def joined(path, *options, expect=0):
        code, _, err = run_command(
            "silo", "init", tmp_path / "silo", "--federation", tmp_path / "federation" / "public", "--name", "north",
            "--epsilon", 5, "--path", path, *options,
        )  # fmt: skip
        assert code == expect, err
        return read_silo_settings(tmp_path / "silo").data if not code else err

    return joined


@pytest.mark.parametrize(
    ("name", "content", "options", "columns"),
    [
        (
            "t.csv",
            "movieId;User ID;Rating;date;x\na;1;4,5;2024-01-31;\nb;1.0;;;\n",
            {},
            {"user": "User ID", "item": "movieId", "value": "Rating", "time": "date"},
        ),
        ("t.tsv", "sku\tcustomer\na\t1\n", {}, {"user": "customer", "item": "sku"}),
        (
            "t.csv",
            EVENTS,
            {"kinds": KINDS},
            {"user": "visitorid", "item": "itemid", "time": "timestamp", "kind": "event"},
        ),
        ("t.csv", EVENTS, {}, {"user": "visitorid", "item": "itemid", "time": "timestamp"}),
        (
            "t.jsonl",
            "".join(json.dumps(row) + "\n" for row in OBJECTS),
            {},
            {"user": "user_id", "item": "asin", "value": "stars", "time": "ts"},
        ),
        ("t.csv", "user,item,user,item\nu,a,v,b\n", {}, {"user": "0", "item": "1"}),
        (
            "t.csv",
            "user,item,time_rank,user\nu,a,2,v\nu,b,1,v\n",
            {},
            {"user": "0", "item": "item", "time": "time_rank"},
        ),
        ("t.inter", 'user_id:token\titem_id:token\nu\ta\n"v"\tb\n', {}, {"user": "user_id", "item": "item_id"}),
        (
            "t.csv",
            "who,what\nu,a b\n",
            {"form": "lists=blank", "columns": "user=who,item=what"},
            {"user": "who", "item": "what"},
        ),
        (
            "t.tsv",
            "1\tu\ta b\n2\tv\tb\n",
            {"form": "lists=blank", "columns": "user=1,item=2"},
            {"user": "1", "item": "2"},
        ),
    ],
)
def test_a_silo_reads_what_a_simulation_does(name, content, options, columns, join, tmp_path):
    path = tmp_path / name
    path.write_text(content)
    flags = {"columns": "--columns", "kinds": "--kinds", "form": "--format"}
    data = join(path, *(part for key, text in options.items() for part in (flags[key], text)))
    assert data.columns == columns
    assert data.kinds == ({"view": 0.1, "Add to cart": 0.5, "buy": 1.0} if "kinds" in options else {})
    simulated, catalogue = in_simulation(path, **options, timed="time" in columns)
    assert in_silo(data, catalogue) == simulated
    assert simulated.n_kept > 0


@pytest.mark.parametrize(
    ("name", "content"),
    [("t.csv", b"ann@example.org,12\n"), ("t.parquet", b"ann@example.org"), ("t.csv", b""), ("t.jsonl", b"[1]\n")],
)
def test_a_file_that_says_nothing_is_refused_and_makes_no_silo(name, content, join, tmp_path):
    (tmp_path / name).write_bytes(content)
    said = join(tmp_path / name, expect=2)
    assert "Expected" in said
    assert "ann@" not in said
    assert not (tmp_path / "silo" / "silo.toml").exists()
