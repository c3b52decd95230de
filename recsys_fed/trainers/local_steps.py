"""The silo's half of the local schedule: noisy steps of plain SGD on Poisson samples of the silo's users.

    G_t = G_{t-1} + [clipped sum over the sample, rounded to the grid] + integer noise
    V_t = V_0 - (learning_rate / expected_batch_size) grid_step G_t

What the silo releases is G_T itself, integers; every V_t is a function of V_0 and of noisy integers, so each step is
the integer Gaussian mechanism on a sample of users and the steps compose (DP-SGD, arXiv 1607.00133).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch

from recsys_fed.models.histories import Histories, UserHistories, block_bounds
from recsys_fed.models.items import FoldIn, gramian_of
from recsys_fed.privacy.integer_mechanism import NoisySums
from recsys_fed.privacy.noise import NoiseSource, poisson_sample
from recsys_fed.trainers.loss import Batch, Clipping, Loss, Negatives, RowBlocks, draw_negatives
from recsys_fed.trainers.trainer import LocalNoise

_PART_INTERACTIONS = 1 << 18
_BLOCK_ROWS = 1 << 12


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is minimised and how: public settings of a silo half.

    Attributes:
        loss: of which a user's gradient is taken.
        how: fold-in of the users.
        unobserved_weight: of the loss.
        n_negatives: drawn for each user and step, for losses that have some.
        clipping: of a user's gradient.
        bias_scale: of the last column of the table, where that is a bias, see `loss.Batch`.
    """

    loss: Loss
    how: FoldIn
    unobserved_weight: float
    n_negatives: int
    clipping: Clipping
    bias_scale: float = 0.0

    def clipped(self, batch: Batch) -> RowBlocks:
        """The clipped sum over the users of a batch."""
        return self.loss.clipped(
            batch, how=self.how, unobserved_weight=self.unobserved_weight, clipping=self.clipping
        )

    def negatives(self, histories: Histories, *, key: int) -> Negatives | None:
        """Of every user, or None where the loss has none."""
        return None if self.loss.reads_all_items else draw_negatives(histories, count=self.n_negatives, key=key)


@dataclass(frozen=True, kw_only=True, eq=False)
class Summed:
    """A clipped sum over users, float64 [n_head, dim], and how many of its users the clip norm holds; private."""

    total: torch.Tensor
    within: int
    users: int


def sum_clipped(
    task: Task, vectors: torch.Tensor, histories: UserHistories, *, head: torch.Tensor, key: int
) -> Summed:
    """The clipped sum over all users of `histories` at V on the head.

    Guarantees: sensitivity task.clipping.l2_clip_norm, one user added or removed, whatever `key` is and whoever
    knows it; a user's term depends on V, the key and that user's history.
    """
    total = torch.zeros(vectors.shape, dtype=torch.float64, device=histories.device)
    gramian, within, users = gramian_of(vectors), 0, 0
    for block in histories.blocks():
        part = block.restricted(head)
        batch = Batch(
            vectors=vectors,
            histories=part,
            negatives=task.negatives(part, key=key),
            gramian=gramian,
            bias_scale=task.bias_scale,
        )
        clipped = task.clipped(batch)
        within, users = within + int(clipped.within.sum()), users + block.n_users
        for start, rows in clipped.blocks():
            total[start : start + len(rows)] += rows
    # Counted from the blocks: a sample on disk, and a rank's share, have the number of the whole silo's users.
    return Summed(total=total, within=within, users=users)


def local_steps(
    task: Task,
    vectors: torch.Tensor,
    histories: UserHistories,
    *,
    head: torch.Tensor,
    settings: Mapping[str, float],
    noise: LocalNoise,
) -> torch.Tensor:
    """G_T after noise.steps steps from V_0 = `vectors` [n_head, dim]: int32 [n_head, dim] in grid steps.

    Guarantees:
        - Each step is noise.mechanism on a sum of sensitivity task.clipping.l2_clip_norm over a Poisson sample of
          users; an empty sample adds noise and counts as a step. All else follows from the steps.
        - Every V_t is finite: what overflows is cut off, which is a function of released integers alone.
        - Noise is integer and is drawn on the CPU, so that a key gives the same noise on every device.
    """
    if task.loss.reads_all_items:
        return dense_steps(
            partial(_dense_blocks, task), vectors, histories, head=head, settings=settings, noise=noise
        )
    sums = NoisySums((vectors.shape[0], vectors.shape[1]), mechanism=noise.mechanism, noise=noise.source)
    rate = settings["learning_rate"] / settings["expected_batch_size"] * noise.mechanism.grid_step
    _sparse_steps(task, vectors, _samples(histories, head, noise), sums=sums, rate=rate, keys=noise.sampling)
    return sums.finished()


def _samples(histories: UserHistories, head: torch.Tensor, noise: LocalNoise) -> Iterator[list[Histories]]:
    """The users of every step, over the head, in blocks; in memory the head is cut out once."""
    in_memory = isinstance(histories, Histories)
    users: UserHistories = histories.restricted(head) if isinstance(histories, Histories) else histories
    for _ in range(noise.steps):
        # Nothing here keeps a sample: who takes it decides when it goes.
        yield [
            part
            for block in _sample(users, noise).blocks()
            for part in _parts(block if in_memory else block.restricted(head))
        ]


def _sample(users: UserHistories, noise: LocalNoise) -> UserHistories:
    if noise.sampling_probability == 1:
        return users
    return users.subset(poisson_sample(users.n_users, noise.sampling_probability, noise.sampling).to(users.device))


