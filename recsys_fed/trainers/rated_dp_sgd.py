"""dp-sgd where the target is a rating: biased matrix factorisation by noisy gradients of squared errors.

With x_ui a rating on the agreed scale, moved to [-1, 1], the model is (Koren, Bell and Volinsky 2009,
doi 10.1109/MC.2009.263)

    x_ui  ~  b_i + b_u + v_i u            loss of a user:  sum_i (x_ui - b_i - b_u - v_i u)^2 / 2

The mean of all, mu, is part of b_i. The first round is that of `ratings`: its noisy item means are the first b_i.
Every round after it is a step of `dp_sgd` in the rows [v_i, b_i] of the head. A user's b_u and u are the ridge
regression on the user's own ratings of the head, solved in the silo at every step and held constant, so that a user's
gradient is rank one: with the residual e_ui, row i of it is -e_ui [u, 1].

What the server makes of the noisy sums is post-processing: rows are damped by their noisy counts, steps are the
shorter the less of them is signal, and v_i keep the length that the regression of u assumes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from recsys_fed import checks
from recsys_fed.errors import ConfigurationError
from recsys_fed.models.exact_scores import observed_scores
from recsys_fed.models.histories import Signal, UserHistories
from recsys_fed.models.items import FoldIn, ItemEmbeddings, ridge
from recsys_fed.trainers.dp_sgd import DPSGD, DPSGDState, Step, embedding_dim, head_size
from recsys_fed.trainers.local_steps import Task
from recsys_fed.trainers.loss import Asked, Batch, Clipping, Loss
from recsys_fed.trainers.popularity import NoisyPopularity, most_frequent
from recsys_fed.trainers.rank_one import ClippedSum, RankOneContributions, clip
from recsys_fed.trainers.ratings import (
    FACTORS,
    LEVEL,
    MEANS,
    MEANS_SHARE,
    ItemMeans,
    Ratings,
    RatingsState,
    rated_interactions,
    with_spread,
)
from recsys_fed.trainers.trainer import EarlierTraining, Layout, PublicFacts, Stage, Tables

_LOSS = "squared-error"
# How rows are damped: count^-_DAMPING. Like the rate, chosen on a validation part.
_DAMPING = 0.5


@dataclass(frozen=True, kw_only=True)
class SquaredError(Loss):
    """The loss; see the module. The table's rows are [v_i, b_i].

    Attributes:
        middle, half: of the scale, public.
    """

    name: ClassVar[str] = _LOSS
    reads_all_items: ClassVar[bool] = False
    learning_rates: ClassVar[Mapping[str, float]] = {"synchronous": 0.02, "local": 3.0}

    middle: float
    half: float

    def fold_in(self, *, unobserved_weight: float, regularization: float) -> FoldIn:
        """Ridge regression on the ratings; `unobserved_weight` plays no part."""
        return FoldIn(kind="ratings", regularization=regularization)

    def clipped(self, batch: Batch, *, how: FoldIn, unobserved_weight: float, clipping: Clipping) -> ClippedSum:
        """The gradients, clipped and summed, with the guarantees of `rank_one.clipped_sum`.

        Ratings are cut off at the ends of the scale; an interaction without one counts for nothing.
        """
        rated, ratings = rated_interactions(batch.histories, middle=self.middle, half=self.half)
        vectors, bias = batch.vectors[:, :-1].double(), batch.vectors[:, -1].double()
        level = torch.full((len(vectors), 1), LEVEL**0.5, dtype=torch.float64, device=vectors.device)
        known, targets = torch.cat([level, vectors], dim=1), ratings - bias[rated.items]
        users = ridge(known, rated, torch.ones_like(bias), targets=targets, how=how)
        right = torch.cat([users[:, 1:], torch.ones_like(users[:, :1])], dim=1)
        contributions = RankOneContributions(
            histories=rated,
            values=observed_scores(rated, users, known) - targets,
            basis=right.new_zeros(len(vectors), 0),
            coefficients=right.new_zeros(len(right), 0),
            right=right,
        )
        return clip(contributions, l2_clip_norm=clipping.l2_clip_norm, mode=clipping.mode)

    def of_scores(self, scores: torch.Tensor, asked: Asked, *, unobserved_weight: float) -> torch.Tensor:
        """None: what is asked of modules are yeses and noes, not ratings."""
        raise ConfigurationError(f"The loss {self.name} is of ratings. Take trainer = dp-sgd with target = rating.")


@dataclass(frozen=True, kw_only=True)
class _State(DPSGDState):
    """Items: what the first round says of them."""

    items: ItemMeans | None = None


def _hold_spread(state: DPSGDState) -> torch.Tensor:
    """The rows with v_i scaled to the spread that the regression of u assumes: long ones would undo its penalty."""
    vectors, known = state.vectors, state.popularity
    if vectors is None or known is None:
        raise ConfigurationError("The item means are not there yet. Run the plan in order.")
    held = with_spread(vectors[:, :-1].double(), counts=known.counts[known.head], spread=FACTORS)
    return torch.cat([held.to(vectors.dtype), vectors[:, -1:]], dim=1)


@dataclass(frozen=True, kw_only=True)
class RatedDPSGD(DPSGD):
    """The trainer; see the module. Data without ratings gives the model of nobody.

    Guarantees:
        - Unit: a user. Neighbouring relation: one user added or removed. A round's sum has L2 sensitivity
          settings["l2_clip_norm"], whatever ratings and tables hold: see `SquaredError` and `Ratings.contribution`.
        - A user's term depends on that user's ratings and on released tables only.

    Attributes:
        lowest, highest: the scale, public; what is beyond counts as its end.
        regularization: variance of a rating about its prediction, in squared halves of the scale.
        loss: "squared-error"; `negatives` and `unobserved_weight` play no part.
    """

    reads: ClassVar[frozenset[Signal]] = frozenset({"value"})
    counts_share: ClassVar[float] = MEANS_SHARE

    loss: str = _LOSS
    regularization: float = 0.19
    lowest: float = 1.0
    highest: float = 5.0

    def __post_init__(self) -> None:
        checks.one_of((_LOSS,), loss=self.loss)
        # The noise on a gradient alone is not known where a count is released with it.
        checks.one_of(("automatic",), clipping=self.clipping)
        super().__post_init__()

    @property
    def _means(self) -> Ratings:
        return Ratings(lowest=self.lowest, highest=self.highest, regularization=self.regularization)

    @property
    def _loss(self) -> SquaredError:
        return SquaredError(middle=self._means.middle, half=self._means.half)

    def _first_stage(self) -> Stage:
        return self._means.means_stage(share=self.counts_share)

    def start(self, facts: PublicFacts, rng: np.random.Generator) -> _State:
        """Draw small random rows; the last column will be the item means."""
        return _State(facts=facts, start=super().start(facts, rng).start)

    def layout(self, facts: PublicFacts, stage: Stage) -> Layout:
        """Counts and ratings [n_items, 2], then [v_i, b_i] on the head."""
        return self._means.layout(facts, stage) if stage.name == MEANS else super().layout(facts, stage)

    def contribution(
        self, stage: str, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float]
    ) -> torch.Tensor:
        """Sum over users, sensitivity settings["l2_clip_norm"]: counts and ratings [n_items, 2], or gradients.

        Guarantees: see the class.
        """
        if stage == MEANS:
            return self._means.contribution(stage, tables, histories, settings=settings)
        return super().contribution(stage, tables, histories, settings=settings)

    def step(
        self, state: DPSGDState, stage: Stage, total: torch.Tensor, *, noise_std: float, n_silos: int
    ) -> DPSGDState:
        """Item means from counts and ratings, then that of dp-sgd."""
        if stage.name != MEANS:
            after = super().step(state, stage, total, noise_std=noise_std, n_silos=n_silos)
            return replace(after, vectors=_hold_spread(after))
        items = self._means.item_means(state.facts, total, noise_std=noise_std)
        head = most_frequent(items.counts, head_size(state.facts, state.start.shape[1]))
        vectors = self._start_of(state)[head].clone()
        vectors[:, -1] = items.means[head].float()
        known = NoisyPopularity(counts=items.counts, head=head)
        return _State(
            facts=state.facts, start=state.start, popularity=known, vectors=vectors,
            momentum=torch.zeros_like(vectors), items=items,
        )  # fmt: skip

    def _shape_step(
        self, state: DPSGDState, total: torch.Tensor, step: Step, *, noise_std: float
    ) -> tuple[torch.Tensor, Step]:
        """Rows of items that many have rated are damped, and steps are the shorter the less of them is signal."""
        if state.popularity is None:
            return total, step
        counts = state.popularity.counts[state.popularity.head]
        damping = (counts / counts.mean()) ** -_DAMPING
        rough = noise_std * float(damping.square().mean().sqrt())
        return damping[:, None] * total, replace(step, noise_std=rough)

    def _table_of(self, earlier: EarlierTraining) -> torch.Tensor:
        """Of a model of ratings: its first column is the users' level, v_i are in its own units, b_i begin anew."""
        return torch.cat([earlier.vectors[:, 1:] / self._means.half, earlier.vectors[:, :1] * 0.0], dim=1)

    def item_embeddings(self, state: DPSGDState) -> ItemEmbeddings:
        """A model of ratings as that of `ratings`: rows [level, v_i], biases b_i, the noisy means off the head."""
        rated = RatingsState(facts=state.facts, asked=state.start.double())
        known = state.popularity
        if isinstance(state, _State) and state.items is not None and state.vectors is not None and known is not None:
            means, head = state.items.means.clone(), known.head
            means[head] = state.vectors[:, -1].double()
            items = replace(state.items, means=means, known=state.items.known[:, :1], head=head)
            rated = replace(rated, items=items, factors=state.vectors[:, :-1].double())
        return self._means.item_embeddings(rated)

    def _columns(self, facts: PublicFacts) -> int:
        return embedding_dim(facts) + 1

    def _task(self, settings: Mapping[str, float]) -> Task:
        return replace(super()._task(settings), n_negatives=0)
