"""Run every method of the comparison on one simulated federation."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from recsys_fed import checks
from recsys_fed.comparison.lines import Line
from recsys_fed.comparison.measuring import item_groups
from recsys_fed.comparison.new_items import new_item_record
from recsys_fed.comparison.personal import fold_in_lines, silo_lines
from recsys_fed.comparison.pooled import pooled_lines, popularity_line
from recsys_fed.data.simulated import SimulatedFederation
from recsys_fed.federation.run_files import EMBEDDINGS
from recsys_fed.models.items import ItemEmbeddings, load_item_embeddings
from recsys_fed.simulation.progress import Progress, Steps
from recsys_fed.simulation.runner import Simulation, prepared, simulate

_POOLED = 32
POPULARITY = "popularity"
Say = Callable[[str], None]
Models = Mapping[tuple[float, int], ItemEmbeddings]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What to compare.

    Attributes:
        simulation: data, silos and everything of a run but epsilon and seed.
        epsilons: budgets of the private methods.
        n_seeds: runs of each budget, which differ in start and noise; data and silos stay as they are.
        new_items: share of the items that further runs train without, to rank them by their public features; 0: none.
    """

    simulation: Simulation
    epsilons: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    n_seeds: int = 1
    new_items: float = 0.0

    def __post_init__(self) -> None:
        checks.at_least(1, n_epsilons=len(self.epsilons), n_seeds=self.n_seeds)
        for epsilon in self.epsilons:
            checks.positive(epsilon=epsilon)
        if self.new_items:
            checks.fraction(new_items=self.new_items)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the runs."""
        first = self.simulation.federation.seed
        return tuple(range(first, first + self.n_seeds))


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """What came out: all lines, in the order of the table, and the record of new items, where they were asked for."""

    comparison: Comparison
    federation: SimulatedFederation
    lines: tuple[Line, ...]
    new_items: Mapping[str, Any] | None = None


def compare(comparison: Comparison, *, output: Path | None = None, progress: Progress | None = None) -> Compared:
    """Train, fit and measure everything.

    Every private model is the outcome of a whole simulated run, with its ledgers and certificates.

    Args:
        comparison: what to compare.
        output: folder for the runs, each as `simulate` leaves it; they are not kept without it.
        progress: is told of every run, every silo and the pooled baselines.

    Raises:
        RecsysFedError: see `simulate`.
    """
    progress = progress or Progress()
    given = comparison.simulation
    if given.data.data_seed < 0:
        given = replace(given, data=replace(given.data, data_seed=given.federation.seed))
    simulation, federation = prepared(given)
    with ExitStack() as stack:
        folder = output or Path(stack.enter_context(TemporaryDirectory(prefix="recsys-fed-compare-")))
        ready = replace(comparison, simulation=simulation)
        popularity = _with_popularity(ready)
        steps = Steps(_planned(ready) + len(_runs(popularity)), progress)
        models = dict(_trained(ready, folder, steps, progress))
        popular = dict(_trained(popularity, folder, steps, progress))
        new_items = new_item_record(
            simulation, federation, share=comparison.new_items, epsilons=(*sorted(comparison.epsilons), math.inf),
            seeds=comparison.seeds, folder=folder, say=steps.begin,
        ) if comparison.new_items else None  # fmt: skip
    seed = simulation.data.data_seed
    lines = tuple(_lines(federation, models, popular, seed=seed, step=steps.begin, say=progress.say))
    return Compared(comparison=comparison, federation=federation, lines=lines, new_items=new_items)


def _planned(comparison: Comparison) -> int:
    """Steps of a comparison, but for the runs of popularity: runs, those for new items, silos, and the baselines."""
    new = (len(comparison.epsilons) + 1) * comparison.n_seeds if comparison.new_items else 0
    return len(_runs(comparison)) + new + comparison.simulation.federation.silos + 1


def _runs(comparison: Comparison) -> list[tuple[float, int]]:
    """Epsilon and seed of every run: every budget under every seed, and one without noise."""
    wanted = [(epsilon, seed) for epsilon in sorted(comparison.epsilons) for seed in comparison.seeds]
    without_noise = comparison.simulation.federation.trainer != POPULARITY
    return wanted + ([(math.inf, comparison.seeds[0])] if without_noise else [])


def _trained(
    comparison: Comparison, folder: Path, steps: Steps, progress: Progress
) -> Iterator[tuple[tuple[float, int], ItemEmbeddings]]:
    simulation = comparison.simulation
    trainer = simulation.federation.trainer
    for epsilon, seed in _runs(comparison):
        steps.begin(f"training, {trainer}: epsilon {epsilon:g}, seed {seed}")
        config = replace(simulation.federation, epsilon=epsilon, seed=seed)
        run = folder / f"{trainer}-epsilon-{epsilon:g}-seed-{seed}"
        simulate(replace(simulation, federation=config), output=run, progress=Progress(releases=progress.releases))
        yield (epsilon, seed), load_item_embeddings(run / EMBEDDINGS)


def _with_popularity(comparison: Comparison) -> Comparison:
    """The same with the whole budget on item counts."""
    config = replace(comparison.simulation.federation, trainer=POPULARITY, rounds=0, embedding_dim=0, dp_sgd={})
    return replace(comparison, simulation=replace(comparison.simulation, federation=config))


def _lines(
    federation: SimulatedFederation, models: Models, popular: Models, *, seed: int, step: Say, say: Say
) -> Iterator[Line]:
    """All lines; what is held out to choose follows from `seed`, as the silos do."""
    groups = item_groups(federation.train)
    private = {key: model for key, model in models.items() if math.isfinite(key[0])}
    yield popularity_line(federation, groups)
    yield from fold_in_lines(federation, popular, groups, method="private popularity")
    local, *personal = silo_lines(federation, private, groups, seed=seed, say=step)
    yield local
    yield from fold_in_lines(federation, private, groups)
    yield from personal
    yield from fold_in_lines(federation, {k: m for k, m in models.items() if k not in private}, groups)
    step("pooled baselines")
    rng = np.random.default_rng([seed, _POOLED])
    yield from pooled_lines(federation, groups, rng=rng, say=say)
