"""The staircase over a Gaussian's curve: how a discrete Gaussian of large scale is drawn by uniform points.

    G(x) = g exp(-x^2 / 2 sigma^2),      points (x, y) with x an integer and 0 <= y < G(x)

Of points that are uniform under G, x has the law N_Z(0, sigma^2), whatever g is. Points come from a staircase that
covers G: bars of 2^b integers, each as many cells of height 1 as the bar's highest G asks for, 2^16 cells in all.
Sixteen bits choose a cell, b bits an integer of its bar, and the point lies between the cell's floor and its ceiling.
Beyond the bars one cell holds both tails: stretches of 2^(b + 5) integers, each half as likely as the one before,
which G outruns. Points above the curve are drawn anew: rejection sampling, without a normaliser and without cutting
off a tail. A cell whose ceiling is under all of the bar's G, 98 in 100, needs no comparison.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from recsys_fed.errors import ConfigurationError

# sigma is at least so many bars wide, and less than twice as many: more bars waste cells, fewer are steeper.
_BARS_A_SIGMA = 64
SMALLEST, LARGEST = float(_BARS_A_SIGMA), 2.0**36
CELL_BITS = 16
# Where the tails begin, in sigma; and a stretch of them has 2^5 bars, a quarter of sigma or more.
_REACH, STRETCH_BITS = 4.75, 5
# What float64 may have wrong, relative to G: thousands of times what exp and a few products round away.
ROUNDING = 2.0**-40
# Not a first integer of a bar: no multiple of a power of two but 1, and no bar where that is 1.
UNSETTLED = np.iinfo(np.int32).min + 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Staircase:
    """The cells of one scale.

    Attributes:
        scale: sigma.
        peak: g.
        place_bits: b.
        reach: bars on either side of 0.
        bars: the bar of each cell from -reach to reach - 1, and `reach` for that of the tails, int16 [2^16].
        floors: the height at which each cell begins, int16 [2^16].
        settled: the bar's first integer modulo 2^32, int32 [2^16], or UNSETTLED where the cell is not all under G.
    """

    scale: float
    peak: float
    place_bits: int
    reach: int
    bars: npt.NDArray[np.int16]
    floors: npt.NDArray[np.int16]
    settled: npt.NDArray[np.int32]


@lru_cache(maxsize=32)
def staircase(scale: float) -> Staircase:
    """The staircase of a scale, kept for the next call.

    Raises:
        ConfigurationError: a scale below SMALLEST, above LARGEST, or not finite.
    """
    if not SMALLEST <= scale <= LARGEST:
        raise ConfigurationError(f"Expected a scale from {SMALLEST:g} to {LARGEST:g} steps, got {scale:g}.")
    place_bits = int(scale / _BARS_A_SIGMA).bit_length() - 1
    reach = int(np.ceil(_REACH * scale / 2.0**place_bits))
    # Bars on the right of 0; those on the left are their mirror images.
    curve = np.exp(np.square(np.arange(reach + 1) * 2.0**place_bits / scale) * -0.5)
    peak = 2.0**CELL_BITS / (scale / 2.0**place_bits * (2 * np.pi) ** 0.5)
    while 2 * (sizes := _cells(peak * curve[:-1])).sum() >= 2**CELL_BITS:
        peak *= 0.9995
    under = np.floor(peak * curve[1:] * (1 - ROUNDING)).astype(np.int32)
    sizes, under = np.concatenate([sizes[::-1], sizes, [1]]), np.concatenate([under[::-1], under, [0]])
    # What is left over heightens a bar: points there are above the curve.
    sizes[reach] += 2**CELL_BITS - sizes.sum()
    # Narrow types: these tables are made where a small round keeps few megabytes itself.
    bars = np.repeat(np.arange(-reach, reach + 1, dtype=np.int16), sizes)
    floors = np.arange(2**CELL_BITS, dtype=np.int32)
    floors -= np.repeat((np.cumsum(sizes) - sizes).astype(np.int32), sizes)
    settled = np.repeat((np.arange(-reach, reach + 1) << place_bits).astype(np.int32), sizes)
    settled[floors >= np.repeat(under, sizes)] = UNSETTLED
    return Staircase(
        scale=scale,
        peak=float(peak),
        place_bits=place_bits,
        reach=reach,
        bars=bars,
        floors=floors.astype(np.int16),
        settled=settled,
    )


def _cells(highest: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Cells that cover a bar."""
    return np.floor(highest * (1 + ROUNDING)).astype(np.int64) + 1
