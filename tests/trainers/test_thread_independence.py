"""One thread and two give the same bytes: what a silo computes does not depend on its processors."""

import numpy as np
import pytest
import torch
from plain_trainers import CLIP, facts_of, local_noise
from plain_trainers import one_thread as _one_thread  # noqa: F401
from scipy import sparse

from recsys_fed.models.device import use_threads
from recsys_fed.models.histories import histories_of
from recsys_fed.trainers import popularity
from recsys_fed.trainers.dp_sgd import DPSGD, GRADIENT
from recsys_fed.trainers.spectral import SUBSPACE, Spectral
from recsys_fed.trainers.subspace import orthonormal

N_USERS, N_ITEMS, DIM = 3_000, 900, 16
HOW = {"unobserved_weight": 0.3, "regularization": 1.0, "learning_rate": 0.5, "expected_batch_size": 3_000.0}


def tables():
    rng = np.random.default_rng(0)
    direction = torch.from_numpy(rng.random(N_ITEMS) + 0.1)
    direction /= direction.norm()
    start = torch.from_numpy(rng.standard_normal((N_ITEMS, DIM)))
    return {
        "head": torch.arange(N_ITEMS),
        "damping": torch.from_numpy(rng.random(N_ITEMS) + 0.5).float(),
        "direction": direction.float(),
        "subspace": orthonormal(start, against=direction).float(),
        "vectors": start.float() * 0.1,
    }


def local_steps(histories):
    trainer = DPSGD(schedule="local", local_steps=2)
    stage = trainer.plan(facts_of(N_ITEMS))[1]
    noise = local_noise(stage, 1.0, np.random.default_rng(0), shape=(N_ITEMS, DIM))
    return trainer.local_update(tables(), histories, settings=HOW | CLIP, noise=noise)


SILO_HALVES = {
    "counts": lambda histories: Spectral().contribution(popularity.STAGE, {}, histories, settings=CLIP),
    "spectral": lambda histories: Spectral().contribution(SUBSPACE, tables(), histories, settings=CLIP),
    "gradient": lambda histories: DPSGD().contribution(GRADIENT, tables(), histories, settings=HOW | CLIP),
    "local steps": local_steps,
}


@pytest.mark.parametrize("name", SILO_HALVES)
def test_the_bytes_do_not_depend_on_the_number_of_threads(name):
    matrix = sparse.random(N_USERS, N_ITEMS, density=0.04, format="csr", rng=np.random.default_rng(1))
    found = []
    for threads in (1, 2):
        use_threads(threads)
        found.append(SILO_HALVES[name](histories_of(matrix)))
    assert torch.equal(*found)
    assert found[0].abs().max() > 0
