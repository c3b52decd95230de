"""No user's id occurs in the bytes of any message or in any file of a run."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from flwr.common.serde import message_to_proto
from recorded_runs import recorded_run, write_table

from recsys_fed.data.sources import Request, read

MARKER = "zqxuserzqx"
RUNS = {
    "spectral": {"trainer": "spectral", "rounds": 2},
    "dp-sgd": {"trainer": "dp-sgd", "rounds": 3, "noise": "distributed"},
    "not private": {"trainer": "spectral", "rounds": 2, "epsilon": float("inf")},
}


def content_of(path: Path) -> bytes:
    """Bytes of a file, those of Parquet uncompressed."""
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        return json.dumps([table.to_pydict(), str(table.schema)]).encode()
    return path.read_bytes()


@pytest.mark.parametrize("federation", RUNS.values(), ids=RUNS)
def test_no_users_id_leaves_a_silo(federation, tmp_path):
    table, folder = write_table(tmp_path, MARKER), tmp_path / "run"
    users = read(Request(path=table)).interactions.user_ids
    assert all(MARKER in user for user in users)
    recorder = recorded_run(table, output=folder, **federation)
    messages = recorder.sent + recorder.replies
    serialised = [message_to_proto(message).SerializeToString() for message in messages]
    assert any(b"item counts" in content for content in serialised)
    assert not any(MARKER.encode() in content for content in serialised)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"metrics.json", "events.jsonl", "config.toml", "catalogue.parquet"}
    for path in files:
        assert MARKER.encode() not in content_of(path), path.name
    assert any(b"film-1" in content_of(path) for path in files), "the search would find an id"
