"""spectral: noisy subspace iteration on the users' histories; very few rounds.

With x_u the damped, normalised history of user u over the head items (norm 1), q the direction of
popularity and W [n_head, k] orthonormal and orthogonal to q, a user contributes

    (x_u - q q^T x_u) (x_u^T W),   scaled to norm exactly 1 ("automatic" clipping, arXiv 2206.07136)

The sum is the power iteration of the centred second-moment matrix with users weighed equally; the server
re-orthonormalises the noisy sum (noisy power method, Hardt and Price, arXiv 1311.2495). Scaling every
contribution to the same norm matters: a clip norm that fits one round would drown another in noise. No clip norm is
left to choose.

Before the iteration two things are released: popularity q with the head (see `popularity`), and the co-occurrence of
the most frequent items (see `cooccurrence`), whose leading eigenvectors are the first W. A random start would spend a
round on a projection of length sqrt(k / n_head). Where pairs are little but noise and there are public item features,
the leading directions of these are the first W instead, and the round is another one of the subspace.

What follows a release is free: the diagonal is taken off (see `subspace`); the basis is that of all rounds' tables
side by side, each over its noise, so that none is thrown away; directions count by how far they stand out of the
noise. Public item features, where there are any, smooth what is released instead, and are a few columns of the model,
so that items outside the head are ranked too.

A training that comes after others of its federation starts from what they have released: counts and tables of all
trainings are pooled by their noise (see `pooling`), the basis of the pool is the first W, and the round of
co-occurrence becomes another one of the subspace.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from recsys_fed.errors import ConfigurationError
from recsys_fed.models.histories import Signal, UserHistories
from recsys_fed.models.items import FoldIn, ItemEmbeddings
from recsys_fed.privacy.events import PlannedRelease
from recsys_fed.trainers import ordered, popularity
from recsys_fed.trainers.cooccurrence import cooccurrence_step, packed_columns, unpack
from recsys_fed.trainers.ordered import OrderedState, OrderedSubspace, window_of
from recsys_fed.trainers.pooling import Products, ReleasedTable, pool_products, product, products_of, side_by_side
from recsys_fed.trainers.popularity import BUDGET_SHARE, NoisyPopularity, most_frequent
from recsys_fed.trainers.subspace import (
    direction_weights,
    even_out_scales,
    leading_columns,
    orthonormal,
    over_largest,
    power_step,
    principal_features,
    smooth,
    without_diagonal,
)
from recsys_fed.trainers.trainer import Layout, PublicFacts, Stage, TableLayout, Tables, Trainer

# From this signal on noise is no limit, and dimensions count by their singular values.
_CLEAR = 1e6
_MAX_DIM, _MAX_DIM_CLEAR, _CLEAR_SPECTRUM = 64, 96, 0.25
_MIN_HEAD = 50
# Pairs among more items than this add next to nothing, and cost the square in time and bytes.
_MAX_START = 512
# The popularity of all items also enters as a bias, so that an empty history has a ranking.
PRIOR = 0.05
# Below these signals popularity is most of what can be learned: its counts get more of the budget, and it counts more
# in the score.
_FAINT, _FAINT_WITH_FEATURES = 1_000, 500
_FAINT_COUNTS_SHARE, _FAINT_PRIOR = 0.25, 0.2
# Below these signals of pairs popularity counts more still: what is left to learn is told from little.
_SPARSE, _SPARSE_WITH_FEATURES, _SPARSE_PRIOR = 800, 240, 0.5
# Below this signal the directions of public features are a better start than pairs.
_START_FROM_FEATURES = 3_500
# And as much as this over the declared interactions of a user: few of them say little of a taste.
_SHORT_PRIOR = 5.0


@dataclass(frozen=True, kw_only=True)
class Size:
    """Dimensions of the released subspace (popularity included), head items, rounds, and what else follows.

    Attributes:
        embedding_dim, n_head: columns (popularity included) and rows of the subspace.
        n_start: items whose co-occurrence starts it.
        rounds: counts, co-occurrence, and those of the subspace.
        counts_share: of the budget, for the counts.
        prior: weight of popularity as a bias, the same for everybody, beside scores of size one.
        spectrum: a direction is in the model with (singular value / largest) to this power.
    """

    embedding_dim: int
    n_head: int
    n_start: int
    rounds: int
    counts_share: float = BUDGET_SHARE
    prior: float = PRIOR
    spectrum: float = 0.0


def size(facts: PublicFacts) -> Size:
    """The rule: how much can be learned from so many users under so much noise. It reads public facts only.

    Noise enters per entry, n_head * dim entries in all, and the signal grows with the number of users. Public
    features pay for more entries where the signal is small, because the rows are smoothed by them afterwards. The
    constants were chosen on validation parts of MovieLens-1M and MovieLens-100K (docs/evaluation.md).
    """
    signal = min(facts.signal_to_noise, 1e12)
    featured = facts.features is not None
    # As many dimensions as items would give back every history as it is and recommend nothing.
    most = min(_MAX_DIM if signal < _CLEAR else _MAX_DIM_CLEAR, max(2, facts.n_items // 4))
    wanted = signal**0.4 if featured else 0.3 * math.sqrt(signal) + 3
    dim = min(facts.embedding_dim or round(min(max(wanted, 4), most)), facts.n_items)
    # For dim = signal^0.4, 150 signal^0.65 cells are 150 signal^0.25 rows; beyond signal 10^4 the other grows faster.
    entries = max(150 * signal**0.65, 4.5 * signal) if featured else 4 * signal
    n_head = int(min(max(entries / dim, _MIN_HEAD), facts.n_items))
    dim = min(dim, n_head)
    pairs = min((5 if featured else 3.7) * math.sqrt(signal), _MAX_START)
    faint = signal < (_FAINT_WITH_FEATURES if featured else _FAINT)
    sparse = facts.signal_of_pairs < (_SPARSE_WITH_FEATURES if featured else _SPARSE)
    short = min(_SHORT_PRIOR / facts.declared_interactions, 1.0) if facts.declared_interactions else 0.0
    return Size(
        embedding_dim=dim,
        n_head=n_head,
        n_start=int(min(max(pairs, _MIN_HEAD, 2 * dim), n_head)),
        rounds=facts.rounds or (4 if signal < 50_000 else 5),
        counts_share=_FAINT_COUNTS_SHARE if faint else BUDGET_SHARE,
        prior=max(_SPARSE_PRIOR if sparse else _FAINT_PRIOR if faint else PRIOR, short),
        spectrum=0.0 if signal < _CLEAR else _CLEAR_SPECTRUM,
    )


def _check_rounds(facts: PublicFacts) -> None:
    """Refuse rounds that leave nothing after the counts.

    Raises:
        ConfigurationError: one round was asked for.
    """
    if facts.rounds == 1:
        raise ConfigurationError(
            "Expected rounds >= 2 for the spectral trainer (one of counts), got 1. Leave rounds at 0 for the rule."
        )


COOCCURRENCE, SUBSPACE = "co-occurrence", "subspace"
# See `subspace.even_out_scales`; chosen on validation.
_EVENING = 0.4
# Directions of public features behind the smoothing, and those that are part of the model with their weight.
_SMOOTHING_DIM, _PUBLIC_DIM, _PUBLIC_WEIGHT = 60, 16, 0.5
_PROJECTION = FoldIn(kind="projection")
# Columns of the pool beyond those of the basis that are looked at; more are noise.
_SPARE_COLUMNS = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class SpectralState:
    """What the server holds between rounds; all of it follows from releases and public facts.

    The next round asks with W = subspace * scales, of which the subspace is orthonormal. Its directions are in the
    model with the weights `useful`.

    Attributes:
        start_rows: of the items whose co-occurrence is asked for, ascending, int64 [n_start].
        pooled: the subspace rounds' tables side by side, each over its noise, float64 [n_head, rounds * k].
        asked: what they were asked with, on the scale of `pooling.product`; of a training that came after others.
        start: drawn directions float64 [n_items, k], of one that came after others: where those released no subspace.
    """

    facts: PublicFacts
    popularity: NoisyPopularity | None = None
    start_rows: torch.Tensor | None = None
    subspace: torch.Tensor | None = None
    scales: torch.Tensor | None = None
    useful: torch.Tensor | None = None
    pooled: torch.Tensor | None = None
    asked: torch.Tensor | None = None
    start: torch.Tensor | None = None


_State = SpectralState | OrderedState


@dataclass(frozen=True, kw_only=True)
class Spectral(Trainer):
    """The trainer; see the module.

    Attributes:
        fixed: dimensions, head items and rounds set by hand in place of the rule, as sweeps do.
    """

    name: ClassVar[str] = "spectral"
    reads: ClassVar[frozenset[Signal]] = frozenset({"weight"})

    fixed: Size | None = None

    def _size(self, facts: PublicFacts) -> Size:
        return self.fixed or size(facts)

    def _starts_from_pairs(self, facts: PublicFacts) -> bool:
        """Whether co-occurrence is released: in a first training, unless public features are a better start.

        They are where noise hides pairs, if there are as many of them as directions. Chosen on validation.
        """
        many = facts.features is not None and facts.features.shape[1] >= self._columns(facts)
        return not facts.earlier_trainings and not (many and facts.signal_to_noise < _START_FROM_FEATURES)

    def plan(self, facts: PublicFacts) -> tuple[Stage, ...]:
        """Counts, then co-occurrence (where a training starts from it) and the subspace, which share what is left."""
        if window_of(facts):
            return OrderedSubspace().plan(facts)
        _check_rounds(facts)
        chosen = self._size(facts)
        noise = ((1 - chosen.counts_share) / (chosen.rounds - 1)) ** -0.5
        pairs = PlannedRelease(released="item co-occurrences", relative_noise=noise)
        table = PlannedRelease(released="item embeddings", relative_noise=noise)
        subspace = Stage(name=SUBSPACE, release=table, kept=True)
        start = Stage(name=COOCCURRENCE, release=pairs) if self._starts_from_pairs(facts) else subspace
        return (
            popularity.counts_stage(share=chosen.counts_share),
            start,
            *[subspace] * (chosen.rounds - 2),
        )

    def start(self, facts: PublicFacts, rng: np.random.Generator) -> _State:
        """Nothing is known, nothing is drawn, but for ordered rounds and trainings that come after others."""
        if window_of(facts):
            return OrderedSubspace().start(facts, rng)
        if not facts.earlier_trainings:
            return SpectralState(facts=facts)
        drawn = rng.standard_normal((facts.n_items, self._columns(facts)))
        return SpectralState(facts=facts, start=torch.from_numpy(drawn))

    def tables(self, state: _State, stage: Stage) -> Tables:
        """Rows, their damping and q on them, and the subspace once there is one; nothing before the counts."""
        if isinstance(state, OrderedState):
            return OrderedSubspace().tables(state, stage)
        if stage.name == popularity.STAGE or state.popularity is None or state.start_rows is None:
            return {}
        rows = state.start_rows if stage.name == COOCCURRENCE else state.popularity.head
        tables = {
            "head": rows,
            "damping": state.popularity.damping[rows].float(),
            "direction": _direction_on(state.popularity, rows).float(),
        }
        return tables if stage.name == COOCCURRENCE else tables | {"subspace": _asked(state).float()}

    def layout(self, facts: PublicFacts, stage: Stage) -> Layout:
        """Counts [n_items, 1], pairs [n_start, n_start // 2 + 1], then the subspace [n_head, dim - 1]."""
        if window_of(facts):
            return OrderedSubspace().layout(facts, stage)
        if stage.name == popularity.STAGE:
            return Layout(shape=(facts.n_items, 1))
        chosen = self._size(facts)
        n_rows = min(chosen.n_start if stage.name == COOCCURRENCE else chosen.n_head, facts.n_items)
        tables = {
            "head": TableLayout(dtype=torch.int64, shape=(n_rows,)),
            "damping": TableLayout(dtype=torch.float32, shape=(n_rows,)),
            "direction": TableLayout(dtype=torch.float32, shape=(n_rows,)),
        }
        if stage.name == COOCCURRENCE:
            return Layout(shape=(n_rows, packed_columns(n_rows)), tables=tables)
        shape = (n_rows, self._columns(facts))
        return Layout(shape=shape, tables=tables | {"subspace": TableLayout(dtype=torch.float32, shape=shape)})

    def _columns(self, facts: PublicFacts) -> int:
        """k, the dimensions of the subspace beside popularity."""
        return max(self._size(facts).embedding_dim - 1, 0)

    def contribution(
        self, stage: str, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float]
    ) -> torch.Tensor:
        """Sum over users, sensitivity settings["l2_clip_norm"], in the shape of `layout`.

        Guarantees: user-level, add or remove one user; a user whose history misses the head adds nothing.
        """
        clip_norm = settings["l2_clip_norm"]
        if stage == popularity.STAGE:
            return popularity.contribute_counts(histories, l2_clip_norm=clip_norm)
        if stage == ordered.STAGE:
            return OrderedSubspace().contribution(stage, tables, histories, settings=settings)
        if stage == COOCCURRENCE:
            return cooccurrence_step(tables, histories, l2_clip_norm=clip_norm)
        return power_step(tables, histories, l2_clip_norm=clip_norm)

    def step(self, state: _State, stage: Stage, total: torch.Tensor, *, noise_std: float, n_silos: int) -> _State:
        """Popularity from the counts, or the basis of the estimate; `n_silos` does not matter to directions."""
        if isinstance(state, OrderedState):
            return OrderedSubspace().step(state, stage, total, noise_std=noise_std, n_silos=n_silos)
        chosen = self._size(state.facts)
        if stage.name == popularity.STAGE:
            known = popularity.estimate_popularity(
                total, noise_std=noise_std, n_head=chosen.n_head, facts=state.facts
            )
            pairs = self._starts_from_pairs(state.facts)
            rows = most_frequent(total[:, 0].double(), chosen.n_start) if pairs else known.head
            state = replace(state, popularity=known, start_rows=rows)
            if pairs:
                return state
            return self._start_from_earlier(state) if state.facts.earlier_trainings else self._start_public(state)
        if stage.name == COOCCURRENCE:
            return self._start_subspace(state, total.double(), noise_std=noise_std)
        return self._iterate(state, total.double(), noise_std=noise_std)

    def _start_subspace(self, state: SpectralState, total: torch.Tensor, *, noise_std: float) -> SpectralState:
        """The leading eigenvectors of the released pairs, of length zero outside of their rows."""
        known, rows = _known(state)
        direction = _direction_on(known, rows)
        moment = unpack(total)
        along = moment @ direction
        moment = moment - direction[:, None] * along - along[:, None] * direction
        moment += (direction @ along) * direction[:, None] * direction
        dim = min(self._columns(state.facts), len(rows))
        values, vectors = torch.linalg.eigh(moment)
        table = vectors.flip(1)[:, :dim] * values.flip(0)[:dim].clamp_min(0)
        # Noise on a pair is 1 / sqrt(2) of that on the packed entry.
        table = _smooth_by_features(table, state.facts, known, rows=rows, noise_std=noise_std / 2**0.5)
        basis = orthonormal(table, against=direction)
        subspace = torch.zeros(len(known.head), self._columns(state.facts), dtype=torch.float64)
        scales = torch.ones(subspace.shape[1], dtype=torch.float64)
        subspace[torch.searchsorted(known.head, rows), :dim] = basis
        scales[:dim] = even_out_scales((basis.T @ table).norm(dim=1), exponent=_EVENING)
        return replace(state, subspace=subspace, scales=scales)

    def _iterate(self, state: SpectralState, total: torch.Tensor, *, noise_std: float) -> SpectralState:
        """The basis of this round's table and all earlier ones."""
        known, _ = _known(state)
        direction = _direction_on(known, known.head)
        # Noise along q is no part of the estimate, and its basis leaves q out.
        table = total - direction[:, None] * (direction @ total)
        asked = _asked(state)
        table = without_diagonal(table, asked=asked, occurrence=_occurrence(known)[known.head])
        if state.facts.earlier_trainings:
            own = product(asked, table, noise_std=noise_std)
            if state.pooled is not None and state.asked is not None:
                own = side_by_side([Products(asked=state.asked, table=state.pooled), own])
            trainings = [*(self._earlier_products(state) if noise_std else []), own]
            pooled = pool_products(trainings).table
            state = replace(state, pooled=own.table, asked=own.asked)
        else:
            pooled = table / (noise_std or 1.0)
            if state.pooled is not None:
                pooled = torch.cat([state.pooled, pooled], dim=1)
            state = replace(state, pooled=pooled)
        return self._with_basis(state, pooled, noise_std=noise_std)

    def _start_from_earlier(self, state: SpectralState) -> SpectralState:
        """The basis of all that earlier trainings have released of the items that are the head now."""
        earlier = self._earlier_products(state)
        if earlier:
            return self._with_basis(state, pool_products(earlier).table, noise_std=1.0)
        known, _ = _known(state)
        if state.start is None:
            raise ConfigurationError("Expected a start for a training whose earlier ones released no subspace.")
        basis = orthonormal(state.start[known.head], against=_direction_on(known, known.head))
        return replace(state, subspace=basis, scales=torch.ones(basis.shape[1], dtype=torch.float64))

    def _start_public(self, state: SpectralState) -> SpectralState:
        """The leading directions of the public features of the head, items weighed by how often they are had."""
        known, _ = _known(state)
        table = _weighted_features(state.facts, known, rows=known.head, dim=_SMOOTHING_DIM)
        basis = orthonormal(table, against=_direction_on(known, known.head), dim=self._columns(state.facts))
        scales = even_out_scales((basis.T @ table).norm(dim=1), exponent=_EVENING)
        missing = self._columns(state.facts) - basis.shape[1]
        basis, scales = (torch.nn.functional.pad(one, (0, missing)) for one in (basis, scales))
        return replace(state, subspace=basis, scales=scales)

    def _earlier_products(self, state: SpectralState) -> list[Products]:
        """One for each earlier training that has released a subspace, oldest first, over the rows of the head."""
        known, _ = _known(state)
        occurrence = _occurrence(known)

        def prepare(release: ReleasedTable) -> torch.Tensor:
            asked = torch.zeros_like(release.total) if release.asked is None else release.asked
            return without_diagonal(release.total, asked=asked, occurrence=occurrence[release.rows])

        return [
            found
            for releases in state.facts.released_by_training(SUBSPACE)
            if (found := products_of(releases, now=known.head, prepare=prepare)) is not None
        ]

    def _with_basis(self, state: SpectralState, pooled: torch.Tensor, *, noise_std: float) -> SpectralState:
        """The leading directions of a table whose noise is 1, or nothing where `noise_std` is 0."""
        known, _ = _known(state)
        direction = _direction_on(known, known.head)
        columns = self._columns(state.facts)
        if state.facts.earlier_trainings:
            pooled = leading_columns(
                pooled - direction[:, None] * (direction @ pooled), count=columns + _SPARE_COLUMNS
            )
        level = 1.0 if noise_std > 0 else 0.0
        estimate = _smooth_by_features(pooled, state.facts, known, rows=known.head, noise_std=level)
        basis = orthonormal(estimate, against=direction, dim=columns)
        singular = (basis.T @ estimate).norm(dim=1)
        useful = over_largest(singular) ** self._size(state.facts).spectrum
        if state.facts.features is None and noise_std > 0:
            useful = useful * direction_weights(singular, n_rows=len(pooled))
        scales = even_out_scales(singular, exponent=_EVENING)
        if basis.shape[1] < columns:
            # Earlier trainings asked with fewer directions than this one may.
            more = columns - basis.shape[1]
            basis = torch.nn.functional.pad(basis, (0, more))
            scales, useful = (torch.nn.functional.pad(one, (0, more)) for one in (scales, useful))
        return replace(state, subspace=basis, scales=scales, useful=useful)

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


