"""What trainers, metrics and sources of somebody's own must keep to, tried on data made to break it.

    from recsys_fed.testing import check_metric, check_source, check_trainer

    def test_what_i_bring(tmp_path):
        check_trainer(MyTrainer())
        check_metric(MY_METRIC, cases=[([[True, False]], [1], 2, [1.0])])
        check_source(MY_FORMAT, write_small_file(tmp_path), rows=[("ada", "tea", None, None)])

It tries, it does not prove: the proof that a sum has its sensitivity is the trainer's docstring.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from recsys_fed.data.interactions import MISSING_TIME
from recsys_fed.data.sources import Request, Source
from recsys_fed.errors import RecsysFedError
from recsys_fed.evaluation.metrics import Metric
from recsys_fed.models.histories import Histories, Signal, Signals, histories_of
from recsys_fed.trainers.trainer import PublicFacts, Stage, Tables, Trainer

# Rounding to the public grid may add so much of a clip norm, see `privacy.integer_mechanism`.
_SLACK = 2.0**-10
# Sums in another order may differ by so much of a clip norm.
_ORDER = 2.0**-20
_HASH = "0" * 64
_TRIED = 2
_NEAR = 1e-12


class ConformanceError(AssertionError):
    """A trainer, a metric or a source does not keep to what it promises."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Blocks:
    """Histories that come in blocks of a few users."""

    whole: Histories
    users_a_block: int

    @property
    def n_users(self) -> int:
        return self.whole.n_users

    @property
    def n_items(self) -> int:
        return self.whole.n_items

    @property
    def device(self) -> torch.device:
        return self.whole.device

    def blocks(self) -> Iterator[Histories]:
        for first in range(0, self.n_users, self.users_a_block):
            yield self.whole.block(first, min(first + self.users_a_block, self.n_users))

    def subset(self, chosen: torch.Tensor) -> "_Blocks":
        return _Blocks(whole=self.whole.subset(chosen), users_a_block=self.users_a_block)


@dataclass(kw_only=True)
class _Checked:
    """One trainer under one set of public facts, and the users that it is tried on."""

    trainer: Trainer
    facts: PublicFacts
    rng: np.random.Generator
    users: Sequence[Sequence[int]] = field(default_factory=list)

    def histories(self, users: Sequence[Sequence[int]]) -> Histories:
        """Histories of ascending lists of items, where the next one is asked for with the odd ones first."""
        rows = np.repeat(np.arange(len(users)), [len(items) for items in users])
        columns = np.array([item for items in users for item in items], dtype=np.int64)
        ones = np.ones(len(columns), dtype=np.float32)
        matrix = sparse.csr_matrix((ones, (rows, columns)), shape=(len(users), self.facts.n_items))
        order: frozenset[Signal] = frozenset({"order"} if self.facts.next_item else ())
        return histories_of(matrix, signals=_make_signals(users, self.trainer.reads | order))

    def contribution(
        self, stage: Stage, tables: Tables, users: Sequence[Sequence[int]], *, block: int = 0, refusals: bool = False
    ) -> torch.Tensor:
        """The trainer's sum over users, perhaps read in blocks; zeros where it refuses, if `refusals` are allowed."""
        whole = self.histories(users)
        histories = _Blocks(whole=whole, users_a_block=block) if block else whole
        settings = {**stage.settings, "l2_clip_norm": stage.l2_clip_norm}
        try:
            return self.trainer.contribution(stage.name, tables, histories, settings=settings)
        except RecsysFedError:
            if not refusals:
                raise
            # A silo whose sum fails answers with the noise of nobody.
            return torch.zeros(self.trainer.layout(self.facts, stage).shape, dtype=torch.float64)


def check_trainer(trainer: Trainer, *, n_items: int = 30, seed: int = 0) -> None:
    """Try both halves of a trainer.

    Sensitivity on neighbouring data (users with one item, with all, with rare ones, with nothing; under the tables
    that the server makes and under hostile ones), independence of the order of users and of blocks, silos without
    users, shapes, repetition, and the model at the end.

    Args:
        trainer: the object; it is not changed.
        n_items: rows of the catalogue that is made up for it.
        seed: of the data.

    Raises:
        ConformanceError: says what does not hold.
    """
    _expect(bool(trainer.name) and trainer.name == trainer.name.strip(), "a trainer has a name")
    features = sparse.random_array((n_items, 6), density=0.3, rng=seed, format="csr", dtype=np.float64)
    public = sparse.csr_matrix(features)
    for noise_level, known, next_item in (
        (0.0, None, False),
        (5.0, None, False),
        (5.0, public, False),
        (5.0, public, True),
    ):
        facts = PublicFacts(
            n_items=n_items,
            catalogue_hash=_HASH,
            declared_users=200,
            silos=3,
            noise_level=noise_level,
            features=known,
            next_item=next_item,
        )
        rng = np.random.default_rng(seed)
        users = _make_users(n_items, rng)
        _check_training(_Checked(trainer=trainer, facts=facts, rng=rng, users=users))


