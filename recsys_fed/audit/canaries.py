"""Canary users: crafted histories whose contributions are long, and nearly orthogonal to each other's.

A released table has a row an item, and what a user adds to it lies in the rows of that user's history (but for a
part along popularity). Histories of few items, disjoint as far as the head has items enough, are nearly orthogonal
in every release, of either trainer. Clipping scales every contribution to the same norm, so a small history has the
whole sensitivity: a worst case for the mechanism, at whichever rows.

The items must get into the head, which follows from noised counts: canaries take the items that the head will
probably hold, the rarer ones first, as fewer users share them.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from recsys_fed import checks

SMALLEST_HISTORY, LARGEST_HISTORY = 2, 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Canaries:
    """Crafted users and the coins that decided who takes part.

    Attributes:
        histories: csr [n_canaries, n_items], 1.0 an item.
        included: bool [n_canaries], independent fair coins. Secret of the auditor until the guesses are made.
    """

    histories: sparse.csr_matrix
    included: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.included)


def crafted_canaries(
    popularity: npt.NDArray[np.float64], *, count: int, n_head: int, rng: np.random.Generator
) -> Canaries:
    """`count` canaries over the `n_head` items that are expected in the head, and their coins.

    Args:
        popularity: what the counts release would hold without noise, [n_items].
        count: canaries to craft.
        n_head: rows of the later releases.
        rng: of the histories and of the coins.

    Histories are as equal in length as the head allows, 2 to 8 items; every item is used about equally often, and no
    pair of items twice while there are pairs left.
    """
    checks.at_least(1, count=count, n_head=n_head)
    head = np.argsort(-popularity, kind="stable")[:n_head]
    size = int(np.clip(len(head) // count, SMALLEST_HISTORY, LARGEST_HISTORY))
    size = min(size, len(head))
    # The rarer part of the head first: with room to spare the popular items are left alone.
    pool = head[::-1][: max(size, min(len(head), count * size))]
    rows = _spread(pool, count=count, size=size, rng=rng)
    indices = np.sort(rows, axis=1)
    matrix = sparse.csr_matrix(
        (np.ones(indices.size, dtype=np.float32), indices.ravel(), np.arange(count + 1) * size),
        shape=(count, len(popularity)),
    )
    return Canaries(histories=matrix, included=rng.random(count) < 0.5)


def _spread(pool: npt.NDArray[np.int64], *, count: int, size: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Sets of `size` items [count, size]: shuffled pools cut into sets, so that use is even and sets are distinct."""
    rows: list[npt.NDArray[np.int64]] = []
    seen: set[tuple[int, ...]] = set()
    stubborn = 0
    while len(rows) < count:
        for part in rng.permutation(pool)[: len(pool) // size * size].reshape(-1, size):
            key = tuple(sorted(part.tolist()))
            # A small pool runs out of distinct sets; then they repeat.
            if len(rows) == count or (key in seen and stubborn < 4 * count):
                stubborn += 1
                continue
            seen.add(key)
            rows.append(part)
    return np.array(rows)