def _known(state: SpectralState) -> tuple[NoisyPopularity, torch.Tensor]:
    """Popularity, and the rows that the subspace starts from.

    Raises:
        ConfigurationError: the counts are not released yet.
    """
    if state.popularity is None or state.start_rows is None:
        raise ConfigurationError("The counts are not there yet. Run the plan in order.")
    return state.popularity, state.start_rows


def _direction_on(known: NoisyPopularity, rows: torch.Tensor) -> torch.Tensor:
    return popularity.unit(known.direction[rows])


def _occurrence(known: NoisyPopularity) -> torch.Tensor:
    """How much each item adds to the diagonal of the second moment, up to a factor: float64 [n_items]."""
    return known.counts * known.damping.square()


def _asked(state: SpectralState) -> torch.Tensor:
    if state.subspace is None or state.scales is None:
        raise ConfigurationError("Expected co-occurrence before a subspace round. Run the plan in order.")
    return state.subspace * state.scales


def _smooth_by_features(
    table: torch.Tensor, facts: PublicFacts, known: NoisyPopularity, *, rows: torch.Tensor, noise_std: float
) -> torch.Tensor:
    """See `subspace.smooth`, by the features of the items `rows`; the table itself without features or noise."""
    if facts.features is None or noise_std <= 0:
        return table
    weights = _occurrence(known)[rows].sqrt()
    features = principal_features(facts.features[rows.numpy()], weights=weights, dim=_SMOOTHING_DIM)
    return smooth(table, features=features, noise_std=noise_std)


