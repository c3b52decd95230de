"""dp-sgd on ratings: a user's gradient is Opacus', sums are bounded whatever the ratings, tastes are found."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus import GradSampleModule
from plain_trainers import facts_of
from plain_trainers import one_thread as _one_thread  # noqa: F401
from rated_users import FIVE_STARS, drawn, error, fitted, own, plain_vector, rated, user_mean_error, world

from recsys_fed.config import FederationConfig
from recsys_fed.errors import ConfigurationError
from recsys_fed.testing import check_trainer
from recsys_fed.trainers.dp_sgd import DPSGD, GRADIENT, Step
from recsys_fed.trainers.dp_sgd import _take_step as take_step
from recsys_fed.trainers.rated_dp_sgd import RatedDPSGD
from recsys_fed.trainers.ratings import LEVEL, MEANS
from recsys_fed.trainers.registry import configured_trainer
from recsys_fed.trainers.trainer import EarlierTraining

HOW = {**FIVE_STARS, "unobserved_weight": 0.3}


class _BiasedFactors(torch.nn.Module):
    """b_i + b_u + v_i u for items [n_users, length], with users' parts held constant."""

    def __init__(self, table):
        super().__init__()
        self.items = torch.nn.Embedding.from_pretrained(table[:, :-1].clone(), freeze=False)
        self.bias = torch.nn.Embedding.from_pretrained(table[:, -1:].clone(), freeze=False)

    def forward(self, items, users, levels):
        return self.bias(items)[..., 0] + levels[:, None] + (self.items(items) * users[:, None, :]).sum(-1)


def user_parts(row, table):
    """b_u and u of a user's row, by the equations themselves, from the ratings that are in the table."""
    items, x = own(row)
    z = np.column_stack([np.full(len(items), LEVEL**0.5), table[items, :-1]])
    solved = plain_vector(z, x - table[items, -1], FIVE_STARS["regularization"])
    return items, x, LEVEL**0.5 * solved[0], solved[1:]


def opacus_gradients(rows, table):
    """Per-sample gradients in the rows [v_i, b_i], one user a sample: float64 [n_users, n_items, dim + 1]."""
    items = np.zeros(rows.shape, dtype=np.int64)
    ratings, there, users, levels = np.zeros(rows.shape), np.zeros(rows.shape), [], []
    for number, row in enumerate(rows):
        mine, x, level, user = user_parts(row, table)
        items[number, : len(mine)], ratings[number, : len(mine)], there[number, : len(mine)] = mine, x, 1
        users.append(user)
        levels.append(level)
    module = GradSampleModule(_BiasedFactors(torch.from_numpy(table)), loss_reduction="sum")
    predicted = module(torch.from_numpy(items), torch.from_numpy(np.array(users)), torch.tensor(levels))
    (torch.from_numpy(there) * (predicted - torch.from_numpy(ratings)).square() / 2).sum().backward()
    found = [parameter.grad_sample for parameter in module.parameters()]
    return torch.cat(found, dim=2)


def plain_gradients(rows, table):
    """The same by a loop over ratings."""
    gradients = np.zeros((len(rows), *table.shape))
    for number, row in enumerate(rows):
        for item, x, level, user in ((i, x, *user_parts(row, table)[2:]) for i, x in zip(*own(row), strict=True)):
            residual = x - table[item, -1] - level - table[item, :-1] @ user
            gradients[number, item] = -residual * np.append(user, 1.0)
    return torch.from_numpy(gradients)


def contributed(rows, table, *, clip_norm, head=None):
    tables = {"head": torch.arange(len(table)) if head is None else head, "vectors": torch.from_numpy(table).float()}
    return RatedDPSGD().contribution(GRADIENT, tables, rated(rows), settings={**HOW, "l2_clip_norm": clip_norm})


@pytest.mark.filterwarnings("ignore:Full backward hook")
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 9_999), n_users=st.integers(1, 5), dim=st.integers(1, 4))
def test_a_users_gradient_is_that_of_opacus_and_of_the_plain_loop(seed, n_users, dim):
    rng = np.random.default_rng(seed)
    table = (rng.standard_normal((8, dim + 1)) * 0.4).astype(np.float32).astype(np.float64)
    rows = drawn(rng, n_users, 8)
    expected = plain_gradients(rows, table)
    torch.testing.assert_close(opacus_gradients(rows, table), expected, rtol=1e-9, atol=1e-9)
    norms = expected.flatten(1).norm(dim=1)
    # Automatic clipping gives each gradient the same norm: what is left of it is its direction.
    directions = torch.where(norms > 0, 1 / norms, 0.0)[:, None, None] * expected
    for number in range(n_users):
        found = contributed(rows[number : number + 1], table, clip_norm=0.7)
        torch.testing.assert_close(found, 0.7 * directions[number], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(contributed(rows, table, clip_norm=0.7), 0.7 * directions.sum(0), rtol=1e-6, atol=1e-6)


def test_items_off_the_head_play_no_part_in_a_gradient():
    rng = np.random.default_rng(1)
    rows, table = drawn(rng, 6, 8), rng.standard_normal((3, 3)) * 0.3
    head = torch.tensor([1, 4, 6])
    whole = contributed(rows, table, clip_norm=1.0, head=head)
    torch.testing.assert_close(whole, contributed(rows[:, head.numpy()], table, clip_norm=1.0), rtol=1e-6, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 9_999), scale=st.sampled_from([0.0, 1e-30, 1.0, 1e30, np.inf, np.nan]))
