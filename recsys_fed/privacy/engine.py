"""Opacus' optimiser and hooks around clipped sums; Poisson samples of users and integer noise of our own.

What an Opacus user knows as `PrivacyEngine.make_private`, for tables whose gradients are rank one a user:

>>> table = torch.nn.Parameter(torch.zeros(50, 8))
>>> samples = PoissonSamples(n_users=1_000, sampling_probability=0.1, steps=3, source=SystemNoise())
>>> optimizer = make_private(
...     torch.optim.SGD([table], lr=0.5), samples=samples, noise_multiplier=1.0, max_grad_norm=1.0
... )
>>> for users in samples:
...     optimizer.step_with(torch.zeros(50, 8, dtype=torch.float64))  # the clipped sum over `users`
>>> bool(table.abs().sum() > 0)
True
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from opacus.optimizers import DPOptimizer

from recsys_fed import checks
from recsys_fed.privacy.grid import grid_step
from recsys_fed.privacy.integer_mechanism import IntegerMechanism, noised
from recsys_fed.privacy.noise import NoiseSource, SystemNoise


class RankOneOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' DPOptimizer whose clipped sum comes from outside and whose noise is integer.

    Scaling by the expected batch size, step hooks (accountants), and noise and clip schedulers are Opacus' own. What
    is replaced is clip_and_accumulate, because per-sample gradients [n_users, n_items, dim] are never formed, and
    add_noise, because floating-point noise leaks (see `integer_mechanism`).

    Guarantees:
        - Unit: one user; neighbouring relation: add or remove one user. With sums whose joint sensitivity is
          max_grad_norm, every step is (epsilon, delta + ROUNDING_SLACK)-differentially private where the Gaussian
          mechanism with `noise_multiplier` is (epsilon, delta).
        - An empty batch is a sum of zeros and gets the same noise.
        - Noise comes from `noise`, by default from the operating system.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        noise_multiplier: float,
        max_grad_norm: float,
        expected_batch_size: float,
        noise: NoiseSource | None = None,
    ) -> None:
        # Opacus' annotation asks for an int; the public expectation p * declared users need not be one.
        super().__init__(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            expected_batch_size=expected_batch_size,
        )
        self._noise = noise or SystemNoise()
        self._sums: Sequence[torch.Tensor] = ()

    @property
    def grad_samples(self) -> Sequence[torch.Tensor]:
        """The clipped sums: what Opacus asks to see before it steps."""
        return self._sums

    @property
    def accumulated_iterations(self) -> int:
        """One batch a step."""
        return 1

    def clip_and_accumulate(self) -> None:
        """Take the clipped sums over as they are."""
        for parameter, total in zip(self.params, self._sums, strict=True):
            parameter.summed_grad = total

    def add_noise(self) -> None:
        """Round the sums to a grid, add integer noise, and give the optimiser what the integers stand for."""
        entries = sum(parameter.numel() for parameter in self.params)
        step = grid_step(
            noise_multiplier=self.noise_multiplier,
            l2_clip_norm=self.max_grad_norm,
            declared_users=math.ceil(self.expected_batch_size),
            entries=entries,
        )
        mechanism = IntegerMechanism(
            noise_multiplier=self.noise_multiplier, l2_clip_norm=self.max_grad_norm, grid_step=step, entries=entries
        )
        for parameter in self.params:
            integers = noised(parameter.summed_grad.double().cpu().numpy(), mechanism=mechanism, noise=self._noise)
            parameter.grad = (torch.from_numpy(integers) * step).to(parameter)

    def step_with(self, *sums: torch.Tensor) -> None:
        """One noised step on clipped sums, one a parameter."""
        self._sums = sums
        self.step()
        self._sums = ()
        for parameter in self.params:
            parameter.summed_grad = None


@dataclass(frozen=True, kw_only=True)
class PoissonSamples:
    """Poisson samples of users, bool [n_users], one a step: the loader of a private training.

    Attributes:
        n_users: of the silo.
        sampling_probability: of each user at each step, independently.
        steps: how many samples.
        source: of their own: not that of the noise.
    """

    n_users: int
    sampling_probability: float
    steps: int
    source: NoiseSource

    def __post_init__(self) -> None:
        checks.at_least(0, n_users=self.n_users)
        checks.at_least(1, steps=self.steps)
        checks.probability(sampling_probability=self.sampling_probability)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[torch.Tensor]:
        for _ in range(self.steps):
            yield poisson_sample(self.n_users, self.sampling_probability, self.source)


def make_private(
    optimizer: torch.optim.Optimizer,
    *,
    samples: PoissonSamples,
    noise_multiplier: float,
    max_grad_norm: float,
    expected_batch_size: float = 0.0,
    noise: NoiseSource | None = None,
) -> RankOneOptimizer:
    """Make SGD, Adam or any optimiser over item tables private at the level of users.

    Args:
        optimizer: over the tables.
        samples: the users of every step.
        noise_multiplier: standard deviation of the noise over max_grad_norm.
        max_grad_norm: sensitivity of the sums that `step_with` will get, one user added or removed.
        expected_batch_size: divisor of the sums, a public number; 0 takes sampling_probability * n_users, which is
            public only where the number of users is.
        noise: source of the noise; the operating system's generator unless said otherwise.

    Guarantees: those of `RankOneOptimizer`, step by step; sampling amplifies them as Opacus' accountants compute from
    (noise_multiplier, sampling_probability, steps).
    """
    checks.positive(max_grad_norm=max_grad_norm)
    return RankOneOptimizer(
        optimizer,
        noise_multiplier=noise_multiplier,
        max_grad_norm=max_grad_norm,
        expected_batch_size=expected_batch_size or max(samples.sampling_probability * samples.n_users, 1.0),
        noise=noise,
    )


def poisson_sample(n_users: int, sampling_probability: float, source: NoiseSource) -> torch.Tensor:
    """Each user independently with the same probability: bool [n_users], perhaps nobody.

    Guarantees: the probability is rounded down to a multiple of 2^-64, so that nobody is taken more often than an
    event of `sampling_probability` says; 1 takes everybody.
    """
    return torch.from_numpy(source.events(n_users, probability=sampling_probability))
