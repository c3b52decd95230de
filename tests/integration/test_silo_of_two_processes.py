"""Silos of two real processes each, over gloo on loopback, train the model that silos of one process train."""

import os
import socket
import subprocess
import sys

import pytest
import torch

from recsys_fed.config import FederationConfig, SimulationConfig, parse
from recsys_fed.models.items import load_item_embeddings
from recsys_fed.settings_file import to_toml
from recsys_fed.simulation.runner import Simulation, simulate

MODEL = "item_embeddings.safetensors"
TIMEOUT = 300
KEYS = {
    "data": "generated:users=120,items=40,interactions=12",
    "silos": 3,
    "threads": 1,
    "rounds": 3,
    "device": "cpu",
}
TRAINERS = {
    "spectral": {"trainer": "spectral"},
    "dp-sgd, sampled": {"trainer": "dp-sgd", "dp-sgd.sampling-probability": 0.5},
    "dp-sgd, sampled, of weighed users": {
        "trainer": "dp-sgd",
        "dp-sgd.sampling-probability": 0.5,
        "user-weights": "sex:F=1,M=0.5",
        "metric-groups": "sex:F,M",
    },
}
MARKS = {name: pytest.mark.soak for name in TRAINERS if name.startswith("dp-sgd")}


def in_two_processes(keys, folder) -> subprocess.CompletedProcess:
    scenario = folder / "scenario.toml"
    scenario.write_text(to_toml(keys), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(port)]
    command += ["-m", "recsys_fed.simulation.ranked", str(scenario), "--output", str(folder / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False)


@pytest.mark.parametrize(
    "trainer", [pytest.param(keys, id=name, marks=MARKS.get(name, ())) for name, keys in TRAINERS.items()]
)
def test_one_and_two_processes_give_the_same_item_embeddings(trainer, tmp_path):
    table = tmp_path / "users.csv"
    table.write_text("user,sex\n" + "".join(f"{u},{'FM'[u % 2]}\n" for u in range(120)))
    keys = KEYS | {"user-attributes": str(table), "attribute-columns": "sex=sex"} | trainer
    simulation = Simulation(federation=parse(FederationConfig, keys), data=parse(SimulationConfig, keys))
    simulate(simulation, output=tmp_path / "one")
    done = in_two_processes(keys, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (load_item_embeddings(tmp_path / name / MODEL).vectors for name in ("one", "run"))
    torch.testing.assert_close(two, one, atol=1e-6, rtol=0)
    assert one.norm() > 0.1


def test_local_steps_are_refused_and_nobody_waits_for_ever(tmp_path):
    done = in_two_processes(KEYS | {"trainer": "dp-sgd", "dp-sgd.schedule": "local"}, tmp_path)
    assert done.returncode != 0
    assert "Local steps need a silo of one process, this one has several ranks" in done.stderr
