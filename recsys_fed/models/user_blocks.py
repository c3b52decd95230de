"""Histories as a stream of blocks of users: what sums over users read, wherever the histories are held.

A silo's users fall into the same blocks whether its histories are in memory or on disk. Blocks are also what
threads share: several are worked on at once, each by one thread, which needs no waiting for each other in between.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from recsys_fed.models.histories import Histories

# A block costs a pass over an item table beside the work on its interactions: it has at least so many interactions,
# and so many for each item.
_LEAST_INTERACTIONS = 1 << 20
_INTERACTIONS_AN_ITEM = 8


class UserHistories(Protocol):
    """Histories of a silo's users. `Histories` is the one in memory."""

    @property
    def n_users(self) -> int:
        """Number of users, also those without an interaction."""

    @property
    def n_items(self) -> int:
        """Number of items of the catalogue."""

    @property
    def device(self) -> torch.device:
        """Where the blocks are, and where contributions are computed."""

    def blocks(self) -> Iterator["Histories"]:
        """Every user once, in blocks of consecutive users."""

    def subset(self, chosen: torch.Tensor) -> "UserHistories":
        """Only the users where `chosen` [n_users] is true."""


def block_size(n_items: int) -> int:
    """Interactions of a block at most, for a catalogue of `n_items`: a public number.

    >>> block_size(3_000), block_size(1_000_000)
    (1048576, 8000000)
    """
    return max(_LEAST_INTERACTIONS, _INTERACTIONS_AN_ITEM * n_items)


def block_bounds(starts: npt.NDArray[np.int64], *, interactions: int) -> list[tuple[int, int]]:
    """First user and the one after the last of every block, from the users' first interactions [n_users + 1].

    A block has at most so many `interactions`, but a user is never split: who has more alone makes a block.
    """
    bounds, first, n_users = [], 0, len(starts) - 1
    while first < n_users:
        last = int(np.searchsorted(starts, starts[first] + interactions, side="right")) - 1
        last = min(max(last, first + 1), n_users)
        bounds.append((first, last))
        first = last
    return bounds


def for_each_block(histories: UserHistories, work: Callable[[int, "Histories"], None]) -> None:
    """Call `work` on every block, on a CPU on as many at once as torch has threads, each then with one thread.

    `work` gets the row of the block's first user, and the block. It may run in several threads at the same time and
    in any order. No more blocks than threads are held.
    """
    threads = torch.get_num_threads()
    blocks = _placed(histories)
    some = list(islice(blocks, 2))
    if threads == 1 or len(some) < 2 or histories.device.type != "cpu":
        for first, block in chain(some, blocks):
            work(first, block)
        return
    try:
        with ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1)) as pool:
            running: set[Future[None]] = set()
            for first, block in chain(some, blocks):
                running.add(pool.submit(work, first, block))
                if len(running) >= threads:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
            for future in running:
                future.result()
    finally:
        # What a thread sets becomes the default of threads to come.
        torch.set_num_threads(threads)


def _placed(histories: UserHistories) -> Iterator[tuple[int, "Histories"]]:
    first = 0
    for block in histories.blocks():
        yield first, block
        first += block.n_users
