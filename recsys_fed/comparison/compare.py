"""Run every method of the comparison on one simulated federation."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from scipy import sparse

from recsys_fed import checks
from recsys_fed.comparison.lines import Line, averaged, measured_by_silo
from recsys_fed.data.simulated import SimulatedFederation, simulated_federation
from recsys_fed.evaluation.baselines import ease, popularity
from recsys_fed.evaluation.scorer import Scorer
from recsys_fed.federation.outcome import EMBEDDINGS
from recsys_fed.models.items import ItemEmbeddings, load_item_embeddings
from recsys_fed.personalisation.choice import choose
from recsys_fed.personalisation.silo_model import Recipe, fit_silo_model, scorer_of
from recsys_fed.simulation.runner import Simulation, simulate

_CHOICE = 31
LARGEST_EASE = 20_000
"""Catalogues above this have no ceiling by EASE, which inverts a matrix of that size."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What to compare.

    Attributes:
        simulation: data, silos and everything of a run but epsilon and seed.
        epsilons: budgets of the private methods.
        seeds: of silos, start and noise; every figure is the mean over them, user by user.
        personal: also what silos get by a model of their own on top.
    """

    simulation: Simulation
    epsilons: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    seeds: tuple[int, ...] = (0,)
    personal: bool = True

    def __post_init__(self) -> None:
        checks.at_least(1, n_epsilons=len(self.epsilons), n_seeds=len(self.seeds))
        for epsilon in self.epsilons:
            checks.positive_or_inf(epsilon=epsilon)


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """What came out.

    Attributes:
        federation: of the first seed.
        first: lines of the first seed, for what is told silo by silo.
        lines: of all seeds together, averaged user by user.
        spreads: by method and budget, the standard deviation over seeds of mean recall@20.
    """

    federation: SimulatedFederation
    first: Sequence[Line]
    lines: Sequence[Line]
    spreads: Mapping[tuple[str, float], float]


def compare(comparison: Comparison, *, say: Callable[[str], None] = lambda _: None) -> Compared:
    """Train, fit and measure everything, seed by seed; silos, start, noise and random splits change with it."""
    simulation, of_seed = comparison.simulation, []
    for seed in comparison.seeds:
        config = replace(simulation.federation, seed=seed)
        federation = simulated_federation(simulation.data, silos=config.silos, seed=seed)
        of_this = replace(simulation, federation=config)
        of_seed.append(list(_lines(of_this, federation, comparison, say=say)))
    lines = [list(lines) for lines in zip(*of_seed, strict=True)]
    config = replace(simulation.federation, seed=comparison.seeds[0])
    return Compared(
        federation=simulated_federation(simulation.data, silos=config.silos, seed=config.seed),
        first=of_seed[0],
        lines=[averaged(group) for group in lines],
        spreads={
            (group[0].method, group[0].epsilon): float(np.std([np.nanmean(x.per_user["recall@20"]) for x in group]))
            for group in lines
        },
    )


def _lines(
    simulation: Simulation, federation: SimulatedFederation, comparison: Comparison, *, say: Callable[[str], None]
) -> Iterator[Line]:
    """Every line of one seed, in the order of the table."""
    yield _same_for_all("popularity", federation, popularity(federation.train), note="not private")
    models = {}
    for epsilon in comparison.epsilons:
        say(f"seed {simulation.federation.seed}, epsilon {epsilon:g}: training")
        models[epsilon] = _trained(simulation, epsilon=epsilon)
        per_user, groups = measured_by_silo(federation, partial(_by_bias, models[epsilon]))
        yield Line(method="private popularity", epsilon=epsilon, per_user=per_user, by_popularity=groups)
    for epsilon, model in models.items():
        if comparison.personal:
            say(f"seed {simulation.federation.seed}, epsilon {epsilon:g}: silos choose")
        yield from _of_model(model, federation, epsilon=epsilon, seed=simulation.federation.seed,
                             personal=comparison.personal, local=epsilon == comparison.epsilons[0])  # fmt: skip
    if federation.train.shape[1] <= LARGEST_EASE:
        yield _same_for_all("pooled, EASE", federation, ease(federation.train), note="no privacy, all in one place")
    say(f"seed {simulation.federation.seed}: training without noise")
    unbounded = _trained(simulation, epsilon=math.inf)
    per_user, groups = measured_by_silo(federation, partial(_personal, unbounded, Recipe(own_weight=0.0), 0))
    yield Line(method="global", per_user=per_user, by_popularity=groups, note="no privacy")


def _of_model(
    model: ItemEmbeddings, federation: SimulatedFederation, *, epsilon: float, seed: int, personal: bool, local: bool
) -> Iterator[Line]:
    """The released model in every silo, by itself and with what the silo adds; `local`: and the silo alone."""
    if personal:
        choices = [
            choose(federation.train[users], model, rng=np.random.default_rng([seed, _CHOICE, silo]))
            for silo, users in enumerate(federation.users_of_silo)
        ]
        if local:
            found = measured_by_silo(federation, _chosen(model, [choice.best_local for choice in choices], seed))
            yield Line(method="local-only", per_user=found[0], by_popularity=found[1], note="nothing is released")
    per_user, groups = measured_by_silo(federation, partial(_personal, model, Recipe(own_weight=0.0), seed))
    yield Line(method="global, user-only", epsilon=epsilon, per_user=per_user, by_popularity=groups)
    if personal:
        found = measured_by_silo(federation, _chosen(model, [choice.recipe for choice in choices], seed))
        yield Line(method="global, silo-trusted", epsilon=epsilon, per_user=found[0], by_popularity=found[1])


def _chosen(model: ItemEmbeddings, recipes: Sequence[Recipe], seed: int) -> Callable[..., Scorer]:
    def score(silo: int, train: sparse.csr_matrix) -> Scorer:
        return _personal(model, recipes[silo], seed, silo, train)

    return score


def _personal(model: ItemEmbeddings, recipe: Recipe, seed: int, silo: int, train: sparse.csr_matrix) -> Scorer:
    rng = np.random.default_rng([seed, _CHOICE, silo, 1])
    return scorer_of(fit_silo_model(train, model, recipe, rng=rng), train)


def _by_bias(model: ItemEmbeddings, _silo: int, train: sparse.csr_matrix) -> Scorer:
    """The bias is ordered as the noised counts are."""
    bias = model.bias.double()
    return lambda rows: bias.expand(len(range(train.shape[0])[rows]), len(bias))


def _same_for_all(method: str, federation: SimulatedFederation, score: Scorer, *, note: str) -> Line:
    """A scorer of all rows of the federation, asked silo by silo."""

    def of_silo(silo: int, train: sparse.csr_matrix) -> Scorer:
        users = federation.users_of_silo[silo]
        return lambda rows: torch.cat([score(slice(row, row + 1)) for row in users[rows].tolist()])

    per_user, groups = measured_by_silo(federation, of_silo)
    return Line(method=method, per_user=per_user, by_popularity=groups, note=note)


def _trained(simulation: Simulation, *, epsilon: float) -> ItemEmbeddings:
    config = replace(simulation.federation, epsilon=epsilon)
    with TemporaryDirectory(prefix="recsys-fed-compare-") as folder:
        simulate(replace(simulation, federation=config, evaluate_users=1), output=Path(folder))
        return load_item_embeddings(Path(folder) / EMBEDDINGS)
