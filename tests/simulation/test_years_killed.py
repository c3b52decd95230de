"""Trainings killed at any moment end with the same bytes, and nothing is charged twice."""

import os
import signal

import pytest
from small_years import content, simulation

from recsys_fed.ledger.ledger import Ledger
from recsys_fed.simulation.runner import Progress
from recsys_fed.simulation.years import Years, simulate_years


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process that is killed")
@pytest.mark.parametrize("moments", [3, pytest.param(10, marks=pytest.mark.soak)])
def test_killed_at_any_moment_it_ends_with_the_same_bytes_and_charges_nothing_twice(tmp_path, moments):
    folder = tmp_path / "whole"
    simulate_years(simulation(), Years(trainings=3), output=folder)
    planned = 3 * 5 * 4
    for moment in range(moments):
        place = tmp_path / str(moment)
        killed = os.fork()
        if not killed:
            _simulate_until_killed(place, after=1 + moment * (planned - 2) // (moments - 1))
        assert os.WIFSIGNALED(os.waitpid(killed, 0)[1])
        assert not (place / "training-3").exists()
        simulate_years(simulation(), Years(trainings=3), output=place)
        assert content(place, [1, 2, 3]) == content(folder, [1, 2, 3])
        ledger = Ledger.open(str(place / "training-3" / "ledgers" / "silo-0" / "ledger.sqlite"))
        assert ledger.releases() == 15


def _simulate_until_killed(place, *, after):
    """In a process of its own: die with the n-th message of a silo."""
    counted = 0

    def count(*_):
        nonlocal counted
        counted += 1
        if counted > after:
            os.kill(os.getpid(), signal.SIGKILL)

    simulate_years(simulation(), Years(trainings=3), output=place, progress=Progress(releases=count))
    os._exit(0)
