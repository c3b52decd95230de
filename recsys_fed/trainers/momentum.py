"""The server's step of the synchronous schedule: momentum, steps of a public length that falls to zero."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step to take.

    Attributes:
        rate: length per entry (root mean square) of the first step.
        momentum: share of the direction so far that is kept.
        done, rounds: the length falls linearly to zero over the rounds.
    """

    rate: float
    momentum: float
    done: int
    rounds: int


def stepped(
    vectors: torch.Tensor, direction: torch.Tensor, total: torch.Tensor, *, step: Step
) -> tuple[torch.Tensor, torch.Tensor]:
    """V and the direction after a step against `total`, the noised sum of clipped gradients: both like `vectors`.

    Sums of normalised gradients do not shrink near an optimum, and their scale follows the number of users, which is
    private. The length of a step is therefore public; only its direction follows from the sum.
    """
    direction = step.momentum * direction + (1 - step.momentum) * total.to(direction.dtype)
    length = direction.square().mean().sqrt().clamp_min(torch.finfo(direction.dtype).tiny)
    rate = step.rate * (1 - step.done / step.rounds)
    return vectors - rate * direction / length, direction
