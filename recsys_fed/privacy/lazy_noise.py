"""A table of noised sums over many steps, whose noise is drawn when a row is read, and at the end.

After step t the table is G_t = sum_{s <= t} (rounded sum_s + N_s) with independent integer noise N_s on every
entry at every step. Nobody sees a row of G_t before it is read, so the noise of the steps since the row's last
reading may be drawn then, in one draw of their summed variance. A step costs what its rows cost; the others cost
nothing until `finished`, which draws what is missing everywhere.

Exact in distribution where what follows from the table between the readings is a function of the rows that are read,
as in plain SGD: V_t = V_0 - rate G_t, row by row. Momentum, Adam and weight decay move rows that nobody reads and
need every step's noise of every row: for them read everything at every step.
"""

from collections.abc import Iterable

import numpy as np
import torch

from recsys_fed.errors import ConfigurationError
from recsys_fed.privacy.grid import to_grid
from recsys_fed.privacy.integer_mechanism import IntegerMechanism
from recsys_fed.privacy.noise import NoiseSource

# Entries of rows here and there whose noise is drawn at a time: they are copied out and back.
_ENTRIES = 1 << 19


class NoisedSums:
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
        """One step's sum over users, as its blocks of rows in order: float64; `rows` names them where it is not all.

        A sum over all rows gets its noise at once, one over some rows when they are read.
        """
        chosen = None if rows is None else rows.cpu().numpy()
        self._steps += 1
        for start, block in blocks:
            exact = block.cpu().numpy()
            grid = to_grid(exact, step=self._mechanism.grid_step, dither=self._noise.dither(exact.shape))
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