def _make_users(n_items: int, rng: np.random.Generator) -> list[list[int]]:
    common = [sorted(rng.choice(n_items, int(rng.integers(1, 12)), replace=False).tolist()) for _ in range(25)]
    return [*common, list(range(n_items)), [0], [n_items - 1], [], [0, n_items - 1], list(range(n_items))]


def _make_signals(users: Sequence[Sequence[int]], reads: frozenset[Signal]) -> Signals | None:
    """What a trainer reads besides items, a function of each user's own: ordinary values, and some that are not."""
    if not reads:
        return None
    columns = [_signals_of_user(tuple(items)) for items in users]
    named = {"order": "rank", "time": "time", "value": "value", "weight": "weight"}
    there = {named[signal]: np.concatenate([*(column[named[signal]] for column in columns), []]) for signal in reads}
    kinds = {"rank": np.int32, "time": np.int64, "value": np.float32, "weight": np.float32}
    return Signals(**{name: torch.from_numpy(column.astype(kinds[name])) for name, column in there.items()})


@lru_cache(maxsize=256)
def _signals_of_user(items: tuple[int, ...]) -> dict[str, npt.NDArray[Any]]:
    """The same users are asked for again and again, one of them more or less."""
    rng = np.random.default_rng([len(items), *items])
    return {
        "rank": rng.permutation(len(items)),
        "time": rng.choice([MISSING_TIME, 0, 10**18], len(items)),
        "value": rng.choice([1, 2, 3, 4, 5, 0, -7, np.nan, 1e30, -1e30], len(items)),
        "weight": rng.choice([1, 0.5, 0.1, 0, -2, np.nan, np.inf, 1e30], len(items)),
    }


def _check_training(checked: _Checked) -> None:
    """Every stage of a training, in order, with the state that the server then has."""
    trainer, facts = checked.trainer, checked.facts
    stages = trainer.plan(facts)
    _expect(len(stages) > 0, "a plan has at least one stage")
    _expect(trainer.plan(facts) == stages, "equal facts give equal plans")
    state = trainer.start(facts, np.random.default_rng(0))
    tried: Counter[str] = Counter()
    for stage in stages:
        tables = trainer.tables(state, stage)
        layout = trainer.layout(facts, stage)
        _expect(set(tables) == set(layout.tables), f"stage {stage.name!r} reads the tables of its layout")
        if stage.noise_inside:
            total = torch.zeros(layout.shape, dtype=torch.float64)
        else:
            total = checked.contribution(stage, tables, checked.users)
        tried[stage.name] += 1
        # Stages of one name are one computation: under the first tables and, once, under later ones.
        if not stage.noise_inside and tried[stage.name] <= _TRIED:
            _check_sum(checked, stage, tables, total)
            for hostile in _hostile(tables, checked.rng):
                _check_sensitivity(checked, stage, hostile, what="a lying server's tables", refusals=True)
        noise = float(facts.noise_level) * stage.l2_clip_norm
        noisy = total + noise * torch.from_numpy(checked.rng.standard_normal(tuple(layout.shape)))
        state = trainer.step(state, stage, noisy, noise_std=noise, n_silos=facts.silos)
    model = trainer.item_embeddings(state)
    _expect(model.n_items == facts.n_items, "the model has a row for each item of the catalogue")
    _expect(model.catalogue_hash == facts.catalogue_hash, "the model names its catalogue")


