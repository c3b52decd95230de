"""Opacus' optimiser around clipped sums: its step, its noise, its hooks; and Poisson samples of users."""

import numpy as np
import pytest
import torch
from opacus.accountants import PRVAccountant
from opacus.schedulers import ExponentialNoise
from scipy import stats

from recsys_fed.privacy.accounting import epsilon_prv
from recsys_fed.privacy.engine import PoissonSamples, RankOneOptimizer, make_private, poisson_sample
from recsys_fed.privacy.events import PrivacyEvent
from recsys_fed.privacy.noise import SeededNoise, SystemNoise

SHAPE = (400, 5)


def optimizer_of(parameter, *, seed=0, learning_rate=1.0, momentum=0.0, **settings):
    return RankOneOptimizer(
        torch.optim.SGD([parameter], lr=learning_rate, momentum=momentum),
        **({"noise_multiplier": 0.0, "max_grad_norm": 1.0, "expected_batch_size": 1.0} | settings),
        noise=SeededNoise(seed),
    )


def test_without_noise_steps_are_plain_sgd_on_the_mean():
    start = torch.randn(3, 2, generator=torch.Generator().manual_seed(1))
    sums = [torch.randn(3, 2, generator=torch.Generator().manual_seed(seed)) for seed in (2, 3, 4)]
    ours, plain = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    private = optimizer_of(ours, learning_rate=0.3, momentum=0.9, expected_batch_size=12.5)
    sgd = torch.optim.SGD([plain], lr=0.3, momentum=0.9)
    for total in sums:
        private.step_with(total)
        plain.grad = total / 12.5
        sgd.step()
    # The sums are rounded to a grid of at least 2^11 steps a clip norm.
    torch.testing.assert_close(ours, plain, atol=1e-3, rtol=0)


def test_several_parameters_step_each_with_its_own_sum():
    table, bias = torch.nn.Parameter(torch.zeros(3, 2)), torch.nn.Parameter(torch.zeros(3))
    private = RankOneOptimizer(
        torch.optim.SGD([table, bias], lr=1.0), noise_multiplier=0.0, max_grad_norm=1.0, expected_batch_size=2.0
    )
    private.step_with(torch.full((3, 2), 4.0), torch.full((3,), 6.0))
    assert torch.equal(table, torch.full((3, 2), -2.0))
    assert torch.equal(bias, torch.full((3,), -3.0))


def moved(total, *, seed=0, **settings):
    parameter = torch.nn.Parameter(torch.zeros(SHAPE))
    optimizer_of(parameter, seed=seed, **settings).step_with(total)
    return parameter.detach().numpy()


@pytest.mark.parametrize("total", [0.0, 7.0], ids=["empty batch", "some users"])
def test_noise_has_the_scale_multiplier_times_clip_norm_over_expected_batch(total):
    settings = {"noise_multiplier": 1.7, "max_grad_norm": 0.5, "expected_batch_size": 4.0}
    noise = np.ravel(moved(torch.full(SHAPE, total), **settings) + total / 4.0)
    scale = 1.7 * 0.5 / 4.0
    assert stats.kstest(noise, stats.norm(scale=scale).cdf).pvalue > 1e-3
    for wrong in (2 / 3, 3 / 2):
        assert stats.kstest(noise, stats.norm(scale=scale * wrong).cdf).pvalue < 1e-9


def test_noise_is_fresh_at_every_step_and_repeats_with_its_generator():
    parameter = torch.nn.Parameter(torch.zeros(SHAPE))
    private = optimizer_of(parameter, seed=3, noise_multiplier=1.0)
    private.step_with(torch.zeros(SHAPE))
    first = parameter.detach().clone()
    private.step_with(torch.zeros(SHAPE))
    second = parameter.detach() - first
    assert abs(np.corrcoef(first.numpy().ravel(), second.numpy().ravel())[0, 1]) < 5 / first.numel() ** 0.5
    np.testing.assert_array_equal(moved(torch.zeros(SHAPE), seed=3, noise_multiplier=1.0), first.numpy())


