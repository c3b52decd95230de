"""The mechanism of every release: a sum rounded to a public integer grid, plus discrete Gaussian integers.

*The grid*, on which whatever leaves a silo is written, and unbiased rounding to it. A sum x becomes floor(x / step +
r) with r uniform on [0, 1) and independent of the data: it is right on average, whatever x is. Integers add up
exactly, so the sum over silos does not depend on their order, and modular secure aggregation can add them as well.

*The mechanism.* What is promised is the continuous Gaussian mechanism of the event's noise multiplier z, for a sum f
of L2 sensitivity C (one user added or removed). What is done, all figures in grid steps and m the number of entries:

1. *Arithmetic.* The silo computes f in floating point. Of two neighbours' results f, f' the difference is that of
   exact arithmetic up to `arithmetic_error` * C, so ||f - f'|| <= a = (1 + arithmetic_error) C / step.
2. *Rounding* down to multiples of 2^-16 moves two neighbours' entries apart by less than 2^-16 each, hence
   ||f - f'|| <= b = a + 2^-16 sqrt(m).
3. *Dither.* d_i = floor(f'_i + r_i) - floor(f_i + r_i) is one of the two integers next to g_i = f'_i - f_i,
   independently over i and with mean g_i. So E d_i^2 is g_i^2 interpolated between the integers: at most |g_i| for
   |g_i| <= 1/2 and g_i^2 + 1/4 beyond, which is concave in g_i^2; and d_i^2 ranges over an interval of length at most
   2 |g_i| + 1. By Jensen, and by Hoeffding with probability at least 1 - beta,

       E ||d||^2 <= e(b),     e(b) = sqrt(m) b for b <= sqrt(m) / 2,     b^2 + m / 4 beyond
       ||d||^2 <= D^2 = e(b) + (2 b + sqrt(m)) sqrt(log(1 / beta) / 2)

   The dither does not depend on the data, so the failure costs beta in delta and nothing else.
4. *Noise* N_Z(0, s^2) with s^2 = share z^2 D^2 + 3. A discrete Gaussian shifted by integers is the continuous one
   of variance s^2 - 3, shifted alike and then rounded at random (to an integer y' near y with probability
   proportional to exp(-(y' - y)^2 / 6)), up to a factor within 1 +- e^-57 on every outcome of an entry. Random
   rounding is post-processing. So the release is a post-processing of the continuous Gaussian mechanism with noise
   multiplier z, in any number of dimensions and with sampling of users, and whatever is composed from such releases
   costs what the accountants say of continuous Gaussians, but for e^-55 a released entry in epsilon.

*Many steps* (`NoisySums`): a table of noisy sums whose noise is drawn when a row is read, and at the end.
After step t the table is G_t = sum_{s <= t} (rounded sum_s + N_s) with independent integer noise N_s on every
entry at every step. Nobody sees a row of G_t before it is read, so the noise of the steps since the row's last
reading may be drawn then, in one draw of their summed variance. A step costs what its rows cost; the others cost
nothing until `finished`, which draws what is missing everywhere.

Exact in distribution where what follows from the table between the readings is a function of the rows that are read,
as in plain SGD: V_t = V_0 - rate G_t, row by row. Momentum, Adam and weight decay move rows that nobody reads and
need every step's noise of every row: for them read everything at every step.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from recsys_fed import checks
from recsys_fed.errors import ConfigurationError
from recsys_fed.privacy.noise import NoiseSource

_INT32 = np.iinfo(np.int32)
# r is a multiple of 2^-16, and x / step is rounded down to one: exactly, as a step is a power of two.
DITHER_BITS = 16
# Entries are cut off here before the dither is added, so that they end up within int32; float64 holds both exactly.
_ENDS = -(2.0 ** (31 + DITHER_BITS)), 2.0 ** (31 + DITHER_BITS) - 2.0**DITHER_BITS
# Entries that are worked on together, so that they stay in the cache.
_BLOCK = 2**16
# One user's full contribution in steps, over the root of the number of entries. Rounding then adds under 1% to the
# sensitivity; small tables need the second figure for the same.
_STEPS_PER_ROOT, _LEAST_STEPS = 6.0, 2048.0
_TAILS = 8.0
# beta: what one rounded sum costs in delta.
ROUNDING_SLACK = 1e-15
# Relative to C; trainers' sums keep within it, see `trainers.trainer`.
ARITHMETIC_ERROR = 2.0**-10
# Variance of the random rounding in point 4.
SMOOTHING = 3.0
# In steps. Below it the noise of silos that share it would no longer add up to a discrete Gaussian.
LEAST_DEVIATION = 8.0
# Entries of rows here and there whose noise is drawn at a time: they are copied out and back.
_ENTRIES = 1 << 19


def grid_step(
    *, noise_multiplier: float, l2_clip_norm: float, declared_users: int, entries: int, steps: int = 1
) -> float:
    """Width of the grid, a power of two that public numbers alone decide.

    Args:
        noise_multiplier: standard deviation of a sum's noise over l2_clip_norm.
        l2_clip_norm: bound on what one user adds to the sum, hence to any entry of it.
        declared_users: public order of magnitude of the users that are summed. The full contributions of all of them
            to one entry and eight standard deviations of noise fit into 32 bits; where that leaves too coarse a
            grid for `entries`, it stays so, and the noise grows by what rounding adds to the sensitivity.
        entries: of the table, rows times columns.
        steps: noisy sums that are added up on the grid before they are released.
    """
    checks.positive(l2_clip_norm=l2_clip_norm)
    checks.non_negative(noise_multiplier=noise_multiplier)
    checks.at_least(1, declared_users=declared_users, entries=entries, steps=steps)
    fits = l2_clip_norm * (declared_users * steps + _TAILS * noise_multiplier * steps**0.5) / _INT32.max
    fine = l2_clip_norm / max(_STEPS_PER_ROOT * entries**0.5, _LEAST_STEPS)
    return 2.0 ** (math.floor(math.log2(fine)) if fine > 2 * fits else math.ceil(math.log2(fits)))


def _to_grid(
    values: npt.NDArray[np.float64], *, step: float, dither: npt.NDArray[np.uint16]
) -> npt.NDArray[np.int32]:
    """floor(value / step + r) with r = dither / 2^16, as integers within int32.

    Guarantees, for a dither that is uniform and independent of `values`:
        - Every entry is one of the two integers next to value / step, and right on average once the value is
          rounded down to 2^-16 steps; integers stay as they are.
        - Entries beyond the ends of int32 are cut off there, before any noise; NaN is 0. Both treat an entry by
          itself and move no two entries apart, so they do not add to the sensitivity.
    """
    flat, dithers = np.ravel(values), np.ravel(dither)
    rounded = np.empty(flat.shape, dtype=np.int32)
    scaled = np.empty(min(len(flat), _BLOCK))
    for start in range(0, len(flat), _BLOCK):
        part = slice(start, start + _BLOCK)
        block = scaled[: len(flat) - start]
        with np.errstate(over="ignore"):
            np.multiply(flat[part], 2.0**DITHER_BITS / step, out=block)
        np.floor(block, out=block)
        if not (block.min() >= _ENDS[0] and block.max() <= _ENDS[1]):
            np.clip(block, *_ENDS, out=block)
            np.copyto(block, 0.0, where=np.isnan(block))
        # Whole numbers below 2^48, and their 2^-16 parts: all of it exact in float64.
        block += dithers[part]
        block *= 2.0**-DITHER_BITS
        np.floor(block, out=block)
        rounded[part] = block
    return rounded.reshape(values.shape)


def to_int32(integers: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Noisy integers of any shape as they travel; what does not fit is cut off, which is post-processing."""
    return np.clip(integers, _INT32.min, _INT32.max).astype(np.int32)


