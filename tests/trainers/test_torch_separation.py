"""What a user changes is that user's own clipped term: every module, over rounds; what breaks that is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from plain_trainers import facts_of, from_dense
from plain_trainers import one_thread as _one_thread  # noqa: F401
from test_torch_sums import HOW, N_ITEMS, sum_of, table_of
from torch import nn

from recsys_fed import TorchTrainer
from recsys_fed.errors import ConfigurationError
from recsys_fed.models.torch_modules import MODULES, pool
from recsys_fed.privacy.integer_mechanism import IntegerMechanism
from recsys_fed.privacy.noise import SeededNoise
from recsys_fed.testing import check_trainer
from recsys_fed.trainers.dp_sgd import GRADIENT, LOCAL_STEPS
from recsys_fed.trainers.trainer import LocalNoise

SLACK = 2.0**-10
histories = st.builds(
    lambda seed, n_users, density: (np.random.default_rng(seed).random((n_users, N_ITEMS)) < density).astype(float),
    st.integers(0, 2**32),
    st.integers(1, 6),
    st.sampled_from([0.08, 0.4, 1.0]),
)
scales = st.sampled_from([0.0, 1e-30, 1e-6, 1.0, 1e4, 1e38, float("inf"), float("nan")])


@pytest.mark.parametrize("name", MODULES)
@settings(max_examples=25, deadline=None)
@given(matrix=histories, seed=st.integers(0, 2**32), scale=scales, some=st.booleans())
def test_one_user_more_changes_the_sum_by_at_most_the_clip_norm(name, matrix, seed, scale, some):
    """Also under tables of a hostile server; silos refuse tables that are not finite before any trainer sees them."""
    assume(name != "mf" or np.isfinite(scale))
    trainer, table = TorchTrainer(module=name), table_of(name, seed)
    table[: 2 if some else None] *= scale
    place = seed % len(matrix)
    whole, without = sum_of(trainer, table, matrix), sum_of(trainer, table, np.delete(matrix, place, axis=0))
    assert whole.isfinite().all()
    assert (whole - without).norm() <= 1 + SLACK


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"mf"}))
def test_no_other_users_term_moves_over_several_rounds(name):
    """Given the same releases: the difference of two neighbours' sums is the one user's term, round after round."""
    rng, trainer = np.random.default_rng(1), TorchTrainer(module=name)
    matrix = (rng.random((12, N_ITEMS)) < 0.5).astype(float)
    for round in range(4):
        table = table_of(name, round)
        tables = {"head": torch.arange(N_ITEMS), "vectors": table}
        how = HOW | {"negatives_key": float(round)}

        def sums(rows, tables=tables, how=how):
            return trainer.contribution(GRADIENT, tables, from_dense(rows), settings=how)

        term = sums(matrix[:1])
        assert term.norm() <= 1 + SLACK
        assert (sums(matrix) - sums(matrix[1:]) - term).norm() <= 1e-7


def test_private_parts_stay_at_their_public_start():
    """Twice the same round, with other users in between, is the same sum: nothing of the silo is kept."""
    for name in MODULES:
        trainer, table = TorchTrainer(module=name), table_of(name, 0)
        first = sum_of(trainer, table, np.eye(4, N_ITEMS) + np.eye(4, N_ITEMS, 1))
        sum_of(trainer, table, np.ones((7, N_ITEMS)))
        again = sum_of(TorchTrainer(module=name), table, np.eye(4, N_ITEMS) + np.eye(4, N_ITEMS, 1))
        assert torch.equal(first, again)
        assert name == "two-tower" or first.norm() > 0.5


@pytest.mark.parametrize("name", ["mf", "attention"])
def test_local_steps_add_noise_to_every_row_and_repeat(name):
    trainer = TorchTrainer(module=name, schedule="local", local_steps=3)
    table, matrix = table_of(name, 2), np.ones((5, N_ITEMS))
    matrix[:, ::2] = 0
    settings = HOW | {"expected_batch_size": 5.0}

    def update(n_users, noise_multiplier):
        mechanism = IntegerMechanism(
            noise_multiplier=noise_multiplier, l2_clip_norm=1.0, grid_step=2.0**-12, entries=table.numel()
        )
        noise = LocalNoise(
            mechanism=mechanism, sampling_probability=1.0, steps=3, source=SeededNoise(1), sampling=SeededNoise(2)
        )
        tables = {"head": torch.arange(N_ITEMS), "vectors": table}
        return trainer.local_update(tables, from_dense(matrix[:n_users]), settings=settings, noise=noise)

    assert torch.equal(update(5, 1.0), update(5, 1.0))
    assert (update(0, 1.0) != 0).float().mean() > 0.9
    moved = update(5, 0.0).double() * 2.0**-12
    # Three steps of five users, each of length 1 at most.
    assert 1.0 < moved.norm() <= 3 * 5 * (1 + SLACK) + 1e-2
    assert trainer.plan(facts_of(30, rounds=3))[1].name == LOCAL_STEPS


class Plain(nn.Module):
    """A product of pooled rows, and what subclasses do with the scores."""

    def __init__(self, n_items, dim):
        super().__init__()
        self.items, self.n_items = nn.Embedding(n_items + 1, dim), n_items

    def forward(self, history, items):
        users = pool(self.items(history), history, self.n_items)
        return self.twist(users, (users[:, None] * self.items(items)).sum(-1), items)

    def twist(self, users, scores, items):
        return scores


class InBatchNegatives(Plain):
    """Every other user's items are noes, as two-tower models are trained at scale."""

    # A softmax would not notice what all scores of a user have in common.
    loss = "bce"

    def twist(self, users, scores, items):
        others = users @ self.items(items).mean(1).T
        return scores - others.logsumexp(1, keepdim=True)


