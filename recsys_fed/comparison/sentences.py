"""One sentence a silo: joining pays by so much, or it does not."""

from collections.abc import Sequence
from dataclasses import dataclass

from recsys_fed.comparison.intervals import Interval


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What joining changes for the users of a silo at one budget, in Recall@20.

    Attributes:
        epsilon: the budget.
        change: with all minus alone, user by user.
        alone, joined: the two means.
    """

    epsilon: float
    change: Interval
    alone: float
    joined: float


def sentence(silo: str, gains: Sequence[Gain]) -> str:
    """What the largest budget gives, and from which budget on the interval is above zero.

    Args:
        silo: its name.
        gains: by ascending epsilon; empty where no user of the silo has a test item.
    """
    if not gains:
        return f"{silo}: no user has a test item, so nothing can be said."
    last = gains[-1]
    change = last.change
    figures = f"{change.mean:+.4f} Recall@20 (95% interval {change.low:+.4f} to {change.high:+.4f})"
    levels = f"{last.alone:.4f} alone, {last.joined:.4f} with all, at epsilon {last.epsilon:g}"
    if change.high < 0:
        return f"{silo}: joining does not pay, it costs {figures}: {levels}."
    if change.low > 0:
        return f"{silo}: joining pays by {figures}: {levels}; it pays from epsilon {_least(gains):g} on."
    return f"{silo}: joining does not pay for sure, {figures}: {levels}."


def _least(gains: Sequence[Gain]) -> float:
    """The smallest budget from which on every larger one pays, too."""
    least = gains[-1].epsilon
    for gain in reversed(gains):
        if gain.change.low <= 0:
            break
        least = gain.epsilon
    return least
