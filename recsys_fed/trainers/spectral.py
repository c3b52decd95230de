"""spectral: noisy subspace iteration on the users' histories; very few rounds.

With x_u the damped, normalised history of user u over the head items (norm 1), q the direction of
popularity and W [n_head, k] orthonormal and orthogonal to q, a user contributes

    (x_u - q q^T x_u) (x_u^T W),   scaled to norm exactly 1 ("automatic" clipping, arXiv 2206.07136)

The sum is the power iteration of the centred second-moment matrix with users weighed equally; the server
re-orthonormalises the noised sum (noisy power method, Hardt and Price, arXiv 1311.2495). Scaling every
contribution to the same norm matters: the projection on a random start is about sqrt(k / n_head), and a clip
norm that fits later rounds would drown the first one in noise. No clip norm is left to choose.

Before the first round the popularity q and the head are released once (see `popularity`). What follows a release
is free: the diagonal is taken off (see `estimate`), and public item features, where there are any, start the
iteration, smooth what is released, and are a few columns of the model, so that items outside the head are ranked too.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from recsys_fed.errors import ConfigurationError
from recsys_fed.models.histories import UserHistories
from recsys_fed.models.items import FoldIn, ItemEmbeddings
from recsys_fed.privacy.events import PlannedRelease
from recsys_fed.trainers import ordered, popularity
from recsys_fed.trainers.ordered import OrderedState, OrderedSubspace, window_of
from recsys_fed.trainers.popularity import BUDGET_SHARE, NoisedPopularity
from recsys_fed.trainers.subspace import (
    agreeing,
    evened_scales,
    leading_directions,
    orthonormal,
    power_step,
    principal_features,
    reliability,
    smoothed,
    without_diagonal,
)
from recsys_fed.trainers.trainer import Layout, PublicFacts, Stage, TableLayout, Tables, Trainer

_MAX_DIM, _MAX_DIM_WITH_FEATURES = 32, 48
_MIN_HEAD = 50
# The popularity of all items also enters as a bias, so that an empty history has a ranking.
PRIOR = 0.05
# Below these signals popularity is most of what can be learned: its counts get more of the budget, it counts more
# in the score, and directions are weighed.
_FAINT, _FAINT_WITH_FEATURES = 1_000, 500
_FAINT_COUNTS_SHARE, _FAINT_PRIOR = 0.25, 0.2


@dataclass(frozen=True, kw_only=True)
class Size:
    """Dimensions of the released subspace (popularity included), head items, rounds, and what else follows.

    Attributes:
        counts_share: of the budget, for the counts.
        weighted: whether directions count by how reliable they are, see `estimate.reliability`.
        prior: weight of popularity as a bias, the same for everybody, beside scores of size one.
    """

    embedding_dim: int
    n_head: int
    rounds: int
    counts_share: float = BUDGET_SHARE
    weighted: bool = False
    prior: float = PRIOR


def size(facts: PublicFacts) -> Size:
    """The rule: how much can be learned from so many users under so much noise. It reads public facts only.

    Noise enters per entry, n_head * dim entries in all, and the signal grows with the number of users. Public
    features pay for more entries where the signal is small, because the rows are smoothed by them afterwards. The
    constants were chosen on validation parts of MovieLens-1M and MovieLens-100K (docs/evaluation.md).
    """
    signal = min(facts.signal_to_noise, 1e12)
    featured = facts.features is not None
    cells = 4.5 * signal
    # As many dimensions as items would give back every history as it is and recommend nothing.
    most = min(_MAX_DIM_WITH_FEATURES if featured else _MAX_DIM, max(2, facts.n_items // 4))
    wanted = signal**0.4 if featured else math.sqrt(cells / 50)
    dim = min(facts.embedding_dim or round(min(max(wanted, 4), most)), facts.n_items)
    # For dim = signal^0.4, 150 signal^0.65 cells are 150 signal^0.25 rows; beyond signal 10^4 the other grows faster.
    entries = max(150 * signal**0.65, cells) if featured else cells
    n_head = int(min(max(entries / dim, _MIN_HEAD), facts.n_items))
    faint = signal < (_FAINT_WITH_FEATURES if featured else _FAINT)
    return Size(
        embedding_dim=min(dim, n_head),
        n_head=n_head,
        rounds=facts.rounds or 1 + _iterations(facts),
        counts_share=_FAINT_COUNTS_SHARE if faint else BUDGET_SHARE,
        weighted=faint and not featured,
        prior=_FAINT_PRIOR if faint else PRIOR,
    )


def check_rounds(facts: PublicFacts) -> None:
    """Refuse rounds that leave nothing after the counts.

    Raises:
        ConfigurationError: one round was asked for.
    """
    if facts.rounds == 1:
        raise ConfigurationError(
            "Expected rounds >= 2 for the spectral trainer (one of counts), got 1. Leave rounds at 0 for the rule."
        )


def _iterations(facts: PublicFacts) -> int:
    signal = facts.signal_to_noise
    if facts.features is not None and signal < 20_000:
        # Public features already give a good start: more of the budget for fewer rounds.
        return 2
    return 2 if signal < 5_000 else 3 if signal < 50_000 else 5


SUBSPACE = "subspace"
# Rounds after the first get this many times its share of the budget: the first one has only to find the space.
LATER_SHARE = 2.0
# Directions of public features behind the smoothing, and those that are part of the model with their weight.
_SMOOTHING_DIM, _PUBLIC_DIM, _PUBLIC_WEIGHT = 60, 16, 0.5
_PROJECTION = FoldIn(kind="projection")


@dataclass(frozen=True, kw_only=True, eq=False)
class SpectralState:
    """What the server holds between rounds; all of it follows from releases and public facts.

    The next round asks with W = subspace * scales, of which the subspace is orthonormal. Its directions are in the
    model with the weights `useful`, which are zero for some.
    """

    facts: PublicFacts
    start: torch.Tensor
    popularity: NoisedPopularity | None = None
    subspace: torch.Tensor | None = None
    scales: torch.Tensor | None = None
    useful: torch.Tensor | None = None


_State = SpectralState | OrderedState


@dataclass(frozen=True, kw_only=True)
class Spectral(Trainer):
    """The trainer; see the module.

    Attributes:
        fixed: dimensions, head items and rounds set by hand in place of the rule, as sweeps do.
    """

    name: ClassVar[str] = "spectral"

    fixed: Size | None = None

    def _size(self, facts: PublicFacts) -> Size:
        return self.fixed or size(facts)

    def plan(self, facts: PublicFacts) -> tuple[Stage, ...]:
        """Counts, then subspace rounds that share what is left of the budget, the first with a smaller part."""
        if window_of(facts):
            return OrderedSubspace().plan(facts)
        check_rounds(facts)
        chosen = self._size(facts)
        parts = [1.0, *[LATER_SHARE] * (chosen.rounds - 2)]
        shares = [(1 - chosen.counts_share) * part / sum(parts) for part in parts]
        releases = [PlannedRelease(released="item embeddings", relative_noise=share**-0.5) for share in shares]
        counts = popularity.counts_stage(share=chosen.counts_share)
        return (counts, *[Stage(name=SUBSPACE, release=release) for release in releases])

    def start(self, facts: PublicFacts, rng: np.random.Generator) -> _State:
        """Draw a random start [n_items, dim - 1]; it is not used where public features give a better one."""
        if window_of(facts):
            return OrderedSubspace().start(facts, rng)
        dim = self._size(facts).embedding_dim
        start = torch.from_numpy(rng.standard_normal((facts.n_items, max(dim - 1, 0))))
        return SpectralState(facts=facts, start=start)

    def tables(self, state: _State, stage: Stage) -> Tables:
        """The head, its damping, q on the head and the current subspace; nothing before the counts."""
        if isinstance(state, OrderedState):
            return OrderedSubspace().tables(state, stage)
        if stage.name == popularity.STAGE or state.popularity is None or state.subspace is None:
            return {}
        head = state.popularity.head
        return {
            "head": head,
            "damping": state.popularity.damping[head].float(),
            "direction": _head_direction(state.popularity).float(),
            "subspace": _asked(state).float(),
        }

    def layout(self, facts: PublicFacts, stage: Stage) -> Layout:
        """Counts [n_items, 1], then the subspace [n_head, dim - 1]."""
        if window_of(facts):
            return OrderedSubspace().layout(facts, stage)
        if stage.name == popularity.STAGE:
            return Layout(shape=(facts.n_items, 1))
        chosen = self._size(facts)
        n_head, dim = min(chosen.n_head, facts.n_items), max(chosen.embedding_dim - 1, 0)
        tables = {
            "head": TableLayout(dtype=torch.int64, shape=(n_head,)),
            "damping": TableLayout(dtype=torch.float32, shape=(n_head,)),
            "direction": TableLayout(dtype=torch.float32, shape=(n_head,)),
            "subspace": TableLayout(dtype=torch.float32, shape=(n_head, dim)),
        }
        return Layout(shape=(n_head, dim), tables=tables)

    def contribution(
        self, stage: str, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float]
    ) -> torch.Tensor:
        """Sum over users, sensitivity settings["l2_clip_norm"]: counts [n_items, 1] or subspace [n_head, dim - 1].

        Guarantees: user-level, add or remove one user; a user whose history misses the head adds nothing.
        """
        if stage == popularity.STAGE:
            return popularity.contribute_counts(histories, l2_clip_norm=settings["l2_clip_norm"])
        if stage == ordered.STAGE:
            return OrderedSubspace().contribution(stage, tables, histories, settings=settings)
        return power_step(tables, histories, l2_clip_norm=settings["l2_clip_norm"])

    def step(self, state: _State, stage: Stage, total: torch.Tensor, *, noise_std: float, n_silos: int) -> _State:
        """Popularity from the counts, or the basis of the estimate; `n_silos` does not matter to directions."""
        if isinstance(state, OrderedState):
            return OrderedSubspace().step(state, stage, total, noise_std=noise_std, n_silos=n_silos)
        if stage.name == popularity.STAGE:
            known = popularity.noised_popularity(total, noise_std=noise_std, n_head=self._size(state.facts).n_head)
            return replace(state, popularity=known, subspace=_first_subspace(state, known))
        if state.popularity is None:
            raise ConfigurationError("Expected the counts before a subspace round. Run the plan in order.")
        known, direction = state.popularity, _head_direction(state.popularity)
        occurrence = (known.counts * known.damping.square())[known.head]
        # Noise along q is no part of the estimate, and its basis leaves q out.
        table = total.double() - direction[:, None] * (direction @ total.double())
        table = without_diagonal(table, asked=_asked(state), occurrence=occurrence)
        if state.facts.features is not None and noise_std > 0:
            features = state.facts.features[known.head.numpy()]
            rows = principal_features(features, weights=occurrence.sqrt(), dim=_SMOOTHING_DIM)
            table = smoothed(table, features=rows, noise_std=noise_std)
        basis = orthonormal(table, against=direction)
        useful = agreeing(basis, table, asked=_asked(state)).double()
        if self._size(state.facts).weighted and noise_std > 0:
            useful = (
                useful * reliability((basis.T @ table).norm(dim=1), n_rows=len(table), noise_std=noise_std).sqrt()
            )
        return replace(state, subspace=basis, scales=evened_scales(basis, table), useful=useful)

    def item_embeddings(self, state: _State) -> ItemEmbeddings:
        """V = [W, q, public features] on the head, no W elsewhere; u = V^T x, score = V u + b."""
        if isinstance(state, OrderedState):
            return OrderedSubspace().item_embeddings(state)
        n_items = state.facts.n_items
        if state.popularity is None or state.subspace is None:
            vectors, counts = torch.zeros(n_items, 1), torch.zeros(n_items)
            weights = torch.ones(n_items)
        else:
            known = state.popularity
            learned = torch.zeros(n_items, state.subspace.shape[1], dtype=torch.float64)
            learned[known.head] = state.subspace if state.useful is None else state.subspace * state.useful
            vectors = torch.cat([learned, known.direction[:, None], _public_columns(state.facts, known)], dim=1)
            counts, weights = self._size(state.facts).prior * known.direction, known.damping
        return ItemEmbeddings(
            vectors=vectors.float(),
            bias=counts.float(),
            history_weights=weights.float(),
            fold_in=_PROJECTION,
            catalogue_hash=state.facts.catalogue_hash,
        )


def _head_direction(known: NoisedPopularity) -> torch.Tensor:
    return popularity.unit(known.direction[known.head])


def _asked(state: SpectralState) -> torch.Tensor:
    if state.subspace is None:
        raise ConfigurationError("Expected the counts before a subspace round. Run the plan in order.")
    return state.subspace if state.scales is None else state.subspace * state.scales


def _first_subspace(state: SpectralState, known: NoisedPopularity) -> torch.Tensor:
    direction, start = _head_direction(known), state.start[known.head]
    if state.facts.features is not None:
        weights = (known.counts * known.damping.square())[known.head].sqrt()
        found = leading_directions(state.facts.features[known.head.numpy()], weights=weights, dim=start.shape[1])
        start = torch.cat([found, start[:, found.shape[1] :]], dim=1)
    return orthonormal(start, against=direction)


def _public_columns(facts: PublicFacts, known: NoisedPopularity) -> torch.Tensor:
    """Weighted leading directions of the public features of all items, [n_items, <= 16]: like items score alike.

    Their Gramian is that of the features over its largest eigenvalue, times the public weight. None where a
    number of dimensions was asked for: all of them are trained then.
    """
    if facts.features is None or facts.embedding_dim:
        return torch.zeros(facts.n_items, 0, dtype=torch.float64)
    weights = (known.counts * known.damping.square()).sqrt()
    columns = principal_features(facts.features, weights=weights, dim=_PUBLIC_DIM) * weights[:, None]
    largest = columns.norm(dim=0).max() if columns.shape[1] else columns.new_ones(())
    scaled: torch.Tensor = columns * (_PUBLIC_WEIGHT**0.5 / largest.clamp_min(1e-300))
    return scaled
