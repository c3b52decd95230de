"""The per-user clipped sum by rank one against Opacus' ways to it: time and peak memory, over sizes of the catalogue.

See `ways_to_clip` for what is computed. The ways are compared before they are timed; each runs several times in a
row, they take turns, and figures are medians. A way that cannot run in a machine's memory is left out.
"""

import json
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch

from recsys_fed.models.device import use_threads
from simulations.benchmarks.line import Line
from simulations.benchmarks.peak_memory import peak_megabytes, print_peak
from simulations.benchmarks.ways_to_clip import (
    Problem,
    Way,
    embedding_ghost,
    embedding_hooks,
    one_interaction,
    random_problem,
    rank_one,
    with_ghost,
    with_hooks,
    without_clipping,
)

DIM, HISTORY = 64, 100
# By how much the rank-one form must beat the others at the smallest size: the bars are on time over theirs.
BARS = {"hooks": 1 / 100, "ghost": 1 / 20}
_LABELS = {
    "ours": "rank one",
    "hooks": "Opacus' per-sample hooks",
    "ghost": "Opacus' ghost clipping",
    "unclipped": "the unclipped sum",
}
# Calls in a row that are timed together: the steps of a round; Opacus' ways take long enough with one.
_STEPS = {"ours": 20, "unclipped": 20, "ghost": 1, "hooks": 1}
_CATALOGUE: dict[str, Way] = {
    "ours": rank_one,
    "hooks": with_hooks,
    "ghost": with_ghost,
    "unclipped": without_clipping,
}
_INTERACTION: dict[str, Way] = {"ours": one_interaction, "hooks": embedding_hooks, "ghost": embedding_ghost}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A size and its loss; `ways` that can run, how often they take turns, and whether the bars are on it."""

    n_items: int
    n_users: int
    history: int = HISTORY
    ways: tuple[str, ...] = ("ours", "ghost", "unclipped")
    turns: int = 3
    bars: bool = False

    @property
    def label(self) -> str:
        """What is measured."""
        loss = "implicit ALS" if self.history > 1 else "one interaction a sample"
        return f"{loss}, {self.n_items:,} items, {self.n_users:,} users, d={DIM}"

    @property
    def by_name(self) -> Mapping[str, Way]:
        """The ways of the loss."""
        known = _CATALOGUE if self.history > 1 else _INTERACTION
        return {name: known[name] for name in self.ways}

    def problem(self) -> Problem:
        """The users and the catalogue."""
        return random_problem(n_items=self.n_items, n_users=self.n_users, dim=DIM, history=self.history)


# Hooks hold a gradient [n_items, dim] of every user, twice: 3.6 GB for 27,000 items and 256 users.
CASES = (
    Case(n_items=3_706, n_users=1_024, ways=("ours", "hooks", "ghost", "unclipped"), turns=9, bars=True),
    Case(n_items=3_706, n_users=1_024, history=1, ways=("ours", "hooks", "ghost"), turns=9, bars=True),
    Case(n_items=27_000, n_users=256, ways=("ours", "hooks", "ghost", "unclipped")),
    Case(n_items=100_000, n_users=1_024),
    Case(n_items=1_000_000, n_users=256),
)


def clipped_sum_lines() -> list[Line]:
    """Processor times on one thread and peak memory, and what they are of the others'.

    Raises:
        ArithmeticError: the ways do not agree, so that there is nothing to compare.
    """
    use_threads(1)
    return [line for case in CASES for line in _lines(case)]


def _lines(case: Case) -> list[Line]:
    seconds = _seconds(case)
    memory = {name: peak_megabytes(__spec__.name, json.dumps([CASES.index(case), name])) for name in case.ways}
    found = []
    for name in case.ways:
        found.append(
            Line(name=f"clipped sum by {_LABELS[name]} ({case.label})", value=1e3 * seconds[name], unit="ms")
        )
        found.append(Line(name="the same: peak memory above the data", value=memory[name], unit="MB"))
    for name in case.ways[1:]:
        ratio, bar = seconds["ours"] / seconds[name], BARS.get(name) if case.bars else None
        found.append(
            Line(name=f"rank one over {_LABELS[name]}: time ({case.label})", value=ratio, unit="times", bar=bar)
        )
        found.append(Line(name="the same: memory", value=memory["ours"] / memory[name], unit="times"))
    return found


def _seconds(case: Case) -> dict[str, float]:
    """Median of the processor seconds of every way."""
    problem, ways = case.problem(), case.by_name
    expected = ways["ours"](problem).float()
    for name, way in ways.items():
        if name != "unclipped" and not torch.allclose(expected, way(problem).float(), rtol=1e-3, atol=1e-4):
            raise ArithmeticError(f"The sum by rank one differs from that by {_LABELS[name]} ({case.label}).")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(case.turns):
        for name, way in ways.items():
            seconds[name].append(_time(way, problem, steps=_STEPS[name]))
    return {name: statistics.median(values) for name, values in seconds.items()}


def _time(way: Way, problem: Problem, *, steps: int) -> float:
    """Processor seconds a call: on one thread they hardly depend on what else the machine does."""
    start = time.process_time()
    for _ in range(steps):
        way(problem)
    return (time.process_time() - start) / steps


def _child(argument: str) -> None:
    place, name = json.loads(argument)
    use_threads(1)
    case = CASES[place]
    way, problem = case.by_name[name], case.problem()
    small = random_problem(n_items=500, n_users=10, dim=DIM, history=case.history)
    print_peak(partial(way, problem), warm=partial(way, small))


if __name__ == "__main__":
    _child(sys.argv[1])
