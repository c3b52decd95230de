"""The same seed gives the same bytes, however the silos are run; another seed does not."""

from pathlib import Path

import pytest
from small_run import small_run

MODEL, EVENTS = "item_embeddings.safetensors", "events.jsonl"
RUNS = {
    "spectral": {"trainer": "spectral"},
    "dp-sgd": {"trainer": "dp-sgd", "rounds": 4},
    "dp-sgd, local steps": {"trainer": "dp-sgd", "rounds": 3, "dp-sgd.schedule": "local"},
}


def files(folder: Path, **keys) -> tuple[bytes, bytes]:
    small_run(folder, **keys)
    return (folder / MODEL).read_bytes(), (folder / EVENTS).read_bytes()


@pytest.mark.parametrize("keys", RUNS.values(), ids=RUNS)
def test_same_seed_same_bytes_in_turn_and_in_threads(keys, tmp_path):
    once = files(tmp_path / "once", **keys)
    assert files(tmp_path / "again", **keys) == once
    assert files(tmp_path / "threads", parallel_silos=3, **keys) == once


@pytest.mark.parametrize("key", ["seed", "silos"])
def test_another_seed_or_federation_gives_another_model(key, tmp_path):
    assert files(tmp_path / "a", **{key: 3})[0] != files(tmp_path / "b", **{key: 4})[0]


def test_a_run_over_an_old_one_replaces_it(tmp_path):
    files(tmp_path / "a", seed=1, trainer="dp-sgd", rounds=5)
    assert files(tmp_path / "a", seed=2) == files(tmp_path / "b", seed=2)