def _weighted_features(facts: PublicFacts, known: NoisyPopularity, *, rows: torch.Tensor, dim: int) -> torch.Tensor:
    """Leading directions of the features of the items `rows`, frequent ones longer: [n_rows, at most dim]."""
    if facts.features is None:
        return torch.zeros(len(rows), 0, dtype=torch.float64)
    weights = _occurrence(known)[rows].sqrt()
    weighted: torch.Tensor = principal_features(facts.features[rows.numpy()], weights=weights, dim=dim)
    return weighted * weights[:, None]


def _public_columns(facts: PublicFacts, known: NoisyPopularity) -> torch.Tensor:
    """Weighted leading directions of the public features of all items, [n_items, <= 16]: like items score alike.

    Their Gramian is that of the features over its largest eigenvalue, times the public weight. None where a
    number of dimensions was asked for: all of them are trained then.
    """
    if facts.features is None or facts.embedding_dim:
        return torch.zeros(facts.n_items, 0, dtype=torch.float64)
    columns = _weighted_features(facts, known, rows=torch.arange(facts.n_items), dim=_PUBLIC_DIM)
    largest = columns.norm(dim=0).max() if columns.shape[1] else columns.new_ones(())
    scaled: torch.Tensor = columns * (_PUBLIC_WEIGHT**0.5 / largest.clamp_min(1e-300))
    return scaled
