"""dp-sgd, synchronous: its plan, and that without noise the loss falls."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from plain_trainers import CLIP, facts_of, from_dense, run
from plain_trainers import one_thread as _one_thread  # noqa: F401

from recsys_fed import TorchTrainer
from recsys_fed.errors import ConfigurationError
from recsys_fed.models.items import fold_in
from recsys_fed.trainers import popularity
from recsys_fed.trainers.dp_sgd import DPSGD, GRADIENT
from recsys_fed.trainers.popularity import BUDGET_SHARE
from recsys_fed.trainers.trainer import EarlierTraining

HOW = {"unobserved_weight": 0.3, "regularization": 1.0}


def data(n_users=80, n_items=30, seed=0):
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 3, n_users)[:, None] == np.arange(n_items) % 3
    return ((rng.random((n_users, n_items)) < 0.6) & group).astype(float)


def loss(model, matrix):
    """sum over users of min_u L_u(V), the user's own regularization included."""
    users = fold_in(model.vectors, from_dense(matrix), model.history_weights, how=model.fold_in)
    score, history = users @ model.vectors.T, torch.from_numpy(matrix).float()
    observed = (history * (1 - score).square()).sum()
    return float(observed + 0.3 * score.square().sum() + users.square().sum())


def test_without_noise_the_loss_falls():
    matrix, trainer = data(), DPSGD()
    states = run(trainer, facts_of(30, embedding_dim=6), [matrix[:30], matrix[30:]])
    losses = [loss(trainer.item_embeddings(state), matrix) for state in states[1:]]
    assert len(losses) == 41
    assert losses[-1] < 0.5 * losses[0]
    falls = np.diff(losses) < 0
    assert falls[:5].all()
    assert falls.mean() > 0.75


def test_the_contribution_points_downhill():
    matrix, trainer = data(), DPSGD()
    vectors = torch.randn(30, 4, generator=torch.Generator().manual_seed(1)) * 0.3
    tables = {"head": torch.arange(30), "vectors": vectors}
    gradient = trainer.contribution(GRADIENT, tables, from_dense(matrix[:1]), settings=HOW | CLIP).float()
    assert float(gradient.norm()) == pytest.approx(1, rel=1e-4)

    def own_loss(table):
        users = fold_in(table, from_dense(matrix[:1]), torch.ones(30), how=trainer._fold_in)
        score, history = users @ table.T, torch.from_numpy(matrix[:1]).float()
        return float((history * (1 - score).square()).sum() + 0.3 * score.square().sum() + users.square().sum())

    assert own_loss(vectors - 0.01 * gradient) < own_loss(vectors) < own_loss(vectors + 0.01 * gradient)


def test_items_outside_the_head_play_no_part():
    matrix, trainer = data(n_items=6), DPSGD()
    tables = {
        "head": torch.tensor([0, 2, 5]),
        "vectors": torch.randn(3, 2, generator=torch.Generator().manual_seed(0)),
    }
    found = trainer.contribution(GRADIENT, tables, from_dense(matrix), settings=HOW | CLIP)
    matrix[:, [1, 3, 4]] = 1 - matrix[:, [1, 3, 4]]
    again = trainer.contribution(GRADIENT, tables, from_dense(matrix), settings=HOW | CLIP)
    assert torch.equal(found, again)
    outside = trainer.contribution(GRADIENT, tables, from_dense(np.eye(6)[[1, 3]]), settings=HOW | CLIP)
    assert not outside.any()


def test_steps_have_the_length_of_the_rate_and_shrink_linearly():
    trainer = DPSGD(learning_rate=0.2, momentum=0.0)
    states = run(trainer, facts_of(30, embedding_dim=4, rounds=5), [data()])
    lengths = [
        float((after.vectors - before.vectors).square().mean().sqrt()) for before, after in pairwise(states[1:])
    ]
    np.testing.assert_allclose(lengths, [0.2, 0.15, 0.1, 0.05], rtol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"schedule": "local"}, {"schedule": "local", "local_steps": 3}])
@pytest.mark.parametrize("rounds", [0, 2, 9])
def test_the_shares_of_the_plan_add_up_to_the_budget(settings, rounds):
    trainer = DPSGD(**settings)
    stages = trainer.plan(facts_of(50, rounds=rounds))
    shares = [stage.release.steps / stage.release.relative_noise**2 for stage in stages]
    assert sum(shares) == pytest.approx(1)
    assert shares[0] == pytest.approx(BUDGET_SHARE)
    assert len(set(shares[1:])) == 1
    local = "schedule" in settings
    assert len(stages) == (rounds or (5 if local else 41))
    assert [stage.noise_inside for stage in stages[1:]] == [local] * (len(stages) - 1)


def test_sampled_steps_are_planned_as_sampled():
    release = DPSGD(sampling_probability=0.1).plan(facts_of(50))[1].release
    full = DPSGD().plan(facts_of(50))[1].release
    assert release.sampling_probability == 0.1
    # Sampled noise counts q^2 / sigma^2: at a tenth of the users the base noise goes ten times as far.
    assert release.relative_noise == pytest.approx(full.relative_noise * 0.1)


def test_one_round_leaves_nothing_after_the_counts():
    with pytest.raises(ConfigurationError, match="rounds_after_the_counts"):
        DPSGD().plan(facts_of(10, rounds=1))


def test_a_gradient_before_the_counts_is_refused():
    trainer, facts = DPSGD(), facts_of(6, embedding_dim=2)
    stages, state = trainer.plan(facts), trainer.start(facts, np.random.default_rng(0))
    assert trainer.tables(state, stages[1]) == {}
    with pytest.raises(ConfigurationError, match="counts are not there"):
        trainer.step(state, stages[1], torch.zeros(6, 2), noise_std=0.0, n_silos=1)
    assert not trainer.item_embeddings(state).vectors.any()
    assert trainer.layout(facts, popularity.counts_stage()).shape == (6, 1)


@pytest.mark.parametrize("noise_multiplier", [0.0, 50.0])
@pytest.mark.parametrize("schedule", ["synchronous", "local"])
@pytest.mark.parametrize(
    "facts",
    [facts_of(1), facts_of(3, embedding_dim=50), facts_of(4, declared_users=1, noise_level=9.0)],
    ids=["one item", "more dimensions than items", "one user"],
)
def test_every_edge_trains(facts, schedule, noise_multiplier):
    matrix, trainer = np.eye(facts.n_items)[np.arange(5) % facts.n_items], DPSGD(schedule=schedule)
    states = run(trainer, facts, [matrix, matrix[:0]], noise_multiplier=noise_multiplier)
    assert trainer.item_embeddings(states[-1]).vectors.isfinite().all()


@pytest.mark.parametrize(
    "trainer", [DPSGD(), TorchTrainer(module="mf"), TorchTrainer(module="neumf")], ids=["dp-sgd", "mf", "neumf"]
)
def test_a_training_starts_from_the_table_of_the_one_before(trainer):
    facts, matrix = facts_of(30, embedding_dim=4, rounds=3), data()
    before = trainer.item_embeddings(run(trainer, facts, [matrix])[-1])
    earlier = (EarlierTraining(releases=(), vectors=before.vectors),)
    state = run(trainer, replace(facts, earlier_trainings=1, earlier=earlier), [matrix])[1]
    known = before.vectors[state.popularity.head]
    assert known.shape[1] > 1
    # The first column is popularity, of today's counts.
    torch.testing.assert_close(state.vectors[:, 1 : known.shape[1]], known[:, 1:])
    cold = run(trainer, facts, [matrix])[1]
    assert not torch.allclose(cold.vectors[:, 1:], state.vectors[:, 1:])