@dataclass(frozen=True, kw_only=True)
class IntegerMechanism:
    """One noisy sum, described by public numbers; see the module.

    Attributes:
        noise_multiplier: z, of the continuous Gaussian mechanism that the sum over silos amounts to; 0 for none.
        l2_clip_norm: C, in the unit of the sum.
        grid_step: width of the grid in the same unit.
        entries: m.
        noise_share: share of the variance that one silo adds.
    """

    noise_multiplier: float
    l2_clip_norm: float
    grid_step: float
    entries: int
    noise_share: float = 1.0

    def __post_init__(self) -> None:
        checks.non_negative(noise_multiplier=self.noise_multiplier)
        checks.positive(l2_clip_norm=self.l2_clip_norm, grid_step=self.grid_step)
        checks.at_least(0, entries=self.entries)
        checks.probability(noise_share=self.noise_share)
        if math.frexp(self.grid_step)[0] != 0.5:
            raise ConfigurationError(f"Expected grid_step to be a power of two, got {self.grid_step}.")
        if 0 < self.standard_deviation < LEAST_DEVIATION:
            raise ConfigurationError(
                f"Expected noise of at least {LEAST_DEVIATION:g} grid steps, got {self.standard_deviation:g}. "
                "Use a finer grid."
            )

    @property
    def sensitivity(self) -> float:
        """D: L2 sensitivity of the rounded sum in steps, but for probability ROUNDING_SLACK."""
        root = self.entries**0.5
        exact = (1 + ARITHMETIC_ERROR) * self.l2_clip_norm / self.grid_step + 2.0**-DITHER_BITS * root
        expected = root * exact if exact <= root / 2 else exact**2 + root**2 / 4
        return math.sqrt(expected + (2 * exact + root) * math.sqrt(-math.log(ROUNDING_SLACK) / 2))

    @property
    def standard_deviation(self) -> float:
        """s: standard deviation of the noise that one silo adds, in steps; 0 without noise."""
        if self.noise_multiplier == 0:
            return 0.0
        return math.sqrt(self.noise_share * (self.noise_multiplier * self.sensitivity) ** 2 + SMOOTHING)

    @property
    def inflation(self) -> float:
        """Standard deviation of the noise over that of the continuous mechanism: what the integers cost."""
        plain = self.noise_multiplier * self.l2_clip_norm * self.noise_share**0.5
        return self.standard_deviation * self.grid_step / plain if plain else 1.0


