"""Opacus' optimiser around sums that are already clipped, and Opacus' Poisson sampling of users."""

from collections.abc import Sequence

import torch
from opacus.optimizers import DPOptimizer
from opacus.utils.uniform_sampler import UniformWithReplacementSampler


class RankOneOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' DPOptimizer whose clipped sum comes from outside instead of from per-sample gradients.

    Noise, scaling by the expected batch size, step hooks (accountants) and schedulers are Opacus' own. What
    is replaced is clip_and_accumulate: per-sample gradients [n_users, n_items, dim] are never formed.

    Guarantees: with a sum of sensitivity max_grad_norm (one user added or removed), every step is the Gaussian
    mechanism with `noise_multiplier`; an empty batch is a sum of zeros and gets the same noise.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        noise_multiplier: float,
        max_grad_norm: float,
        expected_batch_size: float,
        generator: torch.Generator | None = None,
    ) -> None:
        # Opacus' annotation asks for an int; the public expectation p * declared users need not be one.
        super().__init__(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            expected_batch_size=expected_batch_size,
            generator=generator,
        )
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
            parameter.summed_grad = total.to(parameter.dtype)

    def step_with(self, *sums: torch.Tensor) -> None:
        """One noised step on clipped sums, one a parameter."""
        self._sums = sums
        self.step()
        self._sums = ()
        for parameter in self.params:
            parameter.summed_grad = None


def poisson_sample(n_users: int, sampling_probability: float, generator: torch.Generator) -> torch.Tensor:
    """Each user independently with the same probability: bool [n_users], perhaps nobody."""
    chosen = torch.zeros(n_users, dtype=torch.bool)
    if n_users:
        sampler = UniformWithReplacementSampler(
            num_samples=n_users, sample_rate=sampling_probability, generator=generator, steps=1
        )
        chosen[next(iter(sampler))] = True
    return chosen
