"""dp-sgd: differentially private gradient descent on the item embeddings, for any loss of `losses`.

Every user's vector is folded in anew from the current V and held constant; the user's gradient is then rank one, so
that per-user clipping is exact and costs no per-user matrices (see `rank_one`).

Two schedules. *synchronous*: every round is one clipped, noisy sum over all users of all silos and the
optimiser runs on the server (FedSGD); the only form in which noise can be split over silos. *local*: every
round is `local_steps` noisy steps inside each silo, on Poisson samples of its users (see `local_steps`); the silo
releases what it moved by and the server averages (FedAvg, arXiv 1602.05629; DP-SGD, arXiv 1607.00133).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
import torch

from recsys_fed import checks
from recsys_fed.errors import ConfigurationError
from recsys_fed.models.histories import Signal, UserHistories
from recsys_fed.models.items import FoldIn, ItemEmbeddings
from recsys_fed.privacy.clipping import JointRelease, count_share
from recsys_fed.privacy.events import PlannedRelease
from recsys_fed.trainers import popularity
from recsys_fed.trainers.local_steps import Summed, Task, local_steps, sum_clipped
from recsys_fed.trainers.loss import Clipping, Loss
from recsys_fed.trainers.losses import loss_of
from recsys_fed.trainers.popularity import NoisyPopularity
from recsys_fed.trainers.trainer import (
    EarlierTraining,
    Layout,
    LocalNoise,
    PublicFacts,
    Stage,
    TableLayout,
    Tables,
    Trainer,
)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step to take.

    Attributes:
        rate: length per entry (root mean square) of the first step.
        momentum: share of the direction so far that is kept.
        done, rounds: the length falls linearly to zero over the rounds.
        noise_std: root mean square of each sum's noise, where a step is to be the shorter the less of its direction
            is signal; else 0.
    """

    rate: float
    momentum: float
    done: int
    rounds: int
    noise_std: float = 0.0

    @property
    def noise_in_direction(self) -> float:
        """Standard deviation of the noise in the direction after this step, a running mean of sums."""
        kept = self.momentum**2
        return self.noise_std * (1 - self.momentum) * math.sqrt((1 - kept ** (self.done + 1)) / (1 - kept))


def _take_step(
    vectors: torch.Tensor, direction: torch.Tensor, total: torch.Tensor, *, step: Step
) -> tuple[torch.Tensor, torch.Tensor]:
    """V and the direction after a step against `total`, the noisy sum of clipped gradients: both like `vectors`.

    Sums of normalised gradients do not shrink near an optimum, and their scale follows the number of users, which is
    private. The length of a step is therefore public; only its direction follows from the sum.
    """
    direction = step.momentum * direction + (1 - step.momentum) * total.to(direction.dtype)
    length = direction.square().mean().sqrt().clamp_min(torch.finfo(direction.dtype).tiny)
    rate = step.rate * (1 - step.done / step.rounds)
    if step.noise_std:
        rate *= float((1 - (step.noise_in_direction / length).square()).clamp_min(0).sqrt())
    return vectors - rate * direction / length, direction


GRADIENT = "gradient"
LOCAL_STEPS = "local steps"
SCHEDULES = ("synchronous", "local")
CLIPPINGS = ("automatic", "adaptive")
# Scale of the popularity bias: it only orders what the vectors score alike.
BIAS = 1e-3


@dataclass(frozen=True, kw_only=True)
class DPSGDState:
    """What the server holds between rounds; all of it follows from releases and public facts."""

    facts: PublicFacts
    start: torch.Tensor
    popularity: NoisyPopularity | None = None
    vectors: torch.Tensor | None = None
    momentum: torch.Tensor | None = None
    clip_norm: float = 1.0
    steps_done: int = 0


