"""What a trainer is: a plan of releases, the half that runs in a silo and the half that runs on the server.

    server: start -> tables(state) --request--> silo: contribution --clip, noise, grid--> server: step(state, sum)

A trainer sees arrays only. Its server half never sees a user, its silo half never adds noise (but for
stages that say so), and neither knows about transport, ledger or other silos.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from scipy import sparse

from recsys_fed import checks
from recsys_fed.errors import ConfigurationError
from recsys_fed.models.histories import NOTHING, Signal, UserHistories
from recsys_fed.models.items import ItemEmbeddings
from recsys_fed.privacy.events import PlannedRelease
from recsys_fed.privacy.integer_mechanism import IntegerMechanism
from recsys_fed.privacy.noise import NoiseSource
from recsys_fed.trainers.pooling import ReleasedTable

Tables = Mapping[str, torch.Tensor]
# Taken for the interactions of a user where nobody says how many they are.
_INTERACTIONS = 50


@dataclass(frozen=True, kw_only=True, eq=False)
class EarlierTraining:
    """What an earlier training of the federation has released, over the rows of today's catalogue.

    Attributes:
        releases: of its stages that are `kept`, in order.
        vectors: of its model, float32 [n_items, embedding_dim]; of items that it did not know, zero.
    """

    releases: tuple[ReleasedTable, ...]
    vectors: torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class PublicFacts:
    """All that a trainer may base its choices on; none of it depends on private data.

    Attributes:
        n_items: rows of the catalogue.
        catalogue_hash: its content hash.
        declared_users: public order of magnitude of the users of all silos together.
        declared_interactions: public order of magnitude of the interactions of one user; 0 where nobody says.
        silos: how many silos take part.
        noise_level: standard deviation of the noise on the sum over silos, over the sensitivity, if the
            whole budget went into one release: 0 without privacy, times sqrt(n_silos) if every silo adds its own.
        features: public item features, csr [n_items, n_features], or None.
        embedding_dim: asked for, or 0 for the trainer's own rule.
        rounds: asked for, or 0 for the trainer's own rule.
        next_item: whether the model is to answer which item comes next.
        order: asked for: half-life in positions with which interactions of a user count as together, 0 for no order;
            None for the trainer's own rule.
        earlier_trainings: how many trainings of the federation came before, each with a budget like this one's.
        earlier: what they have released, oldest first. Only the server has it: plan and layout must not read it.
    """

    n_items: int
    catalogue_hash: str
    declared_users: int
    silos: int
    noise_level: float
    features: sparse.csr_matrix | None = None
    embedding_dim: int = 0
    rounds: int = 0
    next_item: bool = False
    order: float | None = None
    declared_interactions: int = 0
    earlier_trainings: int = 0
    earlier: tuple[EarlierTraining, ...] = ()

    def __post_init__(self) -> None:
        checks.at_least(0, earlier_trainings=self.earlier_trainings)
        checks.at_least(1, n_items=self.n_items, declared_users=self.declared_users, silos=self.silos)
        checks.at_least(0, embedding_dim=self.embedding_dim, rounds=self.rounds)
        checks.at_least(0, declared_interactions=self.declared_interactions)
        checks.non_negative(noise_level=self.noise_level)

    @property
    def declared_users_of_silo(self) -> int:
        """Public order of magnitude of the users of one silo."""
        return max(1, self.declared_users // self.silos)

    @property
    def signal_to_noise(self) -> float:
        """Users to the noise of a single release, pooled with those of earlier trainings; infinite without noise."""
        if not self.noise_level:
            return float("inf")
        return self.declared_users / self.noise_level * math.sqrt(1 + self.earlier_trainings)

    def released_before(self, stage: str) -> list[ReleasedTable]:
        """What earlier trainings have released in stages of this name, oldest first. For the server's half only."""
        return [table for tables in self.released_by_training(stage) for table in tables]

    def released_by_training(self, stage: str) -> list[list[ReleasedTable]]:
        """The same, a list for each earlier training."""
        return [[table for table in training.releases if table.stage == stage] for training in self.earlier]

    @property
    def signal_of_pairs(self) -> float:
        """`signal_to_noise` times interactions of a user over the square root of the catalogue.

        The fewer a user's interactions and the larger the catalogue, the fewer of all pairs of items are seen
        together, so that as many users say less of what goes with what.
        """
        return self.signal_to_noise * (self.declared_interactions or _INTERACTIONS) / math.sqrt(self.n_items)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One round: which contribution every silo is asked for, and how it is released.

    Attributes:
        name: which computation of the trainer's silo half.
        release: what it costs relative to the base noise multiplier.
        l2_clip_norm: sensitivity of the contribution, one user added or removed.
        settings: public numbers that the silo half needs.
        noise_inside: the silo half adds the noise itself, step by step (local steps).
        kept: the noisy sum is kept with the run, so that later trainings can pool it (`PublicFacts.earlier`).
    """

    name: str
    release: PlannedRelease
    l2_clip_norm: float = 1.0
    settings: Mapping[str, float] = field(default_factory=dict)
    noise_inside: bool = False
    kept: bool = False

    def __post_init__(self) -> None:
        checks.positive(l2_clip_norm=self.l2_clip_norm)


@dataclass(frozen=True, kw_only=True)
class LocalNoise:
    """What a silo half with `noise_inside` needs: public figures and the silo's own two streams of randomness.

    Attributes:
        mechanism: what one step does to its sum.
        sampling_probability, steps: Poisson sampling of users, and how many steps.
        source: of the noise.
        sampling: of users, and of what else a step draws that is not noise; a source of another key.
    """

    mechanism: IntegerMechanism
    sampling_probability: float
    steps: int
    source: NoiseSource
    sampling: NoiseSource


@dataclass(frozen=True, kw_only=True)
class TableLayout:
    """A released table that a stage reads.

    Attributes:
        dtype: float32; or int64 for rows of the catalogue, which are then strictly ascending and within it.
        shape: exact; None where the columns are free.
    """

    dtype: torch.dtype
    shape: tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a stage asks for and what it reads; public.

    Attributes:
        shape: rows and columns of the contribution.
        tables: by name, all that the silo half reads.
    """

    shape: tuple[int, int]
    tables: Mapping[str, TableLayout] = field(default_factory=dict)


