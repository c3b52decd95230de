"""Exact inversion: from uniform bits to the discrete Gaussian N_Z(0, s^2) of a scale that fits into a table.

    P[X = v] = exp(-v^2 / 2 s^2) / sum_k exp(-k^2 / 2 s^2),      X = min {v : U < F(v)},   U uniform on [0, 1)

U is revealed bit by bit and only as far as needed. Its first 16 bits settle X but for cells of [0, 1) that hold a
value of F; 48 bits settle it but for one draw in 2^33 or fewer, and for that one F is worked out to as many bits as
it takes (`cumulative`). Nothing is rounded: given uniform bits the law is exact, tails included.
"""

from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from recsys_fed.privacy.cumulative import cumulative_floors
from recsys_fed.privacy.random_bits import RandomBits

# Values stay within 16 bits: fifteen and a half times the scale is where the table ends.
LARGEST_SCALE = 2_000.0
# Marks in `cells` and `lower`: more bits are needed; more than one value of F lies in the cell.
_UNSETTLED = _CROWDED = np.iinfo(np.int16).min
_CELL_BITS, _REST_BITS = 16, 32
_WORD_BITS = _CELL_BITS + _REST_BITS
_REST = np.uint64(2**_REST_BITS - 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class InversionTable:
    """The law of one scale, ready to be looked up.

    Attributes:
        scale: s, at most LARGEST_SCALE.
        floors: floor(2^48 F(v)) for v = -reach to reach, uint64 [2 reach + 1].
        cells: X for each value of U's first 16 bits, int16 [2^16], or _UNSETTLED.
        lower: for a cell with one value F(v) in it, that v, int16 [2^16], or _CROWDED; X is v or v + 1.
        bounds: the last 32 bits of floor(2^48 F(v)) for that v, uint32 [2^16].
    """

    scale: float
    floors: npt.NDArray[np.uint64]
    cells: npt.NDArray[np.int16]
    lower: npt.NDArray[np.int16]
    bounds: npt.NDArray[np.uint32]

    def draw(self, count: int, bits: RandomBits) -> npt.NDArray[np.int16]:
        """Independent draws of N_Z(0, s^2)."""
        first = bits.uint16(count)
        # Sixteen bits are never out of range; "wrap" is the fastest way to say so.
        values = np.take(self.cells, first, mode="wrap")
        unsettled = np.flatnonzero(values == _UNSETTLED)
        if len(unsettled):
            values[unsettled] = self._settled(first[unsettled], bits)
        return values

    def _settled(self, first: npt.NDArray[np.uint16], bits: RandomBits) -> npt.NDArray[np.int16]:
        """X for draws whose first 16 bits do not settle it."""
        rest = bits.uint32(len(first))
        lower, bounds = np.take(self.lower, first, mode="clip"), np.take(self.bounds, first, mode="clip")
        values = lower + (rest > bounds)
        crowded = np.flatnonzero(lower == _CROWDED)
        words = (first[crowded].astype(np.uint64) << np.uint64(_REST_BITS)) | rest[crowded]
        below = np.searchsorted(self.floors, words, side="left")
        values[crowded] = below - len(self.floors) // 2
        tied = np.flatnonzero((rest == bounds) & (lower != _CROWDED))
        also = crowded[self.floors[below] == words]
        for place in (*tied, *also):
            values[place] = self.beyond(int(first[place]) << _REST_BITS | int(rest[place]), bits)
        return values

    def beyond(self, word: int, bits: RandomBits) -> int:
        """X for a draw whose first 48 bits are `word`, one of `floors`, with as many more bits as it takes."""
        length = _WORD_BITS
        while True:
            word, length = word << _REST_BITS | int(bits.uint32(1)[0]), length + _REST_BITS
            floors = cumulative_floors(self.scale, length)
            below = bisect_left(floors, word)
            if floors[below] != word:
                return below - len(floors) // 2


@lru_cache(maxsize=128)
def inversion_table(scale: float) -> InversionTable:
    """The table of a scale, kept for the next call."""
    floors = np.array(cumulative_floors(scale, _WORD_BITS), dtype=np.uint64)
    reach = len(floors) // 2
    start = np.arange(2**_CELL_BITS, dtype=np.uint64) << np.uint64(_REST_BITS)
    below = np.searchsorted(floors, start, side="left")
    inside = np.searchsorted(floors, start | _REST, side="right") - below
    one = inside == 1
    return InversionTable(
        scale=scale,
        floors=floors,
        cells=np.where(inside == 0, below - reach, _UNSETTLED).astype(np.int16),
        lower=np.where(one, below - reach, _CROWDED).astype(np.int16),
        bounds=(floors[np.minimum(below, 2 * reach)] & _REST).astype(np.uint32),
    )
