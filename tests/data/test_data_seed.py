"""A data seed keeps splits and silos as they are while the run's seed changes."""

import numpy as np
import pytest

from recsys_fed.config import SimulationConfig
from recsys_fed.data.simulated import simulated_federation
from recsys_fed.errors import ConfigurationError

DATA = "generated:users=60,items=30,interactions=8"


def federation(seed, *, data_seed):
    return simulated_federation(SimulationConfig(data=DATA, data_seed=data_seed), silos=3, seed=seed)


def alike(one, other):
    same_silos = all(np.array_equal(a, b) for a, b in zip(one.users_of_silo, other.users_of_silo, strict=True))
    return same_silos, (one.test != other.test).nnz == 0


def test_data_and_silos_follow_the_data_seed_where_there_is_one():
    assert alike(federation(0, data_seed=7), federation(1, data_seed=7)) == (True, True)
    assert alike(federation(0, data_seed=7), federation(0, data_seed=8)) == (False, False)


def test_without_one_they_follow_the_seed_of_the_run():
    assert alike(federation(0, data_seed=-1), federation(1, data_seed=-1)) == (False, False)
    assert alike(federation(4, data_seed=-1), federation(0, data_seed=4)) == (True, True)


def test_other_numbers_are_refused():
    with pytest.raises(ConfigurationError, match="data_seed"):
        SimulationConfig(data_seed=-2)