def test_step_hooks_run_and_an_attached_accountant_agrees_with_ours():
    parameter = torch.nn.Parameter(torch.zeros(4, 2))
    private, accountant = optimizer_of(parameter, noise_multiplier=2.0), PRVAccountant()
    private.attach_step_hook(accountant.get_optimizer_hook_fn(sample_rate=0.25))
    for _ in range(6):
        private.step_with(torch.zeros(4, 2))
    assert accountant.history == [(2.0, 0.25, 6)]
    event = PrivacyEvent(noise_multiplier=2.0, sampling_probability=0.25, steps=6)
    ours = epsilon_prv([event], delta=1e-5, eps_error=0.01)
    assert accountant.get_epsilon(1e-5) == pytest.approx(ours, rel=0.01)


def test_the_wrong_number_of_sums_is_refused():
    with pytest.raises(ValueError, match="zip"):
        optimizer_of(torch.nn.Parameter(torch.zeros(2))).step_with(torch.zeros(2), torch.zeros(2))


def test_what_leaves_the_optimiser_are_whole_multiples_of_a_grid_step():
    moves = torch.from_numpy(moved(torch.rand(SHAPE), noise_multiplier=2.0))
    steps = moves.double() * 2**20
    assert torch.equal(steps, steps.round())
    assert len(moves.unique()) > 100


def test_noise_is_that_of_the_operating_system_unless_said_otherwise():
    private = RankOneOptimizer(
        torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=1.0),
        noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=1.0,
    )  # fmt: skip
    assert isinstance(private._noise, SystemNoise)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_make_private_works_with_opacus_schedulers_and_accountants(kind):
    table, accountant = torch.nn.Parameter(torch.zeros(SHAPE)), PRVAccountant()
    samples = PoissonSamples(n_users=300, sampling_probability=0.2, steps=5, source=SeededNoise(1))
    private = make_private(
        kind([table], lr=0.1), samples=samples, noise_multiplier=4.0, max_grad_norm=1.0, noise=SeededNoise(0)
    )
    private.attach_step_hook(accountant.get_optimizer_hook_fn(sample_rate=0.2))
    quieter = ExponentialNoise(private, gamma=0.5)
    sizes = []
    for users in samples:
        sizes.append(int(users.sum()))
        private.step_with(torch.zeros(SHAPE))
        quieter.step()
    assert len(samples) == len(sizes) == 5
    assert len(set(sizes)) > 1
    assert all(30 < size < 90 for size in sizes)
    assert [noise for noise, _, _ in accountant.history] == [4.0, 2.0, 1.0, 0.5, 0.25]
    assert private.expected_batch_size == pytest.approx(60)
    assert table.detach().std() > 0


@pytest.mark.parametrize("probability", [0.01, 0.3, 0.9])
def test_each_user_is_in_the_sample_with_the_probability_asked_for(probability):
    source, n_users, draws = SeededNoise(5), 500, 60
    samples = torch.stack([poisson_sample(n_users, probability, source) for _ in range(draws)])
    assert samples.shape == (draws, n_users)
    # All n_users * draws inclusions together, then the sizes: of independent users they are binomial.
    assert stats.binomtest(int(samples.sum()), n_users * draws, probability).pvalue > 1e-4
    spread = samples.sum(1).double().var() / (n_users * probability * (1 - probability))
    assert 0.4 < float(spread) < 2.0
    per_user = samples.sum(0).numpy()
    expected = stats.binom(draws, probability)
    assert abs(per_user.mean() - expected.mean()) < 5 * expected.std() / n_users**0.5
    assert per_user.var() == pytest.approx(expected.var(), rel=0.35)


def test_samples_follow_the_key():
    one, same, other = (poisson_sample(200, 0.5, SeededNoise(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_nobody_and_everybody():
    source = SeededNoise(0)
    nobody = poisson_sample(0, 0.5, source)
    assert (nobody.shape, nobody.dtype) == ((0,), torch.bool)
    assert poisson_sample(1_000, 1.0, source).all()
    assert not poisson_sample(3, 1e-12, source).any()
