"""The clipped sums of modules equal a loop over users with autograd, Opacus' own samples, and the rank-one form."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus import GradSampleModule
from plain_trainers import from_dense
from plain_trainers import one_thread as _one_thread  # noqa: F401
from torch import nn

from recsys_fed import DPSGD, TorchTrainer
from recsys_fed.models.torch_modules import MODULES, item_table_of, load_item_table, make_module
from recsys_fed.trainers.dp_sgd import GRADIENT
from recsys_fed.trainers.examples import make_examples
from recsys_fed.trainers.item_gradients import ItemGradients
from recsys_fed.trainers.losses import LOSSES, loss_of
from recsys_fed.trainers.torch_trainer import example_settings, user_losses

N_ITEMS, DIM, C = 14, 3, 1.0
HOW = {
    "unobserved_weight": 0.3,
    "regularization": 1.0,
    "learning_rate": 0.1,
    "l2_clip_norm": C,
    "negatives_key": 5.0,
    "embedding_dim": float(DIM),
}
few = settings(max_examples=15, deadline=None)
users = st.builds(
    lambda seed, n_users, density: (np.random.default_rng(seed).random((n_users, N_ITEMS)) < density).astype(float),
    st.integers(0, 2**32),
    st.integers(0, 6),
    st.sampled_from([0.1, 0.4, 1.0]),
)
seeds = st.integers(0, 2**32)


def table_of(module, seed):
    columns = item_table_of(make_module(module, N_ITEMS, DIM), "items.weight", n_items=N_ITEMS).shape[1]
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((N_ITEMS, columns))).float()


def sum_of(trainer, table, matrix):
    tables = {"head": torch.arange(N_ITEMS), "vectors": table}
    return trainer.contribution(GRADIENT, tables, from_dense(matrix), settings=HOW)


def loop_sum(name, loss, table, matrix, *, bound):
    """Every user alone, by autograd in float64."""
    total = torch.zeros(table.shape, dtype=torch.float64)
    how = example_settings(name, loss, n_negatives=64, columns=table.shape[1])
    for row in matrix:
        for example in make_examples(from_dense(row[None]), how, key=5):
            module = make_module(name, N_ITEMS, DIM).double()
            weight = item_table_of(module, "items.weight", n_items=N_ITEMS)
            load_item_table(weight, table.double())
            losses = user_losses(loss, 0.3)(module, example)
            assert losses.shape == (1,)
            (gradient,) = torch.autograd.grad(losses[0], weight)
            gradient, norm = gradient[:N_ITEMS], float(gradient[:N_ITEMS].norm())
            if norm > 0:
                total += gradient * (bound / norm)
    return total


@pytest.mark.parametrize("name", MODULES)
@few
@given(matrix=users, seed=seeds)
def test_the_clipped_sum_is_a_loop_over_users_with_autograd(name, matrix, seed):
    trainer, table = TorchTrainer(module=name), table_of(name, seed)
    expected = loop_sum(name, trainer._loss, table, matrix, bound=C)
    assert (sum_of(trainer, table, matrix) - expected).norm() <= 2e-5 * (1 + len(matrix))


@pytest.mark.parametrize("loss", LOSSES)
@few
@given(matrix=users, seed=seeds)
def test_matrix_factorisation_is_found_and_equals_the_rank_one_form(loss, matrix, seed):
    """The general way, by hooks in float64, against the closed form: to the rounding of float32."""
    trainer, table = TorchTrainer(module="mf", loss=loss), table_of("mf", seed)
    assert trainer._rank_one is not None
    expected = loop_sum("mf", loss_of(loss), table, matrix, bound=C)
    assert (sum_of(trainer, table, matrix) - expected).norm() <= 1e-4 * (1 + len(matrix))


@few
@given(matrix=users, seed=seeds)
def test_without_a_bias_matrix_factorisation_is_dp_sgd(matrix, seed):
    table = table_of("mf", seed)
    table[:, -1] = 0.0
    mf, plain = sum_of(TorchTrainer(), table, matrix), sum_of(DPSGD(), table[:, :-1].contiguous(), matrix)
    # The bias takes a part of every user's norm and turns nothing: rows stay parallel.
    cosine = torch.nn.functional.cosine_similarity(mf[:, :-1], plain, dim=1)
    assert mf[:, :-1].norm() <= plain.norm() + 1e-6
    if len(matrix) == 1:
        assert (cosine[plain.norm(dim=1) > 1e-6] > 1 - 1e-4).all()


@pytest.mark.parametrize("name", MODULES)
def test_norms_and_sums_equal_those_of_opacus_own_samples(name):
    rng = np.random.default_rng(3)
    matrix, table = (rng.random((9, N_ITEMS)) < 0.6).astype(float), table_of(name, 3)
    loss = loss_of("bce")
    how, losses = example_settings(name, loss, n_negatives=6, columns=table.shape[1]), user_losses(loss, 0.3)
    ours = ItemGradients(make_module(name, N_ITEMS, DIM), item_table="items.weight", n_items=N_ITEMS)
    ours.load(table)
    seen = 0
    for examples in make_examples(from_dense(matrix), how, key=1):
        found = ours.of(examples, losses)
        module = make_module(name, N_ITEMS, DIM).double().requires_grad_(False)
        weight = item_table_of(module, "items.weight", n_items=N_ITEMS).requires_grad_(True)
        load_item_table(weight, table.double())
        hooked = GradSampleModule(module, loss_reduction="sum")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
            losses(hooked, examples).sum().backward()
        samples = weight.grad_sample[:, :N_ITEMS]
        torch.testing.assert_close(found.norms, samples.flatten(1).norm(dim=1))
        total = torch.zeros(table.shape, dtype=torch.float64)
        factors = 1 / (1 + found.norms)
        found.add(total, factors)
        assert (total - torch.einsum("u,uij->ij", factors, samples)).norm() <= 1e-6 * len(samples)
        seen += len(samples)
    assert seen >= 5


class LinearOutput(nn.Module):
    """The table is the weight of a linear layer that scores the whole catalogue."""

    def __init__(self, n_items, dim):
        super().__init__()
        self.first, self.items = nn.Embedding(n_items + 1, dim), nn.Linear(dim, n_items + 1, bias=False)

    def forward(self, history, items):
        return self.items(self.first(history).mean(1)).gather(1, items)


class OwnLayer(nn.Module):
    """A layer that Opacus has no sampler for: functorch takes it."""

    def __init__(self, n_items, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_items, dim))

    def forward(self, users):
        return torch.tanh(users) @ self.weight.T


class Functorch(nn.Module):
    """Scores by such a layer."""

    def __init__(self, n_items, dim):
        super().__init__()
        self.first, self.items = nn.Embedding(n_items + 1, dim), OwnLayer(n_items, dim)

    def forward(self, history, items):
        return nn.functional.pad(self.items(self.first(history).mean(1)), (0, 1)).gather(1, items)


@pytest.mark.parametrize("module", [LinearOutput, Functorch])
@settings(max_examples=8, deadline=None)
@given(matrix=users, seed=seeds)
def test_other_layers_than_embeddings_hold_the_table(module, matrix, seed):
    trainer = TorchTrainer(module=module, loss="bce")
    table = table_of(module.__name__, seed)
    expected = loop_sum(module.__name__, loss_of("bce"), table, matrix, bound=C)
    assert (sum_of(trainer, table, matrix) - expected).norm() <= 2e-5 * (1 + len(matrix))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("name", MODULES)
def test_a_gpu_gives_the_sums_of_the_processor(name):
    rng, trainer = np.random.default_rng(0), TorchTrainer(module=name)
    histories = from_dense((rng.random((40, N_ITEMS)) < 0.4).astype(float))
    tables = {"head": torch.arange(N_ITEMS), "vectors": table_of(name, 0)}
    there = {key: table.cuda() for key, table in tables.items()}
    on_cpu = trainer.contribution(GRADIENT, tables, histories, settings=HOW)
    on_gpu = trainer.contribution(GRADIENT, there, histories.to("cuda"), settings=HOW)
    assert (on_gpu.cpu() - on_cpu).norm() <= 1e-4 * on_cpu.norm()
