"""What is known of each interaction besides that it was: its place in the user's order, time, value and weight.

A trainer says which of them it reads (`Trainer.reads`); a silo makes and holds those alone, and those alone that its
data has. No data has what none is asked for.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from recsys_fed.errors import ConfigurationError

Signal = Literal["order", "time", "value", "weight"]
# What most trainers read.
NOTHING: frozenset[Signal] = frozenset()


@dataclass(frozen=True, kw_only=True, eq=False)
class Signals:
    """Columns beside `Histories.items`, each [n_interactions]; None: nobody reads it, or the data has none.

    Which of them are there follows from the trainer and from which columns the silo's source has, never from a row.

    Attributes:
        rank: place in the user's own order, int32: 0 is the earliest, and none is left out. By time; of equal times
            as in the source; interactions without a time, as in the source, are before all others.
        time: nanoseconds since 1970, int64; `data.interactions.MISSING_TIME` where an interaction has none. Positions
            are no times: they are in `rank` alone.
        value: a rating or a count, float32; NaN where an interaction has none.
        weight: what the kind of the interaction counts, float32.
    """

    rank: torch.Tensor | None = None
    time: torch.Tensor | None = None
    value: torch.Tensor | None = None
    weight: torch.Tensor | None = None

    def __post_init__(self) -> None:
        sizes = {name: tuple(column.shape) for name, column in self.columns().items()}
        if len(set(sizes.values())) > 1:
            raise ConfigurationError(f"Expected signals of the same interactions, got {sizes}.")

    def columns(self) -> Mapping[str, torch.Tensor]:
        """Those that are there, by name."""
        there = {"rank": self.rank, "time": self.time, "value": self.value, "weight": self.weight}
        return {name: column for name, column in there.items() if column is not None}

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Signals":
        """The signals after `change` of every column."""
        return Signals(**{name: change(column) for name, column in self.columns().items()})
