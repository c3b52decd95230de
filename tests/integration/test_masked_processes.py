"""Secure aggregation between real processes: the model of the in-process engine, and sums of silos only."""

import json
from dataclasses import replace

import numpy as np
import pytest
from deployment_kit import CONFIG, DATA, SILOS, deployed
from real_federation import RealFederation, log_lines

from recsys_fed.certificates.run import verify_run
from recsys_fed.federation.run_files import CERTIFICATES, EMBEDDINGS, EVENTS
from recsys_fed.flower import free_port
from recsys_fed.models.items import load_item_embeddings
from recsys_fed.simulation.runner import Simulation, simulate

# Seeded noise makes the model comparable; a masked round is five exchanges of messages, so as few rounds as will do.
CONFIG = replace(CONFIG, rounds=2, secure_aggregation="on")


@pytest.mark.soak
def test_masked_rounds_of_real_processes_give_the_model_of_the_in_process_engine(tmp_path):
    there = deployed(tmp_path / "federation", config=CONFIG, simulated=True, port=free_port())
    federation = RealFederation(there, tmp_path / "logs")
    try:
        federation.start_all()
        folder = federation.finish(federation.train("--json"))
    finally:
        federation.stop()
    simulation = Simulation(federation=CONFIG, data=DATA, declare_users=False)
    simulate(simulation, output=tmp_path / "simulation")
    one, other = (load_item_embeddings(path / EMBEDDINGS) for path in (folder, tmp_path / "simulation"))
    for name in ("vectors", "bias", "history_weights"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    events = [json.loads(line) for line in (folder / EVENTS).read_text().splitlines()]
    assert len(events) == CONFIG.rounds * SILOS
    # Each silo adds half of the noise, so that any two have all of it: its own message has too little, and is masked.
    assert {(event["threshold"], event["noise_share"]) for event in events} == {(SILOS, 1 / (SILOS - 1))}
    found = verify_run(folder / CERTIFICATES, events=folder / EVENTS, model=folder / EMBEDDINGS)
    assert found.holds, found.problems
    asked = [
        line["message"] for line in log_lines(there.silos[0] / "log.jsonl") if line["event"] == "message answered"
    ]
    assert asked == ["greet", *["advertise", "share", "train", "confirm", "unmask"] * CONFIG.rounds, "conclude"]