class MeanOfBatch(Plain):
    """Scores are centred over the batch."""

    def twist(self, users, scores, items):
        return (1 + scores.tanh().mean()) * scores


class BatchNorm(Plain):
    """A layer of batch statistics."""

    def __init__(self, n_items, dim):
        super().__init__(n_items, dim)
        self.norm = nn.BatchNorm1d(dim)


class Remembers(Plain):
    """Scores follow from how often the module was called: a stand-in for anything that is kept of users."""

    def twist(self, users, scores, items):
        self.calls = getattr(self, "calls", 0) + 1
        return scores * (1 + self.calls)


class DrawsAtRandom(Plain):
    """Dropout that does not ask whether it is training."""

    def twist(self, users, scores, items):
        return nn.functional.dropout(scores, 0.5, training=True)


class BesideTheHooks(Plain):
    """Uses the table where no hook sees it."""

    loss = "bce"

    def twist(self, users, scores, items):
        return scores + self.items.weight[:3].sum()


class WrongShape(Plain):
    """One score a user."""

    def twist(self, users, scores, items):
        return scores.sum(1)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (InBatchNegatives, "Users meet"),
        (MeanOfBatch, "Users meet"),
        (BatchNorm, "statistics are those of the batch"),
        (Remembers, "keeps something|Users meet"),
        (DrawsAtRandom, "draws at random|Users meet"),
        (BesideTheHooks, "hooks see a part only"),
        (WrongShape, "shape of items"),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_modules_whose_users_meet_are_refused_before_a_plan(module, reason):
    with pytest.raises(ConfigurationError, match=reason):
        TorchTrainer(module=module).plan(facts_of(50))


def test_the_plain_module_is_not_refused_and_keeps_what_trainers_promise():
    facts = facts_of(50)
    assert len(TorchTrainer(module=Plain).plan(facts)) == 41
    assert TorchTrainer(module=Plain).layout(facts, TorchTrainer(module=Plain).plan(facts)[1]).shape[1] == 16


def meets(scores, asked):
    return scores.sum(1) + 0.1 * scores.sum()


def test_a_loss_in_which_users_meet_is_refused():
    with pytest.raises(ConfigurationError, match="Users meet"):
        TorchTrainer(module="attention", loss=meets).plan(facts_of(50))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"module": "nothing"}, "known here"),
        ({"item_table": "weights"}, "parameter of the module"),
        ({"module": "attention", "item_table": "mix.weight"}, "row for each"),
        ({"module": lambda n_items, dim: None}, "name of its own"),
    ],
)
def test_what_is_no_module_is_explained(settings, reason):
    with pytest.raises(ConfigurationError, match=reason):
        TorchTrainer(**settings).plan(facts_of(50))


class Short(TorchTrainer):
    """Few rounds, for the suite that tries every stage under hostile tables."""

    def plan(self, facts):
        return super().plan(replace(facts, rounds=2))


def test_the_suite_for_trainers_passes():
    check_trainer(Short(module="autoencoder"), n_items=20)
