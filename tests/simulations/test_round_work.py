"""What is measured as a round's own work is that of the server and of one silo, not of all of them."""

import numpy as np

from client.deployed import forget_silos
from simulations.benchmarks import round_work
from simulations.benchmarks.made_federation import made_federation


def test_a_round_is_the_server_and_one_silo(tmp_path, monkeypatch):
    clock, train = [0.0], 7.0
    monkeypatch.setattr(round_work, "_clocks", lambda: np.array([clock[0], 2 * clock[0]]))
    server, client = round_work.load_apps()

    def slow(message, context):
        clock[0] += train if message.metadata.message_type == "train" else 100.0
        return client(message, context)

    monkeypatch.setattr(round_work, "load_apps", lambda: (server, slow))
    forget_silos()
    federation, silos = made_federation(tmp_path, rounds=round_work.ROUNDS)
    found = round_work.own_work(federation, silos, tmp_path / "own")
    forget_silos()
    # Three silos took seven seconds each by this clock, and the server none.
    assert (found.seconds, found.processor_seconds) == (train, 2 * train)
