"""Where a silo's noise and samples come from: one law, and two kinds of key for its stream of random bits.

A deployed silo's key comes from the operating system and is known to nobody. A simulation's key follows from
(purpose, seed, silo, release), so that runs can be repeated: who knows the seed can take the noise away.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from recsys_fed.privacy.discrete_gaussian import discrete_gaussian
from recsys_fed.privacy.gaussian_points import LARGEST, SMALLEST, add_gaussian
from recsys_fed.privacy.random_bits import RandomBits, bernoulli, secret_key, simulation_key


class NoiseSource(Protocol):
    """Integer noise, uniform bits and events from one stream each. `name` is recorded in every release event.

    What samples users is a source of its own key: noise and samples never share a stream.
    """

    @property
    def name(self) -> str:
        """One of `privacy.events.NOISE_SOURCES`."""

    def integers(self, shape: tuple[int, ...], *, standard_deviation: float) -> npt.NDArray[np.int64]:
        """Draws of that shape, independent, of the discrete Gaussian N_Z(0, standard_deviation^2); 0 gives zeros."""

    def add_to(self, table: npt.NDArray[np.int32], *, standard_deviation: float) -> None:
        """Add such draws to every entry of a table in one piece, modulo 2^32; not the draws of `integers`."""

    def dither(self, shape: tuple[int, ...]) -> npt.NDArray[np.uint16]:
        """Draws of that shape, uniform on 0 to 2^16 - 1, to round with; nothing else uses their bits."""

    def events(self, count: int, *, probability: float) -> npt.NDArray[np.bool_]:
        """Independent events of that probability, rounded down to a multiple of 2^-64: bool [count]."""


class _KeyedNoise:
    """The samplers on the stream of one key."""

    def __init__(self, key: bytes) -> None:
        self._bits = RandomBits(key)

    def integers(self, shape: tuple[int, ...], *, standard_deviation: float) -> npt.NDArray[np.int64]:
        """Draws of that shape, independent, of the discrete Gaussian N_Z(0, standard_deviation^2); 0 gives zeros."""
        return discrete_gaussian(shape, standard_deviation=standard_deviation, bits=self._bits)

    def add_to(self, table: npt.NDArray[np.int32], *, standard_deviation: float) -> None:
        """Add such draws to every entry of a table in one piece, modulo 2^32."""
        if SMALLEST <= standard_deviation <= LARGEST:
            add_gaussian(table.reshape(-1, copy=False), standard_deviation=standard_deviation, bits=self._bits)
        else:
            table += self.integers(table.shape, standard_deviation=standard_deviation).astype(np.int32)

    def dither(self, shape: tuple[int, ...]) -> npt.NDArray[np.uint16]:
        """Draws of that shape, uniform on 0 to 2^16 - 1, to round with."""
        return self._bits.uint16(int(np.prod(shape, dtype=np.int64))).reshape(shape)

    def events(self, count: int, *, probability: float) -> npt.NDArray[np.bool_]:
        """Independent events of that probability, rounded down to a multiple of 2^-64: bool [count]."""
        return bernoulli(count, probability=probability, bits=self._bits)


class SystemNoise(_KeyedNoise):
    """Noise for real silos: AES-256-CTR under a fresh key of the operating system, held in memory only."""

    name = "operating-system"

    def __init__(self) -> None:
        super().__init__(secret_key())


class SeededNoise(_KeyedNoise):
    """Noise that a seed repeats, for simulations and tests only: who knows the seed can take it away.

    The stream is a function of the key alone, so different silos, rounds and purposes need different keys.
    """

    name = "seeded-simulation"

    def __init__(self, *key: int) -> None:
        super().__init__(simulation_key(*key))


def poisson_sample(n_users: int, sampling_probability: float, source: NoiseSource) -> torch.Tensor:
    """Each user independently with the same probability: bool [n_users], perhaps nobody.

    Guarantees: the probability is rounded down to a multiple of 2^-64, so that nobody is taken more often than an
    event of `sampling_probability` says; 1 takes everybody.
    """
    return torch.from_numpy(source.events(n_users, probability=sampling_probability))
