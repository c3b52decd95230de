"""The server's memory does not grow with the number of rounds, and a server that keeps messages is caught."""

import ctypes
import gc

import pytest

from recsys_fed.simulation.flower_engine import load_apps
from simulations.benchmarks.server_memory import BAR, FEW, MANY, growth_of, kilobytes_by_round, measured


@pytest.mark.soak
def test_memory_after_many_rounds_is_that_after_few():
    few, many = measured(FEW), measured(MANY)
    assert len(many) == MANY
    assert growth_of(many) < BAR
    # Of what a message weighs in 190 rounds and three silos, a tenth.
    assert many[-1] - few[-1] < 0.1 * 3 * 256 * (MANY - FEW)


def test_a_server_that_keeps_replies_grows_by_their_size(monkeypatch):
    strategy, kept = load_apps()[0]._main.__globals__["TrainerStrategy"], []

    def keeping(self, server_round, replies):
        there = list(replies)
        kept.extend(there)
        return original(self, server_round, there)

    original = strategy.aggregate_train
    monkeypatch.setattr(strategy, "aggregate_train", keeping)
    # What earlier tests of this process have freed must not be what the replies are kept in.
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    assert growth_of(kilobytes_by_round(24)) > 5 * BAR
    assert len(kept) == 3 * 24