@dataclass(frozen=True, kw_only=True)
class DPSGD(Trainer):
    """The trainer; see the module.

    Attributes:
        schedule: "synchronous" or "local".
        loss: of `losses`.
        negatives: items drawn for each user and step, for the losses that have some.
        clipping: "automatic", every gradient has the same norm; "adaptive", to a clip norm that follows the median of
            the norms (synchronous only).
        unobserved_weight: of the pull of unobserved scores towards no, in the fold-in and in the losses that have it.
        regularization: of the user vectors in the fold-in.
        learning_rate: synchronous: length of a step per entry of V (root mean square), falling linearly to
            zero; local: of plain SGD on the mean clipped gradient. 0 takes what the loss says.
        momentum: of the synchronous schedule.
        local_steps: noisy steps a round of the local schedule.
        sampling_probability: of users, at each step.
    """

    name: ClassVar[str] = "dp-sgd"
    reads: ClassVar[frozenset[Signal]] = frozenset({"weight"})
    # Of the budget, for the first round.
    counts_share: ClassVar[float] = popularity.BUDGET_SHARE

    schedule: str = "synchronous"
    loss: str = "implicit-als"
    negatives: int = 64
    clipping: str = "automatic"
    unobserved_weight: float = 0.3
    regularization: float = 1.0
    learning_rate: float = 0.0
    momentum: float = 0.9
    local_steps: int = 20
    sampling_probability: float = 1.0

    def __post_init__(self) -> None:
        checks.one_of(SCHEDULES, schedule=self.schedule)
        _ = self._loss
        checks.one_of(CLIPPINGS, clipping=self.clipping)
        if self.clipping == "adaptive" and self.schedule == "local":
            raise ConfigurationError("Expected clipping = automatic with the local schedule, got adaptive.")
        checks.positive(
            unobserved_weight=self.unobserved_weight,
            regularization=self.regularization,
        )
        checks.non_negative(learning_rate=self.learning_rate)
        checks.at_least(1, local_steps=self.local_steps, negatives=self.negatives)
        checks.probability(sampling_probability=self.sampling_probability)
        if not 0 <= self.momentum < 1:
            raise ConfigurationError(f"Expected 0 <= momentum < 1, got {self.momentum}.")

    @property
    def noise_inside(self) -> bool:
        """Whether the schedule is local."""
        return self.schedule == "local"

    @property
    def _loss(self) -> Loss:
        return loss_of(self.loss)

    @property
    def _rate(self) -> float:
        return self.learning_rate or self._loss.learning_rates[self.schedule]

    @property
    def _fold_in(self) -> FoldIn:
        return self._loss.fold_in(unobserved_weight=self.unobserved_weight, regularization=self.regularization)

    def plan(self, facts: PublicFacts) -> tuple[Stage, ...]:
        """Counts, then equal gradient rounds (40 unless said otherwise; 4 rounds of local steps)."""
        local = self.schedule == "local"
        rounds = (facts.rounds or (5 if local else 41)) - 1
        checks.at_least(1, rounds_after_the_counts=rounds)
        steps = self.local_steps if local else 1
        share = (1 - self.counts_share) / (rounds * steps * self.sampling_probability**2)
        release = PlannedRelease(
            released="item embeddings",
            relative_noise=share**-0.5,
            sampling_probability=self.sampling_probability,
            steps=steps,
        )
        settings = {
            "unobserved_weight": self.unobserved_weight,
            "regularization": self.regularization,
            "learning_rate": self._rate,
        }
        if local:
            settings["expected_batch_size"] = max(self.sampling_probability * facts.declared_users_of_silo, 1.0)
        if self.clipping == "adaptive":
            noise_multiplier = facts.noise_level * release.relative_noise
            settings["count_share"] = count_share(
                noise_multiplier=noise_multiplier, declared_users=facts.declared_users
            )
        stage = partial(Stage, name=LOCAL_STEPS if local else GRADIENT, release=release, noise_inside=local)
        # Negatives follow from the number of the round: public, and other ones every round.
        gradients = [stage(settings=settings | {"negatives_key": float(number)}) for number in range(rounds)]
        return (self._first_stage(), *gradients)

    def _first_stage(self) -> Stage:
        return popularity.counts_stage()

    def start(self, facts: PublicFacts, rng: np.random.Generator) -> DPSGDState:
        """Draw small random vectors; the first column will be the noisy popularity."""
        dim = self._columns(facts)
        start = torch.from_numpy(rng.standard_normal((facts.n_items, dim))) * 0.1 / dim**0.5
        return DPSGDState(facts=facts, start=start.float())

    def tables(self, state: DPSGDState, stage: Stage) -> Tables:
        """The head and V on it; nothing before the counts."""
        if stage.name == popularity.STAGE or state.popularity is None or state.vectors is None:
            return {}
        tables = {"head": state.popularity.head, "vectors": state.vectors}
        return tables | ({"clip": torch.tensor([state.clip_norm])} if self.clipping == "adaptive" else {})

    def layout(self, facts: PublicFacts, stage: Stage) -> Layout:
        """Counts [n_items, 1], then V's shape on the head; adaptive clipping has one more row."""
        if stage.name == popularity.STAGE:
            return Layout(shape=(facts.n_items, 1))
        dim = self._columns(facts)
        n_head = head_size(facts, dim)
        tables = {
            "head": TableLayout(dtype=torch.int64, shape=(n_head,)),
            "vectors": TableLayout(dtype=torch.float32, shape=(n_head, dim)),
        }
        if self.clipping != "adaptive":
            return Layout(shape=(n_head, dim), tables=tables)
        return Layout(shape=(n_head + 1, dim), tables=tables | {"clip": TableLayout(dtype=torch.float32, shape=(1,))})

    def contribution(
        self, stage: str, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float]
    ) -> torch.Tensor:
        """Sum over users, sensitivity settings["l2_clip_norm"]: counts [n_items, 1] or gradient [n_head, dim].

        Guarantees: user-level, add or remove one user; a user's term depends on V, on the public number of the round
        and on that user's history alone (negatives included; no batch statistics).
        """
        if stage == popularity.STAGE:
            return popularity.contribute_counts(histories, l2_clip_norm=settings["l2_clip_norm"])
        if self.clipping == "automatic":
            return self._sum(tables, histories, settings, Clipping(l2_clip_norm=settings["l2_clip_norm"])).total
        clip_norm = float(tables["clip"][0])
        found = self._sum(tables, histories, settings, Clipping(l2_clip_norm=clip_norm, mode="flat"))
        return _joint(settings).join(found.total, found.within, found.users, clip_norm=clip_norm)

    def _sum(
        self, tables: Tables, histories: UserHistories, settings: Mapping[str, float], clipping: Clipping
    ) -> Summed:
        """The clipped sum over users of the gradients at the tables."""
        task, key = replace(self._task(settings), clipping=clipping), int(settings.get("negatives_key", 0.0))
        return sum_clipped(task, tables["vectors"], histories, head=tables["head"], key=key)

    def local_update(
        self, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float], noise: LocalNoise
    ) -> torch.Tensor:
        """The noisy clipped sums of all local steps added up, int32 [n_head, dim] in grid steps.

        Guarantees: see `local_steps`.
        """
        return local_steps(
            self._task(settings), tables["vectors"], histories, head=tables["head"], settings=settings, noise=noise
        )

    def _start_of(self, state: DPSGDState) -> torch.Tensor:
        """Rows of the newest earlier model where it knows the item and has as many columns, else what was drawn."""
        if not state.facts.earlier:
            return state.start
        before = self._table_of(state.facts.earlier[-1])
        if before.shape != state.start.shape:
            return state.start
        known = before.abs().sum(dim=1, keepdim=True) > 0
        return torch.where(known, before, state.start)

    def _table_of(self, earlier: EarlierTraining) -> torch.Tensor:
        """The table that an earlier training ended with, as far as its model has it."""
        return earlier.vectors

    def step(
        self, state: DPSGDState, stage: Stage, total: torch.Tensor, *, noise_std: float, n_silos: int
    ) -> DPSGDState:
        """Popularity from the counts, one optimiser step from a gradient, or the mean of local steps."""
        if stage.name == popularity.STAGE:
            known = popularity.estimate_popularity(
                total,
                noise_std=noise_std,
                n_head=head_size(state.facts, state.start.shape[1]),
                facts=state.facts,
            )
            vectors = self._start_of(state)[known.head].clone()
            vectors[:, 0] = (known.counts[known.head] / known.counts.max()).float()
            return replace(state, popularity=known, vectors=vectors, momentum=torch.zeros_like(vectors))
        if state.vectors is None or state.momentum is None:
            raise ConfigurationError("The counts are not there yet. Run the plan in order.")
        done = state.steps_done + 1
        if stage.noise_inside:
            rate = stage.settings["learning_rate"] / stage.settings["expected_batch_size"]
            return replace(state, vectors=state.vectors - (rate * total / n_silos).float(), steps_done=done)
        clip_norm = state.clip_norm
        if self.clipping == "adaptive":
            joint = _joint({**stage.settings, "l2_clip_norm": stage.l2_clip_norm})
            total, clip_norm = joint.split(total, clip_norm=clip_norm, declared_users=state.facts.declared_users)
        step = Step(
            rate=self._rate, momentum=self.momentum, done=state.steps_done, rounds=len(self.plan(state.facts)) - 1
        )
        total, step = self._shape_step(state, total, step, noise_std=noise_std)
        vectors, momentum = _take_step(state.vectors, state.momentum, total, step=step)
        return replace(state, vectors=vectors, momentum=momentum, clip_norm=clip_norm, steps_done=done)

    def _shape_step(
        self, state: DPSGDState, total: torch.Tensor, step: Step, *, noise_std: float
    ) -> tuple[torch.Tensor, Step]:
        """What to go against, and how far, by the noisy sum; both as they are."""
        return total, step

    def item_embeddings(self, state: DPSGDState) -> ItemEmbeddings:
        """V on the head, zero elsewhere; popularity as a small bias."""
        n_items, dim = state.start.shape
        vectors, bias = torch.zeros(n_items, dim), torch.zeros(n_items)
        weights = torch.zeros(n_items)
        if state.popularity is not None and state.vectors is not None:
            vectors[state.popularity.head] = state.vectors
            bias = (BIAS * state.popularity.counts / state.popularity.counts.max()).float()
            weights[state.popularity.head] = 1.0
        return ItemEmbeddings(
            vectors=vectors,
            bias=bias,
            history_weights=weights,
            fold_in=self._fold_in,
            catalogue_hash=state.facts.catalogue_hash,
        )

    def _columns(self, facts: PublicFacts) -> int:
        """Columns of the table that travels."""
        return embedding_dim(facts)

    def _task(self, settings: Mapping[str, float]) -> Task:
        weight, loss = settings["unobserved_weight"], self._loss
        return Task(
            loss=loss,
            how=loss.fold_in(unobserved_weight=weight, regularization=settings["regularization"]),
            unobserved_weight=weight,
            n_negatives=self.negatives,
            clipping=Clipping(l2_clip_norm=settings["l2_clip_norm"]),
        )


def _joint(settings: Mapping[str, float]) -> JointRelease:
    return JointRelease(l2_clip_norm=settings["l2_clip_norm"], count_share=settings["count_share"])


def embedding_dim(facts: PublicFacts) -> int:
    """As asked for, or 16; at most as many as items."""
    return min(facts.embedding_dim or 16, facts.n_items)


def head_size(facts: PublicFacts, dim: int) -> int:
    """Head items by the same trade as in `spectral`: entries that the signal can pay for."""
    return int(min(max(4.5 * facts.signal_to_noise / dim, 50), facts.n_items))
