"""The rounds of a real training as the server saw them, so that any reply can be put in the place of another."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message

from recsys_fed.federation.schedule import Schedule
from recsys_fed.simulation.flower_engine import load_apps


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round: the schedule before it, who had greeted, and the replies by node."""

    strategy: type
    schedule: Schedule
    greetings: Any
    replies: dict[int, Message]

    def answered(self, replies: list[Message]) -> tuple[dict[str, torch.Tensor], list[str]]:
        """What the server's state is after these replies, and what it says of those that it left out."""
        noted = Noted()
        strategy = self.strategy(self.schedule, noted, self.greetings, after_round=lambda _: None)
        strategy.configure_train(1, ArrayRecord(), ConfigRecord(), None)
        strategy.aggregate_train(1, replies)
        return tensors(strategy.schedule.state), noted.refused


class Noted:
    """A RunLog that keeps refusals."""

    def __init__(self) -> None:
        self.refused: list[str] = []

    def round_begun(self, asked) -> None:
        pass

    def round_done(self, released, *, bytes_down, bytes_up, refused) -> None:
        self.refused += refused


@contextmanager
def recorded_rounds() -> Iterator[list[Round]]:
    """Rounds of the trainings inside the block."""
    names = load_apps()[0]._main.__globals__
    strategy, rounds = names["TrainerStrategy"], list[Round]()

    class Recording(strategy):
        def aggregate_train(self, server_round, replies):
            there = list(replies)
            by_node = {reply.metadata.src_node_id: reply for reply in there}
            rounds.append(
                Round(strategy=strategy, schedule=self.schedule, greetings=self._greetings, replies=by_node)
            )
            return super().aggregate_train(server_round, there)

    names["TrainerStrategy"] = Recording
    try:
        yield rounds
    finally:
        names["TrainerStrategy"] = strategy


def tensors(state: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    """All tensors of a trainer's state by dotted name."""
    found: dict[str, torch.Tensor] = {}
    for declared in fields(state):
        value = getattr(state, declared.name)
        if isinstance(value, torch.Tensor):
            found[prefix + declared.name] = value
        elif is_dataclass(value):
            found |= tensors(value, f"{prefix}{declared.name}.")
    return found


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two states are equal to the last bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
