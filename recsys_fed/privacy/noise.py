"""Gaussian noise, and the integer grid on which what leaves a silo is written.

A release is round((sum + noise) / grid_step) as an integer. Rounding after the noise is post-processing, so
the guarantee is that of the Gaussian mechanism; integers add up exactly, so the sum over silos does not
depend on their order, and the same seed gives the same bytes on every engine.
"""

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from recsys_fed import checks

Integers = npt.NDArray[np.int32]

_INT32 = np.iinfo(np.int32)
# The grid is this much finer than the noise: rounding adds 1/12 step^2, under 3e-5 of the noise's variance.
_STEPS_PER_STANDARD_DEVIATION = 64


class NoiseSource(Protocol):
    """Where noise comes from. `name` is recorded in every release event."""

    @property
    def name(self) -> str:
        """One of `privacy.events.NOISE_SOURCES`."""

    def normal(self, shape: tuple[int, ...], *, standard_deviation: float) -> npt.NDArray[np.float64]:
        """Independent draws of N(0, standard_deviation^2), float64."""


class SeededNoise:
    """Noise that a seed repeats, for simulations and tests only: who knows the seed can take it away.

    The stream is a function of the key alone, so different silos, rounds and purposes need different keys.
    """

    name = "seeded-simulation"

    def __init__(self, *key: int) -> None:
        self._generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))

    def normal(self, shape: tuple[int, ...], *, standard_deviation: float) -> npt.NDArray[np.float64]:
        """Independent draws of N(0, standard_deviation^2), float64."""
        checks.non_negative(standard_deviation=standard_deviation)
        return standard_deviation * self._generator.standard_normal(shape)


def seeded_generator(*key: int) -> torch.Generator:
    """A torch generator whose stream is a function of the key alone, for simulations and tests only."""
    state = np.random.SeedSequence(key).generate_state(2, dtype=np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))


def grid_step(*, standard_deviation: float, l2_clip_norm: float, declared_users: int) -> float:
    """Width of the grid, a power of two that public numbers alone decide.

    Args:
        standard_deviation: of the noise that one silo adds.
        l2_clip_norm: bound on what one user adds to the sum, hence to any entry of it.
        declared_users: public order of magnitude of users; a sum of four times as many full
            contributions still fits into 32 bits.
    """
    checks.positive(l2_clip_norm=l2_clip_norm)
    checks.at_least(1, declared_users=declared_users)
    fits = 4.0 * declared_users * l2_clip_norm / _INT32.max
    fine = max(standard_deviation / _STEPS_PER_STANDARD_DEVIATION, l2_clip_norm * 2.0**-20)
    return 2.0 ** (math.floor(math.log2(fine)) if fine > 2 * fits else math.ceil(math.log2(fits)))


def to_grid(values: npt.NDArray[np.float64], *, step: float) -> Integers:
    """Nearest grid point of each value as an integer; what does not fit into 32 bits is cut off there, NaN is 0."""
    points = np.clip(np.rint(values / step), _INT32.min, _INT32.max)
    return np.where(np.isnan(points), 0.0, points).astype(np.int32)


def noised(total: npt.NDArray[np.float64], *, standard_deviation: float, step: float, noise: NoiseSource) -> Integers:
    """Add noise to a sum over users and put it on the grid.

    Guarantees:
        - With sensitivity C of `total` (L2, one user added or removed) this is the Gaussian mechanism with
          noise multiplier standard_deviation / C, followed by rounding, which costs nothing.
        - Every entry gets noise, also those that no user touched, also in a silo without users.
    """
    return to_grid(total + noise.normal(total.shape, standard_deviation=standard_deviation), step=step)