def _check_sum(checked: _Checked, stage: Stage, tables: Tables, total: torch.Tensor) -> None:
    """What a silo half must be, whatever it computes."""
    name, users = stage.name, list(checked.users)
    _expect(total.dtype == torch.float64, f"the sum of {name!r} is float64")
    shape = checked.trainer.layout(checked.facts, stage).shape
    _expect(tuple(total.shape) == tuple(shape), f"the sum of {name!r} has the shape of its layout")
    _expect(bool(total.isfinite().all()), f"the sum of {name!r} is finite")
    _expect(torch.equal(checked.contribution(stage, tables, users), total), f"{name!r} gives equal sums twice")
    near = _ORDER * stage.l2_clip_norm
    shuffled = [users[row] for row in checked.rng.permutation(len(users))]
    moved = float((checked.contribution(stage, tables, shuffled) - total).norm())
    _expect(moved <= near, f"the order of users does not change the sum of {name!r}")
    for block in (1, 3):
        moved = float((checked.contribution(stage, tables, users, block=block) - total).norm())
        _expect(moved <= near, f"blocks of {block} users give the sum of {name!r}")
    empty = checked.contribution(stage, tables, [])
    _expect(tuple(empty.shape) == tuple(shape) and not empty.any(), f"a silo without users adds zeros to {name!r}")
    _check_sensitivity(checked, stage, tables, what="the server's tables")


def _check_sensitivity(checked: _Checked, stage: Stage, tables: Tables, *, what: str, refusals: bool = False) -> None:
    """One user more or less moves the sum by a clip norm at most, at each place among the others."""
    users = list(checked.users)
    whole = checked.contribution(stage, tables, users, refusals=refusals)
    for row in range(len(users)):
        without = checked.contribution(stage, tables, users[:row] + users[row + 1 :], refusals=refusals)
        moved = float((whole - without).norm())
        holds = moved <= stage.l2_clip_norm * (1 + _SLACK)
        _expect(
            holds,
            f"one user moves the sum of {stage.name!r} by at most its clip norm {stage.l2_clip_norm:g} "
            f"(a user with {len(users[row])} of {checked.facts.n_items} items moves it by {moved:.6g}, with {what})",
        )


def _hostile(tables: Tables, rng: np.random.Generator) -> Iterator[Tables]:
    """The same tables with huge, tiny, equal and empty content; rows of the catalogue stay rows of it."""
    changed = [name for name, table in tables.items() if table.dtype.is_floating_point]
    if not changed:
        return
    for scale in (1e30, 1e-30, 0.0):
        yield {**tables, **{name: torch.full_like(tables[name], scale) for name in changed}}
    for scale in (1.0, 1e18):
        drawn = {name: torch.from_numpy(scale * rng.standard_normal(tuple(tables[name].shape))) for name in changed}
        yield {**tables, **{name: table.to(tables[name].dtype) for name, table in drawn.items()}}


def check_metric(
    metric: Metric,
    *,
    cases: Sequence[tuple[Sequence[Sequence[bool]], Sequence[int], int, Sequence[float]]],
    seed: int = 0,
) -> None:
    """Try a metric of lists.

    Its range; that a user's value is that of the user alone, so that neither the order of users nor who else is there
    changes it and the sums of silos add up to the sum of all; that only the first k places count, and that a list
    that is too short is one filled with misses; and the small cases of its author.

    Args:
        metric: the object.
        cases: hits of each user's list, number of each user's test items, k, and the value of each user by the
            definition; at least one.
        seed: of the lists that it is tried on.

    Raises:
        ConformanceError: says what does not hold.
    """
    _expect(metric.name.isidentifier(), "a metric has a name such as my_metric")
    _expect(bool(cases), "a metric comes with cases worked out by hand")
    for lists, numbers, k, values in cases:
        found = metric.values(torch.tensor(lists, dtype=torch.bool), torch.tensor(numbers), k)
        _expect(found.dtype == torch.float64, f"{metric.at(k)} is float64")
        right = torch.tensor(values, dtype=torch.float64)
        what = f"{metric.at(k)} of {lists} with {numbers} test items is {values} (it is {found.tolist()})"
        _expect(found.shape == right.shape and bool(torch.allclose(found, right, rtol=0, atol=_NEAR)), what)
    rng = np.random.default_rng(seed)
    for n_users, length, density in ((40, 20, 0.1), (40, 20, 0.6), (7, 5, 0.0), (7, 5, 1.0), (1, 1, 1.0)):
        hits = torch.from_numpy(rng.random((n_users, length)) < density)
        n_relevant = torch.from_numpy(rng.integers(0, 30, n_users)) + hits.sum(1).clamp(min=1)
        for k in (1, length, length + 7):
            _check_values(metric, hits, n_relevant, k, rng)


