"""Every method of the comparison on one simulated federation: each silo alone, with all, both, and no privacy.

What every user gets is Recall@20 and NDCG@20, and Recall@20 of test items by how frequent they are: the same full
ranking as `evaluation.protocol`, ranked once for all of these figures.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from recsys_fed import checks
from recsys_fed.comparison._ceilings import NOT_PRIVATE, pooled_ceilings
from recsys_fed.comparison._fused import Fusing
from recsys_fed.comparison.new_items import new_item_record
from recsys_fed.context import parse_contexts
from recsys_fed.data.readers.users import Attributes
from recsys_fed.data.simulated import SimulatedFederation, simulated_attributes
from recsys_fed.errors import ConfigurationError
from recsys_fed.evaluation.baselines import popularity
from recsys_fed.evaluation.metrics import (
    HEADLINE,
    HEADLINE_CUTOFF,
    HEADLINE_NAMES,
    MRR,
    NEXT,
    NEXT_CUTOFF,
    NEXT_NAMES,
    items_by_popularity,
    recall_at,
    reciprocal_rank,
)
from recsys_fed.evaluation.protocol import Scorer, are_among, score_block
from recsys_fed.evaluation.ranking import first_relevant_rank, top_items
from recsys_fed.evaluation.sequential import SEQUENTIAL_BASELINES
from recsys_fed.federation.run_files import EMBEDDINGS
from recsys_fed.models.items import ItemEmbeddings, load_item_embeddings
from recsys_fed.personalisation.choice import choose_alone, choose_on, split_folds
from recsys_fed.personalisation.next_item import (
    OwnParts,
    choose_next,
    fit_next_item_model,
    hold_out_latest,
    scorer_of_next,
)
from recsys_fed.personalisation.silo_model import Recipe, fit_silo_model, scorer_of, silo_pairs
from recsys_fed.simulation.runner import Progress, Simulation, Steps, fold_in_scorer, prepare, simulate

Floats = npt.NDArray[np.float64]
Groups = Mapping[str, npt.NDArray[np.bool_]]
Say = Callable[[str], None]
Key = tuple[float, int]
Models = Mapping[Key, ItemEmbeddings]
LISTS = "lists"
# Scores that are held at once: 16 MB in float64.
_BLOCK_SCORES = 1 << 21


def _measure_users(
    score: Scorer, excluded: sparse.csr_matrix, test: sparse.csr_matrix, groups: Groups
) -> dict[str, Floats]:
    """Metric or group -> float64 [n_users]; NaN where a user has no test item (of the group).

    Metrics are the headline ones and, of the next item, those of `NEXT_NAMES`; groups are measured by Recall@20.
    Under LISTS are the items that each of these users is recommended, float64 [n_users, 20].
    `excluded` are each user's items that are no candidates, csr [n_users, n_items]: `SimulatedFederation.excluded`.
    """
    n_users, n_items = excluded.shape
    found = {name: np.full(n_users, np.nan) for name in (*HEADLINE_NAMES, *NEXT_NAMES, *groups)}
    found[LISTS] = np.full((n_users, min(HEADLINE_CUTOFF, n_items)), np.nan)
    rows = max(1, _BLOCK_SCORES // n_items)
    for start in range(0, n_users, rows):
        block = slice(start, min(start + rows, n_users))
        if test[block].nnz:
            values = _measure_block(score_block(score, block, n_items), excluded[block], test[block], groups)
            for name, part in values.items():
                found[name][block] = part
    return found


def _measure_block(
    scores: torch.Tensor, excluded: sparse.csr_matrix, test: sparse.csr_matrix, groups: Groups
) -> dict[str, Floats]:
    # A copy is written to: scores may be one row for everybody.
    scores = scores.cpu().clone(memory_format=torch.contiguous_format)
    scores[_pairs(excluded)] = -torch.inf
    items = top_items(scores, HEADLINE_CUTOFF)
    users, relevant = _pairs(test)
    hits = are_among(items, users, relevant, n_items=scores.shape[1])
    there = torch.from_numpy(np.diff(test.indptr).astype(np.int64))
    k = HEADLINE_CUTOFF
    measured = [(metric, k) for metric in HEADLINE] + [(metric, NEXT_CUTOFF) for metric in NEXT]
    found = {metric.at(k): _where_relevant(metric.values(hits, there, k), there) for metric, k in measured}
    asked = there > 0
    rows = (asked.cumsum(0) - 1)[users]
    reciprocal = torch.full(there.shape, torch.nan, dtype=torch.float64)
    reciprocal[asked] = reciprocal_rank(first_relevant_rank(scores[asked], rows, relevant))
    found[MRR] = np.asarray(reciprocal.numpy())
    found[LISTS] = np.where(asked[:, None].numpy(), items.double().numpy(), np.nan)
    for name, members in groups.items():
        inside = torch.from_numpy(members)
        of_group = torch.bincount(users[inside[relevant]], minlength=len(items))
        found[name] = _where_relevant(recall_at(hits & inside[items], of_group, k), of_group)
    return found


def _pairs(matrix: sparse.csr_matrix) -> tuple[torch.Tensor, torch.Tensor]:
    users = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    return torch.from_numpy(users), torch.from_numpy(matrix.indices.astype(np.int64))


def _where_relevant(values: torch.Tensor, n_relevant: torch.Tensor) -> Floats:
    return np.asarray(torch.where(n_relevant > 0, values, torch.nan).numpy())


@dataclass(frozen=True, kw_only=True, eq=False)
class Line:
    """What a method gave.

    Attributes:
        method: its name.
        epsilon: the budget of every user; infinity where nothing is private or nothing is released.
        per_user: metric or group of test items -> [n_seeds, n_users] over all rows of the federation, NaN for users
            without such test items; one row for methods that no seed changes. LISTS -> [n_seeds, n_users, 20].
        note: what there is to say of it.
    """

    method: str
    epsilon: float = math.inf
    per_user: Mapping[str, Floats] = field(repr=False)
    note: str = ""


def _make_line(
    method: str, of_seeds: Sequence[Mapping[str, Floats]], *, epsilon: float = math.inf, note: str = ""
) -> Line:
    """A line from what `_measure_users` gave under each seed."""
    stacked = {name: np.stack([found[name] for found in of_seeds]) for name in of_seeds[0]}
    return Line(method=method, epsilon=epsilon, per_user=stacked, note=note)


LOCAL, GLOBAL, BOTH = "local-only", "global, user-only", "global, silo-trusted"
FUSED = f"{BOTH}, attributes"
_CHOICE = 31


def _fold_in_lines(
    federation: SimulatedFederation, models: Models, groups: Groups, *, method: str = GLOBAL
) -> Iterator[Line]:
    """Users folded in from the released model: the same in whichever silo they are."""
    excluded, test = federation.excluded, federation.test
    for epsilon, _ in _by_budget(models):
        found = [
            _measure_users(fold_in_scorer(model, federation, device="cpu"), excluded, test, groups)
            for (of, _), model in models.items()
            if of == epsilon
        ]
        yield _make_line(method, found, epsilon=epsilon, note="" if math.isfinite(epsilon) else "no privacy")


def _silo_lines(
    federation: SimulatedFederation,
    models: Models,
    groups: Groups,
    *,
    seed: int,
    say: Say,
    fusing: Fusing,
    next_item: bool = False,
) -> Iterator[Line]:
    """Local-only first, then the released model with a model of the silo's own, for each budget, and with attributes.

    What a silo takes is chosen on its train histories alone, on the same folds for all released models.
    """
    found: dict[tuple[str, Key | None], dict[str, Floats]] = {}
    n_users = federation.train.shape[0]
    for silo, users in enumerate(federation.users_of_silo):
        say(f"silo-{silo}: choosing on its own users")
        measured = _next_of_silo if next_item else partial(_of_silo, fusing=fusing)
        of_silo = measured(federation, users, models, groups, seed=[seed, _CHOICE, silo])
        for key, values in of_silo:
            for name, value in values.items():
                found.setdefault(key, {}).setdefault(name, np.full((n_users, *value.shape[1:]), np.nan))[users] = (
                    value
                )
    yield _make_line(LOCAL, [found[LOCAL, None]], note="nothing is released")
    for method in dict.fromkeys(method for method, key in found if key is not None):
        for epsilon, keys in _by_budget(models):
            yield _make_line(method, [found[method, key] for key in keys], epsilon=epsilon)


def _of_silo(
    federation: SimulatedFederation,
    users: npt.NDArray[np.int64],
    models: Models,
    groups: Groups,
    *,
    seed: list[int],
    fusing: Fusing,
) -> Iterator[tuple[tuple[str, Key | None], dict[str, Floats]]]:
    """What the users of one silo get: alone, with the model of each key, and with what is told of them beside it."""
    train, excluded, test = federation.histories.matrix()[users], federation.excluded[users], federation.test[users]
    folds = split_folds(train, rng=np.random.default_rng(seed))
    own, pairs = choose_alone(folds), silo_pairs(train)

    def measured(model: ItemEmbeddings, recipe: Recipe) -> dict[str, Floats]:
        fitted = fit_silo_model(train, model, recipe, pairs=pairs)
        return _measure_users(scorer_of(fitted, train), excluded, test, groups)

    alone: dict[str, Floats] = {}
    for number, (key, model) in enumerate(models.items()):
        if not number:
            # A recipe without pull and with all weight on the silo reads nothing of the model: any will do.
            alone = measured(model, own.recipe)
            yield (LOCAL, None), alone
        recipe = choose_on(folds, own, model).recipe
        yield (BOTH, key), alone if recipe == own.recipe else measured(model, recipe)
        if fusing:
            about = {"epsilon": key[0], "seed": key[1], "silo": seed[-1]}
            score = fusing.scorer(federation, users, folds, model, recipe, about)
            yield (FUSED, key), _measure_users(score, excluded, test, groups)


def _next_of_silo(
    federation: SimulatedFederation,
    users: npt.NDArray[np.int64],
    models: Models,
    groups: Groups,
    *,
    seed: list[int],
) -> Iterator[tuple[tuple[str, Key | None], dict[str, Floats]]]:
    """The same where the next item is asked for."""
    histories = federation.histories.rows(torch.from_numpy(users))
    excluded, test = federation.excluded[users], federation.test[users]
    held = hold_out_latest(histories, rng=np.random.default_rng(seed))
    own = OwnParts(histories) if len(histories.items) else None
    for number, (key, model) in enumerate(models.items()):
        choice = choose_next(held, model)
        # What the silo takes alone is the same whichever model it was chosen beside.
        for of, recipe in [((LOCAL, None), choice.alone)] * (not number) + [((BOTH, key), choice.recipe)]:
            score = scorer_of_next(fit_next_item_model(histories, model, recipe, own=own), histories)
            yield of, _measure_users(score, excluded, test, groups)


def _sequential_lines(federation: SimulatedFederation, groups: Groups) -> Iterator[Line]:
    """What others know of the next item from all users in one place."""
    for name, fit in SEQUENTIAL_BASELINES.items():
        found = _measure_users(fit(federation.histories), federation.excluded, federation.test, groups)
        yield _make_line(f"pooled {name}", [found], note=NOT_PRIVATE)


def _by_budget(models: Models) -> list[tuple[float, list[Key]]]:
    budgets = sorted({epsilon for epsilon, _ in models})
    return [(epsilon, [key for key in models if key[0] == epsilon]) for epsilon in budgets]


def _popularity_line(federation: SimulatedFederation, groups: Groups) -> Line:
    """Exact counts of all silos: not private."""
    score = popularity(federation.train)
    return _make_line(
        "popularity", [_measure_users(score, federation.excluded, federation.test, groups)], note="not private"
    )


def _pooled_lines(federation: SimulatedFederation, groups: Groups, *, rng: np.random.Generator) -> Iterator[Line]:
    """The ceilings; one that could not be fitted is a line without figures that says why."""
    for ceiling in pooled_ceilings(federation.train, rng=rng):
        score = ceiling.score
        test = federation.test if score is not None else sparse.csr_matrix(federation.test.shape)
        found = _measure_users(score or popularity(federation.train), federation.excluded, test, groups)
        yield _make_line(ceiling.method, [found], note=ceiling.note)


_POOLED = 32
_POPULARITY = "popularity"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What to compare.

    Attributes:
        simulation: data, silos and everything of a run but epsilon and seed.
        epsilons: budgets of the private methods.
        n_seeds: runs of each budget, which differ in start and noise; data and silos stay as they are.
        new_items: share of the items that further runs train without, to rank them by their public features; 0: none.
        context: names of contexts that count beside the score, with commas between them; see `recsys_fed.context`.
    """

    simulation: Simulation
    epsilons: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    n_seeds: int = 1
    new_items: float = 0.0
    context: str = ""

    def __post_init__(self) -> None:
        checks.at_least(1, n_epsilons=len(self.epsilons), n_seeds=self.n_seeds)
        for epsilon in self.epsilons:
            checks.positive(epsilon=epsilon)
        if self.new_items:
            checks.fraction(new_items=self.new_items)
        if parse_contexts(self.context) and self.simulation.federation.target == "next":
            raise ConfigurationError("Expected no --context with target = next, whose own model has none.")

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the runs."""
        first = self.simulation.federation.seed
        return tuple(range(first, first + self.n_seeds))


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """What came out: all lines, in the order of the table; where they were asked for, new items and attributes.

    `fusion` is what silos took of attributes and contexts, and gained; see `Fusing.records`.
    """

    comparison: Comparison
    federation: SimulatedFederation
    lines: tuple[Line, ...]
    new_items: Mapping[str, Any] | None = None
    attributes: Attributes = field(default_factory=dict)
    fusion: Sequence[Mapping[str, Any]] = ()


def prepare_comparison(comparison: Comparison) -> tuple[Comparison, SimulatedFederation]:
    """Load the data once for all runs: their seeds change start and noise, not who is in which silo."""
    given = comparison.simulation
    if given.data.data_seed < 0:
        given = replace(given, data=replace(given.data, data_seed=given.federation.seed))
    simulation, federation = prepare(given)
    return replace(comparison, simulation=simulation), federation


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
    ready, federation = prepare_comparison(comparison)
    simulation = ready.simulation
    # A table that cannot be read is refused before anything is trained.
    attributes = simulated_attributes(federation, simulation.data)
    fusing = Fusing(attributes=attributes, contexts=parse_contexts(ready.context))
    if fusing.contexts:
        fusing.told(federation.histories, np.arange(federation.train.shape[0]))
    with ExitStack() as stack:
        folder = output or Path(stack.enter_context(TemporaryDirectory(prefix="recsys-fed-compare-")))
        popularity = _with_popularity(ready)
        steps = Steps(_count_steps(ready) + len(_planned_runs(popularity)), progress)
        models = dict(train_runs(ready, folder, steps, progress))
        popular = dict(train_runs(popularity, folder, steps, progress))
        new_items = new_item_record(
            simulation, federation, share=comparison.new_items, epsilons=(*sorted(comparison.epsilons), math.inf),
            seeds=comparison.seeds, folder=folder, say=steps.begin,
        ) if comparison.new_items else None  # fmt: skip
    seed = simulation.data.data_seed
    lines = tuple(
        _all_lines(
            federation, models, popular, seed=seed, step=steps.begin, fusing=fusing,
            next_item=simulation.federation.target == "next",
        )
    )  # fmt: skip
    return Compared(
        comparison=ready, federation=federation, lines=lines, new_items=new_items, attributes=attributes,
        fusion=fusing.records,
    )  # fmt: skip


def _count_steps(comparison: Comparison) -> int:
    """Steps of a comparison, but for the runs of popularity: runs, those for new items, silos, and the baselines."""
    new = (len(comparison.epsilons) + 1) * comparison.n_seeds if comparison.new_items else 0
    return len(_planned_runs(comparison)) + new + comparison.simulation.federation.silos + 1


def _planned_runs(comparison: Comparison) -> list[Key]:
    """Epsilon and seed of every run: every budget under every seed, and one without noise."""
    wanted = [(epsilon, seed) for epsilon in sorted(comparison.epsilons) for seed in comparison.seeds]
    without_noise = comparison.simulation.federation.trainer != _POPULARITY
    return wanted + ([(math.inf, comparison.seeds[0])] if without_noise else [])


def train_runs(
    comparison: Comparison, folder: Path, steps: Steps, progress: Progress
) -> Iterator[tuple[Key, ItemEmbeddings]]:
    """The models of all planned runs, each written to a folder of its own, by epsilon and seed."""
    simulation = comparison.simulation
    trainer = simulation.federation.trainer
    for epsilon, seed in _planned_runs(comparison):
        steps.begin(f"training, {trainer}: epsilon {epsilon:g}, seed {seed}")
        config = replace(simulation.federation, epsilon=epsilon, seed=seed)
        run = folder / f"{trainer}-epsilon-{epsilon:g}-seed-{seed}"
        simulate(replace(simulation, federation=config), output=run, progress=Progress(releases=progress.releases))
        yield (epsilon, seed), load_item_embeddings(run / EMBEDDINGS)


def _with_popularity(comparison: Comparison) -> Comparison:
    """The same with the whole budget on item counts."""
    config = replace(comparison.simulation.federation, trainer=_POPULARITY, rounds=0, embedding_dim=0, dp_sgd={})
    return replace(comparison, simulation=replace(comparison.simulation, federation=config))


def _all_lines(
    federation: SimulatedFederation,
    models: Models,
    popular: Models,
    *,
    seed: int,
    step: Say,
    fusing: Fusing,
    next_item: bool,
) -> Iterator[Line]:
    """All lines; what is held out to choose follows from `seed`, as the silos do."""
    groups = items_by_popularity(federation.train)
    private = {key: model for key, model in models.items() if math.isfinite(key[0])}
    yield _popularity_line(federation, groups)
    yield from _fold_in_lines(federation, popular, groups, method="private popularity")
    local, *personal = _silo_lines(
        federation, private, groups, seed=seed, say=step, fusing=fusing, next_item=next_item
    )
    yield local
    yield from _fold_in_lines(federation, private, groups)
    yield from personal
    yield from _fold_in_lines(federation, {k: m for k, m in models.items() if k not in private}, groups)
    step("pooled baselines")
    rng = np.random.default_rng([seed, _POOLED])
    yield from _pooled_lines(federation, groups, rng=rng)
    if next_item:
        yield from _sequential_lines(federation, groups)
