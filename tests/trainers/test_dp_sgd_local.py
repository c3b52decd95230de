"""dp-sgd, local schedule: noise at every step inside the silo, and the server's average."""

import numpy as np
import pytest
import torch
from plain_trainers import facts_of, from_dense
from plain_trainers import one_thread as _one_thread  # noqa: F401
from scipy import stats

from recsys_fed.models.items import FoldIn
from recsys_fed.trainers.base import LocalNoise
from recsys_fed.trainers.dp_sgd import DPSGD, LOCAL_STEPS, implicit_als_gradients
from recsys_fed.trainers.popularity import NoisedPopularity
from recsys_fed.trainers.rank_one import clipped_sum

SETTINGS = {
    "unobserved_weight": 0.3, "regularization": 1.0, "learning_rate": 0.5, "expected_batch_size": 8.0,
    "l2_clip_norm": 2.0,
}  # fmt: skip


def tables(n_items=400, dim=5):
    start = torch.randn(n_items, dim, generator=torch.Generator().manual_seed(0))
    return {"head": torch.arange(n_items), "vectors": start}


def noise(noise_multiplier, *, steps=9, sampling_probability=1.0, seed=0):
    return LocalNoise(
        noise_multiplier=noise_multiplier,
        sampling_probability=sampling_probability,
        steps=steps,
        noise=torch.Generator().manual_seed(seed),
        sampling=torch.Generator().manual_seed(seed + 1),
    )


def update(matrix, how, **changes):
    return DPSGD(schedule="local").local_update(tables(), from_dense(matrix), settings=SETTINGS | changes, noise=how)


def assert_noise(values, scale):
    assert stats.kstest(np.ravel(values), stats.norm(scale=scale).cdf).pvalue > 1e-3
    for wrong in (2 / 3, 3 / 2):
        assert stats.kstest(np.ravel(values), stats.norm(scale=scale * wrong).cdf).pvalue < 1e-9


@pytest.mark.parametrize("sampling_probability", [1.0, 0.3])
def test_a_silo_without_users_releases_the_noise_of_all_steps(sampling_probability):
    found = update(np.zeros((0, 400)), noise(1.5, sampling_probability=sampling_probability))
    assert_noise(found.numpy(), 0.5 * 1.5 * 2.0 / 8.0 * 9**0.5)


def test_empty_samples_release_the_noise_of_all_steps():
    matrix = np.ones((3, 400))
    assert_noise(update(matrix, noise(1.5, sampling_probability=1e-12)).numpy(), 0.5 * 1.5 * 2.0 / 8.0 * 9**0.5)


def test_the_noise_lies_on_top_of_the_update_without_noise():
    # Rates so small that the gradients do not see the noise of earlier steps.
    matrix, small = (np.random.default_rng(0).random((40, 400)) < 0.1).astype(float), 1e-4
    quiet = update(matrix, noise(0.0, steps=4), learning_rate=small)
    loud = update(matrix, noise(3.0, steps=4), learning_rate=small)
    assert quiet.norm() > 0
    assert_noise((loud - quiet).numpy(), small * 3.0 * 2.0 / 8.0 * 4**0.5)


def test_the_planned_scale_of_the_update_is_that_of_the_noise():
    facts = facts_of(400, declared_users=100, silos=5)
    stage = DPSGD(schedule="local", local_steps=6, sampling_probability=0.5).plan(facts)[1]
    assert stage.settings["expected_batch_size"] == 10.0
    settings = {**stage.settings, "l2_clip_norm": stage.l2_clip_norm}
    found = DPSGD(schedule="local").local_update(
        tables(), from_dense(np.zeros((0, 400))), settings=settings, noise=noise(2.0, steps=stage.release.steps)
    )
    assert_noise(found.numpy(), 2.0 * stage.settings["update_scale"] * stage.l2_clip_norm)


def test_without_noise_a_step_is_gradient_descent_on_the_clipped_sum():
    matrix = (np.random.default_rng(1).random((6, 400)) < 0.1).astype(float)
    how = FoldIn(kind="ridge", unobserved_weight=0.3, regularization=1.0)
    vectors = tables()["vectors"].clone()
    for _ in range(3):
        batch = implicit_als_gradients(vectors, from_dense(matrix), how=how)
        vectors -= 0.5 * clipped_sum(batch, l2_clip_norm=2.0, mode="automatic") / 8.0
    torch.testing.assert_close(
        update(matrix, noise(0.0, steps=3)), vectors - tables()["vectors"], atol=1e-6, rtol=1e-4
    )


def test_the_same_streams_give_the_same_update_and_others_another():
    matrix = (np.random.default_rng(1).random((20, 400)) < 0.1).astype(float)
    one, same, other = (update(matrix, noise(1.0, sampling_probability=0.5, seed=seed)) for seed in (0, 0, 7))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_tables_that_came_in_are_left_as_they_were():
    mine = tables()
    DPSGD(schedule="local").local_update(mine, from_dense(np.ones((2, 400))), settings=SETTINGS, noise=noise(1.0))
    assert torch.equal(mine["vectors"], tables()["vectors"])


def test_the_server_adds_the_average_over_silos():
    trainer, facts = DPSGD(schedule="local"), facts_of(4, embedding_dim=2, silos=3)
    state = trainer.start(facts, np.random.default_rng(0))
    counts, *locals_ = trainer.plan(facts)
    state = trainer.step(state, counts, torch.ones(4, 1), noise_std=0.0, n_silos=3)
    assert locals_[0].name == LOCAL_STEPS
    after = trainer.step(state, locals_[0], torch.full((4, 2), 6.0), noise_std=1.0, n_silos=3)
    torch.testing.assert_close(after.vectors, state.vectors + 2.0)
    assert isinstance(after.popularity, NoisedPopularity)
