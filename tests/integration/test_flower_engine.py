"""Flower's own engine, on loopback: the same bytes as in process, and nothing left behind."""

import importlib.util
import time
from pathlib import Path

import pytest

from recsys_fed.config import FederationConfig, SimulationConfig
from recsys_fed.simulation.runner import Simulation, simulate

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason='Flower\'s engine needs ray: pip install "recsys-fed[flower]"'
)


def run(engine: str, output: Path, **keys) -> dict:
    federation = FederationConfig(silos=3, threads=1, seed=2, rounds=2, **keys)
    data = SimulationConfig(data="generated:users=60,items=25,interactions=8")
    return simulate(Simulation(federation=federation, data=data, engine=engine), output=output)


def processes_with(text: str) -> list[int]:
    """Ids of the processes that have the text in their environment, as all of a run of Flower have FLWR_HOME."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if text.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def left_after(text: str, *, seconds: float) -> list[int]:
    """Processes that have not ended by then. Ray's workers need a moment to notice that their master is gone."""
    deadline = time.monotonic() + seconds
    while (left := processes_with(text)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return left


@needs_ray
@pytest.mark.soak
def test_a_masked_run_gives_the_same_model_on_both_engines(tmp_path):
    """Masks are fresh on each, so events differ in their digests only."""
    masked = {"secure_aggregation": "on"}
    record = run("flower", tmp_path / "flower", **masked)
    expected = run("in-process", tmp_path / "in-process", **masked)
    models = [(tmp_path / engine / "item_embeddings.safetensors").read_bytes() for engine in ("flower", "in-process")]
    assert models[0] == models[1]
    for name in ("metrics", "epsilon_spent", "bytes_up", "rounds", "secure_aggregation", "refused"):
        assert record[name] == expected[name], name


@needs_ray
def test_flowers_engine_gives_the_bytes_of_the_in_process_engine(tmp_path):
    flower, in_process = tmp_path / "flower", tmp_path / "in-process"
    record = run("flower", flower)
    assert record["engine"] == "flower"
    expected = run("in-process", in_process)
    for name in ("item_embeddings.safetensors", "events.jsonl", "catalogue.parquet"):
        assert (flower / name).read_bytes() == (in_process / name).read_bytes(), name
    for name in ("metrics", "popularity", "epsilon_spent", "bytes_up", "bytes_down", "rounds"):
        assert record[name] == expected[name], name
    assert left_after(f"FLWR_HOME={flower}", seconds=60) == []
