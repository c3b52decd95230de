"""What a scorer is, and the check of what it returns.

A scorer maps a block of users, given as the slice of their row numbers, to one score per item:
a floating tensor [n_block, n_items] on any device. Higher is better; only the order matters.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch

from recsys_fed.errors import ConfigurationError

Scorer: TypeAlias = Callable[[slice], torch.Tensor]

_DTYPES = (torch.float32, torch.float64)


def score_block(score: Scorer, rows: slice, n_items: int) -> torch.Tensor:
    """Score a block of users and check the result.

    Args:
        score: the scorer.
        rows: row numbers of the users, with `start` and `stop` set.
        n_items: number of columns to expect.

    Returns:
        The scores [rows.stop - rows.start, n_items] as they came, detached. They may share memory with
        the scorer, so the caller must not write to them.

    Raises:
        ConfigurationError: the shape or the type is wrong, or a score is NaN or infinite.
    """
    with torch.no_grad():
        scores = score(rows).detach()
    if scores.ndim != 2 or len(scores) != rows.stop - rows.start or scores.shape[1] != n_items:
        raise ConfigurationError(
            f"Expected scores with one row per user of the block and {n_items} columns, "
            f"got {scores.ndim} dimensions, the last of size {scores.shape[-1] if scores.ndim else 1}. "
            "Score every user of the slice on every item of the catalogue."
        )
    if scores.dtype not in _DTYPES:
        raise ConfigurationError(
            f"Expected scores as float32 or float64, got {scores.dtype}. Convert them in the scorer."
        )
    # aminmax propagates NaN, so the two extremes are finite only if every score is.
    if scores.numel() and not torch.stack(scores.aminmax()).isfinite().all():
        raise ConfigurationError(
            "Expected finite scores, got NaN or infinity. The model has diverged or was not trained."
        )
    return scores
