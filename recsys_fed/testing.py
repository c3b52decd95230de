"""What a trainer of somebody's own must keep to, tried on data made to break it: for tests of who brings one.

    from recsys_fed.testing import check_trainer

    def test_my_trainer():
        check_trainer(MyTrainer())

It tries, it does not prove: the proof that a sum has its sensitivity is the trainer's docstring.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import sparse

from recsys_fed.errors import RecsysFedError
from recsys_fed.models.histories import Histories, histories_of
from recsys_fed.trainers.trainer import PublicFacts, Stage, Tables, Trainer

# Rounding to the public grid may add so much of a clip norm, see `privacy.integer_mechanism`.
_SLACK = 2.0**-10
# Sums in another order may differ by so much of a clip norm.
_ORDER = 2.0**-20
_HASH = "0" * 64
_TRIED = 2


class ConformanceError(AssertionError):
    """A trainer does not keep to what it promises."""


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
        """Histories of lists of items."""
        rows = np.repeat(np.arange(len(users)), [len(items) for items in users])
        columns = np.array([item for items in users for item in items], dtype=np.int64)
        ones = np.ones(len(columns), dtype=np.float32)
        return histories_of(sparse.csr_matrix((ones, (rows, columns)), shape=(len(users), self.facts.n_items)))

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
    for noise_level, public in ((0.0, None), (5.0, None), (5.0, sparse.csr_matrix(features))):
        facts = PublicFacts(
            n_items=n_items,
            catalogue_hash=_HASH,
            declared_users=200,
            silos=3,
            noise_level=noise_level,
            features=public,
        )
        rng = np.random.default_rng(seed)
        users = _made_users(n_items, rng)
        _check_training(_Checked(trainer=trainer, facts=facts, rng=rng, users=users))


def _made_users(n_items: int, rng: np.random.Generator) -> list[list[int]]:
    common = [sorted(rng.choice(n_items, int(rng.integers(1, 12)), replace=False).tolist()) for _ in range(25)]
    return [*common, list(range(n_items)), [0], [n_items - 1], [], [0, n_items - 1], list(range(n_items))]


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
        noised = total + noise * torch.from_numpy(checked.rng.standard_normal(tuple(layout.shape)))
        state = trainer.step(state, stage, noised, noise_std=noise, n_silos=facts.silos)
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


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise ConformanceError(f"Expected that {what}. It does not hold.")
