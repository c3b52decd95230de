"""spectral: noisy subspace iteration on the users' histories; very few rounds.

With x_u the damped, normalised history of user u over the head items (norm 1), q the direction of
popularity and W [n_head, k] orthonormal and orthogonal to q, a user contributes

    (x_u - q q^T x_u) (x_u^T W),   scaled to norm exactly 1 ("automatic" clipping, arXiv 2206.07136)

The sum is the power iteration of the centred second-moment matrix with users weighed equally; the server
re-orthonormalises the noised sum (noisy power method, Hardt and Price, arXiv 1311.2495). Scaling every
contribution to the same norm matters: the projection on a random start is about sqrt(k / n_head), and a clip
norm that fits later rounds would drown the first one in noise. No clip norm is left to choose.

Before the first round the popularity q and the head are released once (see `popularity`); with public item
features the iteration starts from their leading directions, which costs nothing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from recsys_fed.errors import ConfigurationError
from recsys_fed.models.items import FoldIn, ItemEmbeddings
from recsys_fed.models.user_blocks import UserHistories
from recsys_fed.privacy.events import PlannedRelease
from recsys_fed.trainers import popularity
from recsys_fed.trainers.base import LocalNoise, PublicFacts, Stage, Tables
from recsys_fed.trainers.orthonormal import leading_directions, orthonormal
from recsys_fed.trainers.popularity import NoisedPopularity
from recsys_fed.trainers.power_step import power_step

SUBSPACE = "subspace"
# The popularity of all items also enters as a bias, so that an empty history has a ranking.
BIAS = 0.05
_MAX_DIM = 32
_PROJECTION = FoldIn(kind="projection")


@dataclass(frozen=True, kw_only=True, eq=False)
class SpectralState:
    """What the server holds between rounds; all of it follows from releases and public facts."""

    facts: PublicFacts
    start: torch.Tensor
    popularity: NoisedPopularity | None = None
    subspace: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Size:
    """Dimensions of the released subspace (popularity included), head items, and rounds."""

    embedding_dim: int
    n_head: int
    rounds: int


def size(facts: PublicFacts) -> Size:
    """The rule: how much can be learned from so many users under so much noise. It reads public facts only.

    Noise enters per entry, n_head * dim entries in all, and the signal grows with the number of users; the
    constants were chosen on validation parts of MovieLens-1M and MovieLens-100K (docs/evaluation.md).
    """
    signal = facts.signal_to_noise
    cells = 4.5 * signal
    # As many dimensions as items would give back every history as it is and recommend nothing.
    most = min(_MAX_DIM, max(2, facts.n_items // 4))
    dim = facts.embedding_dim or round(min(max(math.sqrt(min(cells, 1e12) / 50), 4), most))
    dim = min(dim, facts.n_items)
    n_head = int(min(max(cells / dim, 50), facts.n_items))
    if facts.rounds:
        if facts.rounds < 2:
            raise ConfigurationError(
                f"Expected rounds >= 2 for the spectral trainer (one of counts), got {facts.rounds}."
            )
        return Size(embedding_dim=min(dim, n_head), n_head=n_head, rounds=facts.rounds)
    return Size(embedding_dim=min(dim, n_head), n_head=n_head, rounds=1 + _iterations(facts))


def _iterations(facts: PublicFacts) -> int:
    signal = facts.signal_to_noise
    if facts.features is not None and signal < 20_000:
        # Public features already give a good start: more of the budget for fewer rounds.
        return 1 if signal < 4_000 else 2
    return 2 if signal < 5_000 else 3 if signal < 50_000 else 5


class Spectral:
    """The trainer; see the module."""

    def plan(self, facts: PublicFacts) -> tuple[Stage, ...]:
        """Counts, then rounds - 1 equal shares of what is left of the budget."""
        iterations = size(facts).rounds - 1
        share = (1 - popularity.BUDGET_SHARE) / iterations
        release = PlannedRelease(released="item embeddings", relative_noise=share**-0.5)
        return (popularity.counts_stage(), *[Stage(name=SUBSPACE, release=release)] * iterations)

    def start(self, facts: PublicFacts, rng: np.random.Generator) -> SpectralState:
        """Draw a random start [n_items, dim - 1]; it is not used where public features give a better one."""
        dim = size(facts).embedding_dim
        start = torch.from_numpy(rng.standard_normal((facts.n_items, max(dim - 1, 0))))
        return SpectralState(facts=facts, start=start)

    def tables(self, state: SpectralState, stage: Stage) -> Tables:
        """The head, its damping, q on the head and the current subspace; nothing before the counts."""
        if stage.name == popularity.STAGE or state.popularity is None or state.subspace is None:
            return {}
        head = state.popularity.head
        return {
            "head": head,
            "damping": state.popularity.damping[head].float(),
            "direction": _head_direction(state.popularity).float(),
            "subspace": state.subspace.float(),
        }

    def shape(self, state: SpectralState, stage: Stage) -> tuple[int, int]:
        """Counts [n_items, 1], then the subspace [n_head, dim - 1]."""
        if stage.name == popularity.STAGE or state.subspace is None:
            return state.facts.n_items, 1
        return state.subspace.shape[0], state.subspace.shape[1]

    def contribution(
        self, stage: str, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float]
    ) -> torch.Tensor:
        """Sum over users, sensitivity settings["l2_clip_norm"]: counts [n_items, 1] or subspace [n_head, dim - 1].

        Guarantees: user-level, add or remove one user; a user whose history misses the head adds nothing.
        """
        if stage == popularity.STAGE:
            return popularity.contribute_counts(histories, l2_clip_norm=settings["l2_clip_norm"])
        return power_step(tables, histories, l2_clip_norm=settings["l2_clip_norm"])

    def local_update(
        self, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float], noise: LocalNoise
    ) -> torch.Tensor:
        """Refuse: there are no local steps here."""
        raise ConfigurationError("Expected a stage with local steps, the spectral trainer has none.")

    def step(
        self, state: SpectralState, stage: Stage, total: torch.Tensor, *, noise_std: float, n_silos: int
    ) -> SpectralState:
        """Popularity from the counts, or the orthonormalised sum; `n_silos` does not matter to directions."""
        if stage.name == popularity.STAGE:
            known = popularity.noised_popularity(total, noise_std=noise_std, n_head=size(state.facts).n_head)
            return replace(state, popularity=known, subspace=_first_subspace(state, known))
        if state.popularity is None:
            raise ConfigurationError("Expected the counts before a subspace round. Run the plan in order.")
        return replace(state, subspace=orthonormal(total.double(), against=_head_direction(state.popularity)))

    def item_embeddings(self, state: SpectralState) -> ItemEmbeddings:
        """V = [W, q] on the head and q alone elsewhere; u = V^T x, score = V u + b."""
        n_items = state.facts.n_items
        if state.popularity is None or state.subspace is None:
            vectors, counts = torch.zeros(n_items, 1), torch.zeros(n_items)
            weights = torch.ones(n_items)
        else:
            known = state.popularity
            vectors = torch.zeros(n_items, state.subspace.shape[1] + 1, dtype=torch.float64)
            vectors[known.head, :-1] = state.subspace
            vectors[:, -1] = known.direction
            counts, weights = BIAS * known.direction, known.damping
        return ItemEmbeddings(
            vectors=vectors.float(),
            bias=counts.float(),
            history_weights=weights.float(),
            fold_in=_PROJECTION,
            catalogue_hash=state.facts.catalogue_hash,
        )


def _head_direction(known: NoisedPopularity) -> torch.Tensor:
    return popularity.unit(known.direction[known.head])


def _first_subspace(state: SpectralState, known: NoisedPopularity) -> torch.Tensor:
    direction, start = _head_direction(known), state.start[known.head]
    if state.facts.features is not None:
        weights = (known.counts * known.damping.square())[known.head].sqrt()
        found = leading_directions(state.facts.features[known.head.numpy()], weights=weights, dim=start.shape[1])
        start = torch.cat([found, start[:, found.shape[1] :]], dim=1)
    return orthonormal(start, against=direction)
