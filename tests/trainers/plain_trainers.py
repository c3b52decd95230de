"""Trainers once more, with every user's matrix formed in float64, and a federation without transport."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from recsys_fed.models.histories import Histories, histories_of
from recsys_fed.models.items import ItemEmbeddings, scores, user_vectors
from recsys_fed.privacy.calibration import calibrate_noise_multiplier
from recsys_fed.privacy.events import PlannedRelease
from recsys_fed.privacy.integer_mechanism import IntegerMechanism, grid_step
from recsys_fed.privacy.noise import SeededNoise
from recsys_fed.trainers.rank_one import RankOneContributions
from recsys_fed.trainers.trainer import LocalNoise, PublicFacts

CLIP = {"l2_clip_norm": 1.0}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """For modules that import it: on small tensors further threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def from_dense(matrix) -> Histories:
    return histories_of(sparse.csr_matrix(np.asarray(matrix, dtype=np.float64)))


def facts_of(n_items, **changes) -> PublicFacts:
    settings = {"catalogue_hash": "c", "declared_users": 1_000, "silos": 1, "noise_level": 0.0}
    return PublicFacts(n_items=n_items, **(settings | changes))


def contributions(batch: RankOneContributions) -> torch.Tensor:
    """r_u y_u^T of every user, float64 [n_users, n_items, k]."""
    starts, matrices = batch.histories.starts.tolist(), []
    for user in range(batch.histories.n_users):
        mine = slice(starts[user], starts[user + 1])
        left = batch.basis.double() @ batch.coefficients[user].double()
        left[batch.histories.items[mine]] += batch.values[mine].double()
        matrices.append(torch.outer(left, batch.right[user].double()))
    shape = (0, batch.histories.n_items, batch.right.shape[1])
    return torch.stack(matrices) if matrices else torch.zeros(shape, dtype=torch.float64)


def plain_clipped_sum(batch: RankOneContributions, *, l2_clip_norm: float, mode: str) -> torch.Tensor:
    total = torch.zeros(batch.histories.n_items, batch.right.shape[1], dtype=torch.float64)
    for matrix in contributions(batch):
        norm = float(matrix.norm())
        if norm > 0:
            total += matrix * (l2_clip_norm / norm if mode == "automatic" else min(1.0, l2_clip_norm / norm))
    return total


def noise_of(matrices, facts: PublicFacts, trainer, *, epsilon: float, delta: float = 1e-6):
    """Facts with the level of the noise, and the plan's noise multiplier, for silos that each add all of it."""
    single = calibrate_noise_multiplier([PlannedRelease(released="one")], epsilon=epsilon, delta=delta)
    noisy = replace(facts, noise_level=single * len(matrices) ** 0.5)
    plan = [stage.release for stage in trainer.plan(noisy)]
    return noisy, calibrate_noise_multiplier(plan, epsilon=epsilon, delta=delta)


def run(trainer, facts: PublicFacts, matrices, *, noise_multiplier: float = 0.0, seed: int = 0):
    """The states of the server, first to last: all rounds of the plan over silos [n_users, n_items]."""
    silos, rng = [from_dense(matrix) for matrix in matrices], np.random.default_rng(seed)
    states = [trainer.start(facts, rng)]
    for stage in trainer.plan(facts):
        state, deviation = states[-1], noise_multiplier * stage.release.relative_noise
        tables, layout = trainer.tables(state, stage), trainer.layout(facts, stage)
        shape = layout.shape
        assert {name: (table.dtype, tuple(table.shape)) for name, table in tables.items()} == {
            name: (table.dtype, table.shape) for name, table in layout.tables.items()
        }
        settings = {**stage.settings, "l2_clip_norm": stage.l2_clip_norm}
        total = torch.zeros(shape, dtype=torch.float64)
        for histories in silos:
            if stage.noise_inside:
                noise = local_noise(stage, deviation, rng, shape=shape, declared_users=facts.declared_users_of_silo)
                moved = trainer.local_update(tables, histories, settings=settings, noise=noise)
                total += moved.double() * noise.mechanism.grid_step
                continue
            total += trainer.contribution(stage.name, tables, histories, settings=settings)
            total += torch.from_numpy(deviation * stage.l2_clip_norm * rng.standard_normal(shape))
        std = deviation * len(silos) ** 0.5
        states.append(trainer.step(state, stage, total, noise_std=std, n_silos=len(silos)))
    return states


def local_noise(stage, noise_multiplier, rng, *, shape, declared_users=1_000) -> LocalNoise:
    seeds = rng.integers(0, 2**62, 2).tolist()
    steps, entries = stage.release.steps, shape[0] * shape[1]
    step = grid_step(
        noise_multiplier=noise_multiplier,
        l2_clip_norm=stage.l2_clip_norm,
        declared_users=declared_users,
        entries=entries,
        steps=steps,
    )
    return LocalNoise(
        mechanism=IntegerMechanism(
            noise_multiplier=noise_multiplier, l2_clip_norm=stage.l2_clip_norm, grid_step=step, entries=entries
        ),
        sampling_probability=stage.release.sampling_probability,
        steps=steps,
        source=SeededNoise(seeds[0]),
        sampling=SeededNoise(seeds[1]),
    )


def recommended(model: ItemEmbeddings, matrix) -> torch.Tensor:
    """The best item of every user that the user does not have."""
    ranking = scores(model, user_vectors(model, from_dense(matrix)))
    return torch.where(torch.as_tensor(np.asarray(matrix)) > 0, -torch.inf, ranking).argmax(1)
