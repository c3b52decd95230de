"""dp-sgd: differentially private gradient descent on the implicit-ALS loss of the item embeddings.

For a user's history H and the user's vector u = argmin_u L_u, folded in anew from the current V,

    L_u(V) = sum_{i in H} (1 - v_i u)^2 + unobserved_weight sum_i (v_i u)^2
    dL_u/dV / 2 = r_u u^T,    r_u = unobserved_weight V u - s_u,    s_ui = 1 - v_i u on H

(Hu, Koren and Volinsky 2008; with u held constant, which the envelope theorem makes exact at the optimum).
The gradient is rank one, so per-user clipping is exact and costs no per-user matrices (see `rank_one`).

Two schedules. *synchronous*: every round is one clipped, noised sum over all users of all silos and the
optimiser runs on the server (FedSGD); the only form in which noise can be split over silos. *local*: every
round is `local_steps` noised steps inside each silo, on Poisson samples of its users, by Opacus' optimiser;
the silo releases V_local - V and the server averages (FedAvg, arXiv 1602.05629; DP-SGD, arXiv 1607.00133).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from recsys_fed import checks
from recsys_fed.errors import ConfigurationError
from recsys_fed.models.histories import Histories
from recsys_fed.models.items import FoldIn, ItemEmbeddings
from recsys_fed.models.users import fold_in
from recsys_fed.privacy.engine import RankOneOptimizer, poisson_sample
from recsys_fed.privacy.events import PlannedRelease
from recsys_fed.trainers import popularity
from recsys_fed.trainers.base import LocalNoise, PublicFacts, Stage, Tables
from recsys_fed.trainers.popularity import NoisedPopularity
from recsys_fed.trainers.rank_one import RankOneContributions, clipped_sum

GRADIENT = "gradient"
LOCAL_STEPS = "local steps"
SCHEDULES = ("synchronous", "local")
# Scale of the popularity bias: it only orders what the vectors score alike.
BIAS = 1e-3


@dataclass(frozen=True, kw_only=True)
class DPSGDState:
    """What the server holds between rounds; all of it follows from releases and public facts."""

    facts: PublicFacts
    start: torch.Tensor
    popularity: NoisedPopularity | None = None
    vectors: torch.Tensor | None = None
    momentum: torch.Tensor | None = None
    steps_done: int = 0


@dataclass(frozen=True, kw_only=True)
class DPSGD:
    """The trainer; see the module.

    Attributes:
        schedule: "synchronous" or "local".
        unobserved_weight: weight of the pull of all scores towards zero.
        regularization: of the user vectors in the fold-in.
        learning_rate: synchronous: length of a step per entry of V (root mean square), falling linearly to
            zero, 0.1 by default; local: of plain SGD on the mean gradient, 3 by default.
        momentum: of the synchronous schedule.
        local_steps: noised steps a round of the local schedule.
        sampling_probability: of users, at each step.
    """

    schedule: str = "synchronous"
    unobserved_weight: float = 0.3
    regularization: float = 1.0
    learning_rate: float = 0.0
    momentum: float = 0.9
    local_steps: int = 20
    sampling_probability: float = 1.0

    def __post_init__(self) -> None:
        checks.one_of(SCHEDULES, schedule=self.schedule)
        checks.positive(
            unobserved_weight=self.unobserved_weight,
            regularization=self.regularization,
        )
        checks.non_negative(learning_rate=self.learning_rate)
        checks.at_least(1, local_steps=self.local_steps)
        checks.probability(sampling_probability=self.sampling_probability)
        if not 0 <= self.momentum < 1:
            raise ConfigurationError(f"Expected 0 <= momentum < 1, got {self.momentum}.")

    @property
    def _rate(self) -> float:
        return self.learning_rate or (3.0 if self.schedule == "local" else 0.1)

    @property
    def _fold_in(self) -> FoldIn:
        return FoldIn(kind="ridge", unobserved_weight=self.unobserved_weight, regularization=self.regularization)

    def plan(self, facts: PublicFacts) -> tuple[Stage, ...]:
        """Counts, then equal gradient rounds (40 unless said otherwise; 4 rounds of local steps)."""
        local = self.schedule == "local"
        rounds = (facts.rounds or (5 if local else 41)) - 1
        checks.at_least(1, rounds_after_the_counts=rounds)
        steps = self.local_steps if local else 1
        share = (1 - popularity.BUDGET_SHARE) / (rounds * steps * self.sampling_probability**2)
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
            expected = max(self.sampling_probability * facts.declared_users_of_silo, 1.0)
            settings |= {"expected_batch_size": expected, "update_scale": self._rate * steps**0.5 / expected}
        name = LOCAL_STEPS if local else GRADIENT
        stage = Stage(name=name, release=release, settings=settings, noise_inside=local)
        return (popularity.counts_stage(), *[stage] * rounds)

    def start(self, facts: PublicFacts, rng: np.random.Generator) -> DPSGDState:
        """Draw small random vectors; the first column will be the noised popularity."""
        dim = min(facts.embedding_dim or 16, facts.n_items)
        start = torch.from_numpy(rng.standard_normal((facts.n_items, dim))) * 0.1 / dim**0.5
        return DPSGDState(facts=facts, start=start.float())

    def tables(self, state: DPSGDState, stage: Stage) -> Tables:
        """The head and V on it; nothing before the counts."""
        if stage.name == popularity.STAGE or state.popularity is None or state.vectors is None:
            return {}
        return {"head": state.popularity.head, "vectors": state.vectors}

    def shape(self, state: DPSGDState, stage: Stage) -> tuple[int, int]:
        """Counts [n_items, 1], then V's shape on the head."""
        if stage.name == popularity.STAGE or state.vectors is None:
            return state.facts.n_items, 1
        return state.vectors.shape[0], state.vectors.shape[1]

    def contribution(
        self, stage: str, tables: Tables, histories: Histories, *, settings: Mapping[str, float]
    ) -> torch.Tensor:
        """Sum over users, sensitivity settings["l2_clip_norm"]: counts [n_items, 1] or gradient [n_head, dim].

        Guarantees: user-level, add or remove one user; a user's term depends on V and on that user's
        history alone (no negatives, no batch statistics).
        """
        if stage == popularity.STAGE:
            return popularity.contribute_counts(histories, l2_clip_norm=settings["l2_clip_norm"])
        batch = implicit_als_gradients(tables["vectors"], histories.restricted(tables["head"]), how=_how(settings))
        return clipped_sum(batch, l2_clip_norm=settings["l2_clip_norm"], mode="automatic")

    def local_update(
        self, tables: Tables, histories: Histories, *, settings: Mapping[str, float], noise: LocalNoise
    ) -> torch.Tensor:
        """V_local - V after noised steps on Poisson samples, [n_head, dim].

        Guarantees: each step is the Gaussian mechanism with noise.noise_multiplier on a sum of sensitivity
        l2_clip_norm over a Poisson sample of users; an empty sample adds noise and counts as a step.
        """
        head, device = histories.restricted(tables["head"]), histories.items.device
        # The optimiser and its noise live on the CPU, so that a seed gives the same noise on every device.
        vectors = torch.nn.Parameter(tables["vectors"].cpu().clone())
        optimizer = RankOneOptimizer(
            torch.optim.SGD([vectors], lr=settings["learning_rate"]),
            noise_multiplier=noise.noise_multiplier,
            max_grad_norm=settings["l2_clip_norm"],
            expected_batch_size=settings["expected_batch_size"],
            generator=noise.noise,
        )
        for _ in range(noise.steps):
            chosen = poisson_sample(head.n_users, noise.sampling_probability, noise.sampling)
            sample = head.subset(chosen.to(device))
            batch = implicit_als_gradients(vectors.detach().to(device), sample, how=_how(settings))
            total = clipped_sum(batch, l2_clip_norm=settings["l2_clip_norm"], mode="automatic")
            optimizer.step_with(total.cpu())
        return vectors.detach() - tables["vectors"].cpu()

    def step(
        self, state: DPSGDState, stage: Stage, total: torch.Tensor, *, noise_std: float, n_silos: int
    ) -> DPSGDState:
        """Popularity from the counts, one optimiser step from a gradient, or the mean of local updates."""
        if stage.name == popularity.STAGE:
            known = popularity.noised_popularity(
                total, noise_std=noise_std, n_head=_n_head(state.facts, state.start.shape[1])
            )
            vectors = state.start[known.head].clone()
            vectors[:, 0] = (known.counts[known.head] / known.counts.max()).float()
            return replace(state, popularity=known, vectors=vectors, momentum=torch.zeros_like(vectors))
        if state.vectors is None or state.momentum is None:
            raise ConfigurationError("Expected the counts before a gradient round. Run the plan in order.")
        done = state.steps_done + 1
        if stage.noise_inside:
            return replace(state, vectors=state.vectors + total.float() / n_silos, steps_done=done)
        momentum = self.momentum * state.momentum + (1 - self.momentum) * total.float()
        length = momentum.square().mean().sqrt().clamp_min(torch.finfo(torch.float32).tiny)
        rounds = len(self.plan(state.facts)) - 1
        rate = self._rate * (1 - state.steps_done / rounds)
        return replace(state, vectors=state.vectors - rate * momentum / length, momentum=momentum, steps_done=done)

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


def implicit_als_gradients(vectors: torch.Tensor, histories: Histories, *, how: FoldIn) -> RankOneContributions:
    """Half the gradient of every user's loss, as rank-one contributions over the rows of `vectors` [n_rows, dim]."""
    weights = torch.ones(len(vectors), device=vectors.device)
    users = fold_in(vectors, histories, weights, how=how)
    fitted = (vectors[histories.items] * users[histories.users]).sum(1)
    return RankOneContributions(
        histories=histories,
        values=fitted - 1.0,
        basis=vectors,
        coefficients=how.unobserved_weight * users,
        right=users,
    )


def _how(settings: Mapping[str, float]) -> FoldIn:
    return FoldIn(
        kind="ridge",
        unobserved_weight=settings["unobserved_weight"],
        regularization=settings["regularization"],
    )


def _n_head(facts: PublicFacts, dim: int) -> int:
    """Head items by the same trade as in `spectral`: entries that the signal can pay for."""
    return int(min(max(4.5 * facts.signal_to_noise / dim, 50), facts.n_items))