def _check_values(
    metric: Metric, hits: torch.Tensor, n_relevant: torch.Tensor, k: int, rng: np.random.Generator
) -> None:
    name, values = metric.at(k), metric.values(hits, n_relevant, k)
    _expect(values.dtype == torch.float64 and values.shape == n_relevant.shape, f"{name} is float64, one a user")
    _expect(bool(((values >= 0) & (values <= 1)).all()), f"{name} is from 0 to 1")
    _expect(torch.equal(metric.values(hits, n_relevant, k), values), f"{name} gives equal values twice")

    def same(others: torch.Tensor, own: torch.Tensor, what: str) -> None:
        _expect(others.shape == own.shape and bool(torch.allclose(others, own, rtol=0, atol=_NEAR)), what)

    order = torch.from_numpy(rng.permutation(len(hits)))
    same(metric.values(hits[order], n_relevant[order], k), values[order], f"{name} does not depend on users' order")
    alone = torch.cat([metric.values(hits[row : row + 1], n_relevant[row : row + 1], k) for row in range(len(hits))])
    same(alone, values, f"{name} of a user does not depend on the others, so that sums of silos add up")
    same(metric.values(hits[:, :k], n_relevant, k), values, f"{name} looks at the first {k} places only")
    filled = torch.nn.functional.pad(hits, (0, max(0, k - hits.shape[1])))
    same(metric.values(filled, n_relevant, k), values, f"{name} takes a list that is too short as filled with misses")
    _expect(metric.values(hits[:0], n_relevant[:0], k).shape == (0,), f"{name} of nobody is empty")


def check_source(
    source: Source,
    path: Path,
    *,
    rows: Sequence[tuple[str, str, float | None, int | None]],
    split: str | None = None,
) -> None:
    """Try a format on a small file or folder of it.

    Twice the same interactions; ids that are unique and in the catalogue; rows with their values and times in the
    order of the file; a report that adds up; and a path of another format that is left alone.

    Args:
        source: the object.
        path: of the small file or folder.
        rows: what it holds, in its order: user, item, value or None, nanoseconds since 1970 or None.
        split: one of the splits that come with it.

    Raises:
        ConformanceError: says what does not hold.
    """
    _expect(bool(source.name and source.layout), "a source has a name and says what its layout is")
    _expect(source.matches(path), f"{source.name} recognises {path}")
    for other in (path.parent / "not-there", Path(__file__)):
        _expect(not source.matches(other), f"{source.name} leaves {other} alone")
    first, second = (source.read(Request(path=path, split=split)) for _ in range(2))
    found = first.interactions
    for name in ("user", "item", "value", "time", "weight", "user_ids", "item_ids"):
        one, two = getattr(found, name), getattr(second.interactions, name)
        same = one is two if one is None or two is None else np.array_equal(one, two, equal_nan=one.dtype.kind == "f")
        _expect(same, f"{source.name} reads the same {name} twice")
    _expect(first.catalogue.content_hash == second.catalogue.content_hash, f"{source.name} has one catalogue")
    for what, ids in (("user", found.user_ids.tolist()), ("item", found.item_ids.tolist())):
        _expect(len(set(ids)) == len(ids), f"{what} ids of {source.name} are unique")
        _expect(all(isinstance(one, str) for one in ids), f"{what} ids of {source.name} are texts")
    _expect(set(found.item_ids.tolist()) <= set(first.catalogue.item_ids.tolist()), "every item is in the catalogue")
    _expect(first.report.n_kept == len(found), f"the report of {source.name} counts the rows that are kept")
    _expect(len(found) == len(rows), f"{source.name} reads {len(rows)} rows (it reads {len(found)})")
    for place, (user, item, value, time) in enumerate(rows):
        pair = str(found.user_ids[found.user[place]]), str(found.item_ids[found.item[place]])
        _expect(pair == (user, item), f"row {place} of {source.name} is of {(user, item)} (it is of {pair})")
        if value is not None:
            kept = found.value is not None and bool(np.isclose(found.value[place], value))
            _expect(kept, f"row {place} of {source.name} has the value {value}")
        if time is not None:
            _expect(found.time is not None and int(found.time[place]) == time, f"row {place} has the time {time}")


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise ConformanceError(f"This does not hold: {what}.")