def add_noise(
    total: npt.NDArray[np.float64], *, mechanism: IntegerMechanism, noise: NoiseSource
) -> npt.NDArray[np.int64]:
    """Round a sum over users to the grid and add a silo's noise: integers, in steps.

    Guarantees:
        - Unit: one user; neighbouring relation: add or remove one user; `total` has sensitivity C.
        - The result is (epsilon, delta + ROUNDING_SLACK)-differentially private where the Gaussian mechanism of
          the mechanism's noise multiplier is (epsilon, delta); see the module for the proof.
        - Every entry gets noise, also those that no user touched, also in a silo without users.
        - No floating-point number is computed from the noise, and none after rounding.
    """
    rounded = _to_grid(total, step=mechanism.grid_step, dither=noise.dither(total.shape))
    drawn = noise.integers(total.shape, standard_deviation=mechanism.standard_deviation)
    drawn += rounded
    return drawn


class NoisySums:
    """The table G, int32 [n_rows, dim] in grid steps; it owns its noise.

    Guarantees:
        - Unit: one user; neighbouring relation: add or remove one user. Every step is `mechanism` on a sum over
          users of sensitivity mechanism.l2_clip_norm, and the table is a function of the steps' releases: k steps
          cost k of them, whatever is read in between. Rows without users, and steps without users, get all noise.
        - Noise of k steps is one draw of N_Z(0, k s^2) instead of the sum of k draws of N_Z(0, s^2). Their laws
          differ by a factor within 1 +- k exp(-9 s^2) on every integer (the lemma of `discrete_gaussian`, with a
          squared smoothing of s^2 / 2 or more; arXiv 2102.06387 bounds the same), and s is at least 8 steps.
        - Entries add up modulo 2^32, which is post-processing; grids are such that they do not come near it.
        - Not guaranteed: time and memory inside the silo depend on which rows are read, which is private. Nothing
          that leaves the silo does.
    """

    def __init__(self, shape: tuple[int, int], *, mechanism: IntegerMechanism, noise: NoiseSource) -> None:
        if mechanism.entries != shape[0] * shape[1]:
            raise ConfigurationError(
                f"Expected a mechanism of {shape[0] * shape[1]} entries, got {mechanism.entries}."
            )
        self._sums = np.zeros(shape, dtype=np.int32)
        self._mechanism, self._noise = mechanism, noise
        # The noise's own tables are made now: between a step's arrays they would split the memory that these leave.
        noise.add_to(self._sums[:0], standard_deviation=mechanism.standard_deviation)
        self._steps = 0
        # Steps whose noise a row already has.
        self._noised = np.zeros(shape[0], dtype=np.int32)

    def add(self, blocks: Iterable[tuple[int, torch.Tensor]], *, rows: torch.Tensor | None = None) -> None:
        """One step's sum over users, blocks [n, dim] of float64 with their first row; `rows` [n] where it is not all.

        A sum over all rows gets its noise at once, one over some rows when they are read.
        """
        chosen = None if rows is None else rows.cpu().numpy()
        self._steps += 1
        for start, block in blocks:
            exact = block.cpu().numpy()
            grid = _to_grid(exact, step=self._mechanism.grid_step, dither=self._noise.dither(exact.shape))
            part = slice(start, start + len(grid))
            self._sums[part if chosen is None else chosen[part]] += grid
        if chosen is None:
            self._draw_missing(None)

    def read(self, rows: torch.Tensor) -> torch.Tensor:
        """These rows after all steps so far, noise included: int32 [len(rows), dim]; no row twice."""
        chosen = rows.cpu().numpy()
        self._draw_missing(chosen)
        return torch.from_numpy(self._sums[chosen])

    def finished(self) -> torch.Tensor:
        """The whole table after all steps so far, noise included: int32 [n_rows, dim], not a copy."""
        self._draw_missing(None)
        return torch.from_numpy(self._sums)

    def _draw_missing(self, rows: np.ndarray | None) -> None:
        """Draw the noise that these rows (None: all) have not had yet."""
        missing = self._steps - (self._noised if rows is None else self._noised[rows])
        for steps in (np.flatnonzero(np.bincount(missing, minlength=1)[1:]) + 1).tolist():
            deviation = self._mechanism.standard_deviation * steps**0.5
            late = np.flatnonzero(missing == steps)
            if len(late) == len(self._sums):
                self._noise.add_to(self._sums, standard_deviation=deviation)
            else:
                self._draw_here_and_there(late if rows is None else rows[late], deviation)
        self._noised[slice(None) if rows is None else rows] = self._steps

    def _draw_here_and_there(self, rows: np.ndarray, deviation: float) -> None:
        step = max(1, _ENTRIES // max(1, self._sums.shape[1]))
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            part = self._sums[some]
            self._noise.add_to(part, standard_deviation=deviation)
            self._sums[some] = part
