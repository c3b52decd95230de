"""dp-sgd, local schedule: integer noise at every step inside the silo, and the server's average."""

import numpy as np
import pytest
import torch
from plain_trainers import facts_of, from_dense
from plain_trainers import one_thread as _one_thread  # noqa: F401
from scipy import stats

from recsys_fed.models.items import FoldIn, gramian_of
from recsys_fed.privacy.integer_mechanism import IntegerMechanism
from recsys_fed.privacy.noise import SeededNoise
from recsys_fed.trainers.dp_sgd import DPSGD, LOCAL_STEPS
from recsys_fed.trainers.loss import Batch
from recsys_fed.trainers.losses import LOSSES, ImplicitALS
from recsys_fed.trainers.popularity import NoisyPopularity
from recsys_fed.trainers.rank_one import clipped_sum
from recsys_fed.trainers.trainer import LocalNoise

SETTINGS = {
    "unobserved_weight": 0.3, "regularization": 1.0, "learning_rate": 0.5, "expected_batch_size": 8.0,
    "l2_clip_norm": 2.0,
}  # fmt: skip
GRID_STEP = 2.0**-12
losses = pytest.mark.parametrize("loss", sorted(LOSSES))


def tables(n_items=400, dim=5):
    start = torch.randn(n_items, dim, generator=torch.Generator().manual_seed(0))
    return {"head": torch.arange(n_items), "vectors": start}


def noise(noise_multiplier, *, steps=9, sampling_probability=1.0, seed=0):
    mechanism = IntegerMechanism(
        noise_multiplier=noise_multiplier, l2_clip_norm=2.0, grid_step=GRID_STEP, entries=400 * 5
    )
    return LocalNoise(
        mechanism=mechanism,
        sampling_probability=sampling_probability,
        steps=steps,
        source=SeededNoise(seed),
        sampling=SeededNoise(seed, 1),
    )


def update(matrix, how, *, loss="implicit-als", **changes):
    """The change of V that the released integers stand for."""
    settings = SETTINGS | changes
    trainer = DPSGD(schedule="local", loss=loss, negatives=8)
    found = trainer.local_update(tables(), from_dense(matrix), settings=settings, noise=how)
    assert found.dtype == torch.int32
    return -settings["learning_rate"] / settings["expected_batch_size"] * GRID_STEP * found.double()


def assert_noise(values, scale):
    assert stats.kstest(np.ravel(values), stats.norm(scale=scale).cdf).pvalue > 1e-3
    for wrong in (2 / 3, 3 / 2):
        assert stats.kstest(np.ravel(values), stats.norm(scale=scale * wrong).cdf).pvalue < 1e-9


def scale_of(how, learning_rate=0.5):
    return learning_rate / 8.0 * GRID_STEP * how.mechanism.standard_deviation * how.steps**0.5


@losses
@pytest.mark.parametrize("sampling_probability", [1.0, 0.3])
def test_a_silo_without_users_releases_the_noise_of_all_steps(sampling_probability, loss):
    how = noise(1.5, sampling_probability=sampling_probability)
    # Rounding makes the noise larger than that of the continuous mechanism, and hardly so.
    assert 1 < scale_of(how) / (0.5 * 1.5 * 2.0 / 8.0 * 9**0.5) < 1.02
    assert_noise(update(np.zeros((0, 400)), how, loss=loss).numpy(), scale_of(how))


@losses
def test_empty_samples_release_the_noise_of_all_steps(loss):
    how = noise(1.5, sampling_probability=1e-12)
    assert_noise(update(np.ones((3, 400)), how, loss=loss).numpy(), scale_of(how))


@losses
def test_the_noise_lies_on_top_of_the_update_without_noise(loss):
    # Rates so small that the gradients do not see the noise of earlier steps.
    matrix, small = (np.random.default_rng(0).random((40, 400)) < 0.1).astype(float), 1e-5
    quiet = update(matrix, noise(0.0, steps=4), learning_rate=small, loss=loss)
    loud = noise(3.0, steps=4)
    difference = update(matrix, loud, learning_rate=small, loss=loss) - quiet
    assert quiet.norm() > 0
    assert_noise(difference.numpy(), scale_of(loud, learning_rate=small))


def test_the_planned_batch_is_that_of_the_declared_users():
    facts = facts_of(400, declared_users=100, silos=5)
    stage = DPSGD(schedule="local", local_steps=6, sampling_probability=0.5).plan(facts)[1]
    assert stage.settings["expected_batch_size"] == 10.0


def test_without_noise_a_step_is_gradient_descent_on_the_clipped_sum():
    matrix = (np.random.default_rng(1).random((6, 400)) < 0.1).astype(float)
    how = FoldIn(kind="ridge", unobserved_weight=0.3, regularization=1.0)
    vectors = tables()["vectors"].double()
    for _ in range(3):
        batch = Batch(vectors=vectors, histories=from_dense(matrix), negatives=None, gramian=gramian_of(vectors))
        contributions = ImplicitALS().contributions(batch, how=how, unobserved_weight=0.3)
        vectors = vectors - 0.5 * clipped_sum(contributions, l2_clip_norm=2.0, mode="automatic") / 8.0
    found = update(matrix, noise(0.0, steps=3))
    # Three roundings to the grid.
    torch.testing.assert_close(
        found, vectors - tables()["vectors"].double(), atol=3.1 * 0.5 / 8 * GRID_STEP, rtol=1e-4
    )


@losses
def test_the_same_streams_give_the_same_update_and_others_another(loss):
    matrix = (np.random.default_rng(1).random((20, 400)) < 0.1).astype(float)
    one, same, other = (
        update(matrix, noise(1.0, sampling_probability=0.5, seed=seed), loss=loss) for seed in (0, 0, 7)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@losses
def test_the_tables_that_came_in_are_left_as_they_were(loss):
    mine = tables()
    trainer = DPSGD(schedule="local", loss=loss)
    trainer.local_update(mine, from_dense(np.ones((2, 400))), settings=SETTINGS, noise=noise(1.0))
    assert torch.equal(mine["vectors"], tables()["vectors"])


def test_the_server_adds_the_average_over_silos():
    trainer, facts = DPSGD(schedule="local", learning_rate=0.5), facts_of(4, embedding_dim=2, silos=3)
    state = trainer.start(facts, np.random.default_rng(0))
    counts, *locals_ = trainer.plan(facts)
    state = trainer.step(state, counts, torch.ones(4, 1), noise_std=0.0, n_silos=3)
    assert locals_[0].name == LOCAL_STEPS
    total = torch.full((4, 2), 6.0, dtype=torch.float64)
    after = trainer.step(state, locals_[0], total, noise_std=1.0, n_silos=3)
    expected_batch_size = facts.declared_users_of_silo
    torch.testing.assert_close(after.vectors, state.vectors - 0.5 * 2.0 / expected_batch_size)
    assert isinstance(after.popularity, NoisyPopularity)
