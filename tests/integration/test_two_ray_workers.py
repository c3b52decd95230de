"""Silos on several machines: Flower's engine on two Ray nodes gives the bytes of the in-process engine."""

import os
from pathlib import Path

import pytest

from recsys_fed.config import FederationConfig, SimulationConfig, parse
from recsys_fed.simulation.runner import Simulation, simulate

MODEL = "item_embeddings.safetensors"
KEYS = {
    "data": "generated:users=120,items=40,interactions=12",
    "silos": 4,
    "threads": 1,
    "rounds": 3,
    "device": "cpu",
}


@pytest.fixture
def cluster():
    """Two Ray nodes of one processor each, on loopback; the second is a worker that joins the first."""
    utils = pytest.importorskip("ray.cluster_utils", reason="needs Ray, of the flower extra")
    # Workers import the apps' library, which need not be installed.
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    nodes = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        nodes.add_node(num_cpus=1)
        yield nodes
    finally:
        nodes.shutdown()
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@pytest.mark.soak
def test_two_workers_give_the_bytes_of_the_in_process_engine(cluster, tmp_path, monkeypatch):
    federation, data = parse(FederationConfig, KEYS), parse(SimulationConfig, KEYS)
    simulate(Simulation(federation=federation, data=data), output=tmp_path / "here")
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    simulate(Simulation(federation=federation, data=data, engine="flower"), output=tmp_path / "there")
    assert (tmp_path / "there" / MODEL).read_bytes() == (tmp_path / "here" / MODEL).read_bytes()
    # One processor a silo and one a node: both nodes have one.
    logs = "".join(path.read_text(errors="replace") for path in (tmp_path / "there" / "flower").glob("*.log"))
    assert "2 actors" in logs or "CPU': 2.0" in logs
