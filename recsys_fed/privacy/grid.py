"""The public integer grid on which whatever leaves a silo is written, and unbiased rounding to it.

A sum x becomes floor(x / step + r) with r uniform on [0, 1) and independent of the data: it is right on average,
whatever x is. Integers add up exactly, so the sum over silos does not depend on their order, and modular secure
aggregation can add them as well.
"""

import math

import numpy as np
import numpy.typing as npt

from recsys_fed import checks

_INT32 = np.iinfo(np.int32)
# r is a multiple of 2^-16, and x / step is rounded down to one: exactly, as a step is a power of two.
DITHER_BITS = 16
# Entries are cut off here before the dither is added, so that they end up within int32; float64 holds both exactly.
_ENDS = -(2.0 ** (31 + DITHER_BITS)), 2.0 ** (31 + DITHER_BITS) - 2.0**DITHER_BITS
# Entries that are worked on together, so that they stay in the cache.
_BLOCK = 2**16
# One user's full contribution in steps, over the root of the number of entries. Rounding then adds under 1% to the
# sensitivity (see `integer_mechanism`); small tables need the second figure for the same.
_STEPS_PER_ROOT, _LEAST_STEPS = 6.0, 2048.0
_TAILS = 8.0


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
        steps: noised sums that are added up on the grid before they are released.
    """
    checks.positive(l2_clip_norm=l2_clip_norm)
    checks.non_negative(noise_multiplier=noise_multiplier)
    checks.at_least(1, declared_users=declared_users, entries=entries, steps=steps)
    fits = l2_clip_norm * (declared_users * steps + _TAILS * noise_multiplier * steps**0.5) / _INT32.max
    fine = l2_clip_norm / max(_STEPS_PER_ROOT * entries**0.5, _LEAST_STEPS)
    return 2.0 ** (math.floor(math.log2(fine)) if fine > 2 * fits else math.ceil(math.log2(fits)))


def to_grid(values: npt.NDArray[np.float64], *, step: float, dither: npt.NDArray[np.uint16]) -> npt.NDArray[np.int32]:
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
    """Noised integers as they travel; what does not fit is cut off at the ends, which is post-processing."""
    return np.clip(integers, _INT32.min, _INT32.max).astype(np.int32)