class Trainer(ABC):
    """Both halves of one algorithm. Every contribution is a table over item rows, and is aggregated by adding.

    A trainer of one's own is a frozen dataclass that derives from this class: its fields are its settings, numbers,
    texts and truth values, which may be given in a scenario ([NAME]), on the command line (--set NAME.key=value), and
    in Flower's run config. It is passed as an object, or found by an entry point of the group "recsys_fed.trainers"
    under its name. `recsys_fed.testing.check_trainer` tries what it promises.

    A training may build on earlier ones of the same federation: `PublicFacts.earlier` is what those stages have
    released that are `kept`. A trainer that reads none of it starts from nothing each time.

    Attributes:
        name: by which configurations call it.
        reads: what the silo half reads besides who interacted with what; silos hold nothing else. A silo whose
            source has no column of it has no such signal, and must contribute in the same shape.
    """

    name: ClassVar[str] = ""
    reads: ClassVar[frozenset[Signal]] = NOTHING

    @property
    def noise_inside(self) -> bool:
        """Whether silos add the noise themselves, step by step, so that it cannot be split over them."""
        return False

    @abstractmethod
    def plan(self, facts: PublicFacts) -> tuple[Stage, ...]:
        """Return the stages in order, one a round: known before anything is released."""

    @abstractmethod
    def start(self, facts: PublicFacts, rng: np.random.Generator) -> Any:
        """Server: the state before the first round, from public facts."""

    def tables(self, state: Any, stage: Stage) -> Tables:
        """Server: the released tables, of any shape, that the silos need for this stage; none without a word."""
        return {}

    @abstractmethod
    def layout(self, facts: PublicFacts, stage: Stage) -> Layout:
        """Return the shapes of the stage's contribution and tables: they follow from public facts alone.

        A silo computes them by itself, and answers nothing that looks different.
        """

    @abstractmethod
    def contribution(
        self, stage: str, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float]
    ) -> torch.Tensor:
        """Silo: the sum over its users, each clipped to `settings["l2_clip_norm"]`, in float64; no noise.

        One user more or less changes it by at most (1 + 2^-10) clip norms, rounding included (see
        `privacy.integer_mechanism`).
        """

    def local_update(
        self, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float], noise: LocalNoise
    ) -> torch.Tensor:
        """Silo: its local steps' noisy sums added up, in grid steps [rows, columns], where `noise_inside`.

        Raises:
            ConfigurationError: this trainer has no such stages.
        """
        raise ConfigurationError(f"Expected a stage with local steps, the trainer {self.name} has none.")

    @abstractmethod
    def step(self, state: Any, stage: Stage, total: torch.Tensor, *, noise_std: float, n_silos: int) -> Any:
        """Server: the next state from the sum [rows, columns] over `n_silos` silos and the noise on its entries.

        Raises:
            ConfigurationError: the stage is not the next one of the plan.
        """

    @abstractmethod
    def item_embeddings(self, state: Any) -> ItemEmbeddings:
        """Server: the model that the state stands for."""


class DelegatingTrainer(Trainer):
    """A trainer that hands everything on to another one, for those that change one half of it."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    @property
    def reads(self) -> frozenset[Signal]:  # type: ignore[override]
        """The signals of the other."""
        return self.trainer.reads

    @property
    def noise_inside(self) -> bool:
        """As the other."""
        return self.trainer.noise_inside

    def plan(self, facts: PublicFacts) -> tuple[Stage, ...]:
        """As the other."""
        return self.trainer.plan(facts)

    def start(self, facts: PublicFacts, rng: np.random.Generator) -> Any:
        """As the other."""
        return self.trainer.start(facts, rng)

    def tables(self, state: Any, stage: Stage) -> Tables:
        """As the other."""
        return self.trainer.tables(state, stage)

    def layout(self, facts: PublicFacts, stage: Stage) -> Layout:
        """As the other."""
        return self.trainer.layout(facts, stage)

    def contribution(
        self, stage: str, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float]
    ) -> torch.Tensor:
        """As the other."""
        return self.trainer.contribution(stage, tables, histories, settings=settings)

    def local_update(
        self, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float], noise: LocalNoise
    ) -> torch.Tensor:
        """As the other."""
        return self.trainer.local_update(tables, histories, settings=settings, noise=noise)

    def step(self, state: Any, stage: Stage, total: torch.Tensor, *, noise_std: float, n_silos: int) -> Any:
        """As the other."""
        return self.trainer.step(state, stage, total, noise_std=noise_std, n_silos=n_silos)

    def item_embeddings(self, state: Any) -> ItemEmbeddings:
        """As the other."""
        return self.trainer.item_embeddings(state)