def _parts(block: Histories) -> list[Histories]:
    """Blocks so small that what a step computes for one is no larger than a few tables of the catalogue."""
    most = max(_PART_INTERACTIONS, 2 * block.n_items)
    if len(block.items) <= most:
        return [block]
    bounds = block_bounds(block.starts.cpu().numpy(), interactions=most)
    return [block.block(start, stop) for start, stop in bounds]


SumOverSample = Callable[[torch.Tensor, list[Histories]], Iterator[tuple[int, torch.Tensor]]]


def dense_steps(
    clipped: SumOverSample,
    start: torch.Tensor,
    histories: UserHistories,
    *,
    head: torch.Tensor,
    settings: Mapping[str, float],
    noise: LocalNoise,
) -> torch.Tensor:
    """Steps that read every row: V is held as a whole, and every row gets its noise at every step.

    Args:
        clipped: the clipped sum at V over a sample that comes in blocks over the head: blocks of rows with the first.
        start, histories, head, settings, noise: see `local_steps`, whose guarantees hold if that of `clipped` does.
    """
    sums = NoisySums((start.shape[0], start.shape[1]), mechanism=noise.mechanism, noise=noise.source)
    rate = settings["learning_rate"] / settings["expected_batch_size"] * noise.mechanism.grid_step
    vectors = start.clone()
    for blocks in _samples(histories, head, noise):
        sums.add(clipped(vectors, blocks))
        # This sample's arrays go before the next sample's come.
        blocks.clear()
        # G is turned into floats where the next V will be, which is faster than to mix types.
        vectors.copy_(sums.finished())
        _finite_(torch.sub(start, vectors, alpha=rate, out=vectors))
    return sums.finished()


def _finite_(vectors: torch.Tensor) -> torch.Tensor:
    """V in place, cut off where float32 ends: the bounds on users' terms hold for finite tables."""
    return torch.nan_to_num_(vectors, nan=0.0)


def _dense_blocks(task: Task, vectors: torch.Tensor, blocks: list[Histories]) -> Iterator[tuple[int, torch.Tensor]]:
    gramian = gramian_of(vectors)
    batches = [
        Batch(vectors=vectors, histories=block, negatives=None, gramian=gramian, bias_scale=task.bias_scale)
        for block in blocks
    ]
    return _add((task.clipped(batch) for batch in batches), len(batches), vectors)


def _sparse_steps(
    task: Task,
    start: torch.Tensor,
    samples: Iterator[list[Histories]],
    *,
    sums: NoisySums,
    rate: float,
    keys: NoiseSource,
) -> None:
    """Steps of a loss that reads few rows: only they are brought up to date. The fold-in keeps V_0's gramian."""
    gramian = gramian_of(start)
    for blocks in samples:
        key = draw_key(keys)
        batches = [(block, task.negatives(block, key=key)) for block in blocks]
        blocks.clear()
        rows = torch.unique(torch.cat([_rows_read(*batch) for batch in batches]))
        vectors = start.index_select(0, rows)
        _finite_(vectors.sub_(sums.read(rows).to(start.device), alpha=rate))
        sums.add(_sparse_blocks(task, vectors, batches, rows=rows, gramian=gramian), rows=rows)


def draw_key(keys: NoiseSource) -> int:
    """A uniform number below 2^62, for negatives."""
    return int.from_bytes(keys.dither((4,)).astype("<u2").tobytes(), "little") >> 2


def _sparse_blocks(
    task: Task,
    vectors: torch.Tensor,
    batches: list[tuple[Histories, Negatives | None]],
    *,
    rows: torch.Tensor,
    gramian: torch.Tensor,
) -> Iterator[tuple[int, torch.Tensor]]:
    compact = (_compact(block, negatives, rows) for block, negatives in batches)
    parts = (
        task.clipped(
            Batch(
                vectors=vectors, histories=histories, negatives=negatives, gramian=gramian, bias_scale=task.bias_scale
            )
        )
        for histories, negatives in compact
    )
    return _add(parts, len(batches), vectors)


def _add(parts: Iterator[RowBlocks], count: int, vectors: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """The sum of tables over the same rows, in blocks; none gives zeros. One at a time is held."""
    if count == 1:
        yield from next(parts).blocks()
        return
    total = torch.zeros(vectors.shape, dtype=torch.float64, device=vectors.device)
    for part in parts:
        for start, rows in part.blocks():
            total[start : start + len(rows)] += rows
    for start in range(0, len(total), _BLOCK_ROWS):
        yield start, total[start : start + _BLOCK_ROWS]


def _rows_read(histories: Histories, negatives: Negatives | None) -> torch.Tensor:
    """Rows that a batch reads, each perhaps several times."""
    own = histories.items.long()
    return own if negatives is None else torch.cat([own, negatives.items.flatten()])


def _compact(
    histories: Histories, negatives: Negatives | None, rows: torch.Tensor
) -> tuple[Histories, Negatives | None]:
    """The same over `rows` (ascending, all that are touched) instead of over all rows."""
    place = torch.empty(histories.n_items, dtype=torch.int64, device=rows.device)
    place[rows] = torch.arange(len(rows), device=rows.device)
    items = place[histories.items].to(histories.items.dtype)
    compact = replace(histories, items=items, n_items=len(rows))
    return compact, None if negatives is None else replace(negatives, items=place[negatives.items])