def test_one_user_moves_a_sum_by_the_clip_norm_at_most_whatever_ratings_and_tables_hold(seed, scale):
    rng = np.random.default_rng(seed)
    rows = drawn(rng, 5, 7, values=(0, 0, -1, 1, 3, 5, 1e30, -1e30, 1e-30, np.inf, -np.inf))
    table = rng.standard_normal((7, 4))
    table[: int(rng.integers(1, 8))] *= scale
    whole = contributed(rows, table, clip_norm=1.0)
    assert bool(whole.isfinite().all())
    for number in range(len(rows)):
        without = contributed(np.delete(rows, number, axis=0), table, clip_norm=1.0)
        assert float((whole - without).norm()) <= 1 + 2**-10


@pytest.mark.soak
def test_it_conforms():
    class Short(RatedDPSGD):
        def plan(self, facts):
            return super().plan(facts)[:3]

    check_trainer(Short(lowest=0, highest=10, momentum=0.0), n_items=12)


def test_tastes_are_found_without_noise_and_noise_never_makes_it_worse_than_the_users_own_mean():
    train, test, _ = world()
    alone = user_mean_error(train, test)
    clean = fitted(RatedDPSGD(), rated(train), embedding_dim=2)
    # What levels and means alone leave.
    unmoved = fitted(RatedDPSGD(learning_rate=1e-9), rated(train), embedding_dim=2)
    assert error(clean, rated(train), test) < 0.9 * error(unmoved, rated(train), test)
    for noise in (5.0, 1e6):
        noisy = fitted(RatedDPSGD(), rated(train), noise=noise, embedding_dim=2, declared_users=400)
        assert error(noisy, rated(train), test) < 1.02 * alone


def test_steps_are_the_shorter_the_less_of_their_direction_is_signal():
    step = Step(rate=1.0, momentum=0.9, done=3, rounds=40, noise_std=2.0)
    rng, kept = np.random.default_rng(0), np.zeros(200_000)
    for _ in range(4):
        kept = 0.9 * kept + 0.1 * 2.0 * rng.standard_normal(len(kept))
    np.testing.assert_allclose(step.noise_in_direction, kept.std(), rtol=0.02)
    start, total = torch.zeros(4, 2), torch.full((4, 2), 3.0)
    whole, half, still = (
        take_step(start, start, total, step=replace(step, done=0, noise_std=noise))[0]
        for noise in (0.0, 3 * 0.75**0.5, 3.1)
    )
    torch.testing.assert_close(half, whole / 2)
    assert bool(whole.all())
    assert not still.any()


def test_a_later_training_starts_from_the_factors_of_the_last():
    train, _, _ = world()
    model = fitted(RatedDPSGD(), rated(train), embedding_dim=2)
    earlier = (EarlierTraining(releases=(), vectors=model.vectors),)
    facts = facts_of(80, embedding_dim=2, earlier=earlier, earlier_trainings=1)
    trainer = RatedDPSGD()
    state, stage = trainer.start(facts, np.random.default_rng(1)), trainer.plan(facts)[0]
    total = trainer.contribution(stage.name, {}, rated(train), settings={**stage.settings, "l2_clip_norm": 1.0})
    state = trainer.step(state, stage, total, noise_std=0.0, n_silos=1)
    torch.testing.assert_close(trainer.item_embeddings(state).vectors, model.vectors)


def test_the_target_decides_which_of_the_two_the_name_stands_for():
    rating = FederationConfig(trainer="dp-sgd", target="rating", dp_sgd={"highest": 10})
    assert configured_trainer(rating) == RatedDPSGD(highest=10)
    assert configured_trainer(FederationConfig(trainer="dp-sgd")) == DPSGD()
    assert RatedDPSGD()._first_stage().name == MEANS
    for wrong in ({"loss": "bpr"}, {"clipping": "adaptive"}, {"lowest": 5.0, "highest": 1.0}):
        with pytest.raises(ConfigurationError):
            configured_trainer(FederationConfig(trainer="dp-sgd", target="rating", dp_sgd=wrong))
