"""What a loss of dp-sgd is: the clipped sum over users of its gradients in the item vectors.

The user's vector u is folded in anew from V and held constant, so that a user's gradient is r_u u^T with
r_u = dL_u/ds at the scores s = V u: rank one, whatever the loss is. A user's loss depends on that user's history and
negatives and on released tables only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from recsys_fed import checks
from recsys_fed.models.histories import Histories
from recsys_fed.models.items import FoldIn
from recsys_fed.trainers.negatives import Negatives


class RowBlocks(Protocol):
    """A clipped sum over item rows that is formed block by block; `within` says whose norm the clip norm holds."""

    @property
    def within(self) -> torch.Tensor:
        """Whether a user's norm is at most the clip norm, bool [n_users]; private."""

    def blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """All rows in order: the first row of each block and the block, float64 [n_rows, dim], until the next."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """The users of a step, and the rows of V that they read.

    Attributes:
        vectors: V, or those of its rows that the batch reads, [n_rows, dim].
        histories: over these rows.
        negatives: over these rows, for losses that have some.
        gramian: V^T V over all rows, float64 [dim, dim], of this V or of an earlier released one.
    """

    vectors: torch.Tensor
    histories: Histories
    negatives: Negatives | None
    gramian: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Clipping:
    """How a user's gradient is bounded; see `privacy.clipping`."""

    l2_clip_norm: float
    mode: str = "automatic"

    def __post_init__(self) -> None:
        # Before a user is read: whether a silo refuses must not depend on whether it has users.
        checks.positive(l2_clip_norm=self.l2_clip_norm)


class Loss(Protocol):
    """A loss by its name.

    Attributes:
        name: in the configuration.
        reads_all_items: a user's gradient touches every row, so that there are no negatives to draw.
        learning_rates: that work, of the synchronous and of the local schedule.
    """

    name: str
    reads_all_items: bool
    learning_rates: dict[str, float]

    def fold_in(self, *, unobserved_weight: float, regularization: float) -> FoldIn:
        """How a user's vector follows from V and a history, in training as in serving."""

    def clipped(self, batch: Batch, *, how: FoldIn, unobserved_weight: float, clipping: Clipping) -> RowBlocks:
        """Sum over users of the gradients, each clipped as a whole; sensitivity clipping.l2_clip_norm."""
