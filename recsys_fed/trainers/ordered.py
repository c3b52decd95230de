"""Order in the subspace of spectral: items that follow each other closely count as together.

With i_1 ... i_n the items of user u in order, g = 2^(-1 / half-life) and D the damping,

    C_u = sum over p != r of g^(|p - r| - 1) x_p x_r e_{i_p} e_{i_r}^T    (|p - r| at most `window`)

with x the weights of the interactions, ones without any. The user sends D C_u D W, scaled to norm exactly 1. Row p of
C_u D W needs two sums over the neighbours before and after p; sums over 2m of them are two sums over m, so that a
window of L takes log2(L) passes over the interactions: O(n k log L), on every device by the same code. Histories
without an order count all pairs of a user alike.

The server iterates as in `spectral`. What is scored with is whitened: without the singular values, and without the
damping, which would put the frequent before the fitting,

    V = R^-1 D^-1 B,   w = R D^2,   u = sum over the history of 2^(-age / RECENCY) w_i v_i

with B the last orthonormal basis, on the head, and R the lengths of the rows of D^-1 B to the power ROW_EXPONENT:
what is frequent has long rows. The direction of the user's vector is that without R. A training that comes after
others starts from the basis of what they have released, and takes its own from the pool of all (`pooling`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from threading import Lock
from typing import ClassVar

import numpy as np
import torch
from scipy import sparse

from recsys_fed import checks
from recsys_fed.errors import ConfigurationError
from recsys_fed.models.histories import Histories, Signal, UserHistories, block_bounds, for_each_block, positions
from recsys_fed.models.items import FoldIn, ItemEmbeddings
from recsys_fed.privacy.events import PlannedRelease
from recsys_fed.trainers import popularity
from recsys_fed.trainers.exact_sum import UNIT, in_units
from recsys_fed.trainers.pooling import Products, pool_products, product, products_of, side_by_side
from recsys_fed.trainers.popularity import NoisyPopularity
from recsys_fed.trainers.subspace import (
    agreeing,
    even_out_scales,
    leading_directions,
    orthonormal,
    principal_features,
    smooth,
)
from recsys_fed.trainers.trainer import Layout, PublicFacts, Stage, TableLayout, Tables, Trainer

STAGE = "ordered subspace"
HALF_LIFE = "half_life"
# A neighbour beyond so many half-lives counts for less than a fiftieth and is left out.
_HALF_LIVES = 5.6
# Interactions whose rows are held at once: a few MB, which a processor keeps at hand.
_CHUNK = 1 << 14


def window(half_life: float) -> int:
    """How many neighbours on each side count: a power of two.

    >>> window(3.5), window(0.1), window(10_000)
    (32, 1, 65536)
    """
    reach = 1
    while reach < _HALF_LIVES * half_life:
        reach *= 2
    return reach


def ordered_step(tables: Tables, histories: UserHistories, *, half_life: float, l2_clip_norm: float) -> torch.Tensor:
    """Sum over users of D C_u D W, each scaled to l2_clip_norm: float64 [n_head, k].

    Args:
        tables: head int64 [n_head] ascending, damping float32 [n_head], subspace float32 [n_head, k].
        histories: of the silo's users.
        half_life: of the window, in positions; items outside the head keep their places in it.
        l2_clip_norm: what a user may add.

    Guarantees:
        - Unit: a user. Neighbouring relation: add or remove one user. The L2 (Frobenius) sensitivity is l2_clip_norm,
          whatever the tables hold and whatever is in the history. The norm is that of the rows which are sent: those
          of an item that a user has several times are added before it is taken. They are in float64, cut off towards
          zero afterwards, and added as integers.
        - A user's term depends on that user's interactions, their order and the tables only: no sum passes from one
          user to the next. A user whose term is zero or overflows counts for nothing.
        - Blocks, threads, and the order of users do not change a bit of the result on one device.
    """
    checks.positive(l2_clip_norm=l2_clip_norm, half_life=half_life)
    n_head, k = tables["subspace"].shape
    largest = tables["damping"].double().abs().amax().clamp_min(1e-300) if n_head else 1.0
    damping = tables["damping"].double() / largest
    # Rows D W, and one of zeros for items outside the head.
    table = torch.nn.functional.pad(damping[:, None] * tables["subspace"].double(), (0, 0, 0, 1))
    weights = torch.nn.functional.pad(damping.square(), (0, 1))
    places = positions(tables["head"], histories.n_items, dtype=torch.int32)
    places[places < 0] = n_head
    total = torch.zeros(n_head, k, dtype=torch.int64, device=damping.device)
    adding = Lock()

    def work(_: int, block: Histories) -> None:
        for first, last in block_bounds(block.starts.cpu().numpy(), interactions=max(_CHUNK, n_head)):
            part = over_head(block.block(first, last), places, n_head=n_head)
            sums = _add_repeated(part, neighbour_sums(part, table, half_life=half_life))
            units = in_units(sums * lengths_of_terms(part, sums, weights)[part.users][:, None])
            added = sum_by_item(part, units)[:n_head].long()
            with adding:
                total.add_(added)

    for_each_block(histories, work)
    return damping[:, None] * total * (UNIT * l2_clip_norm)


def over_head(block: Histories, places: torch.Tensor, *, n_head: int) -> Histories:
    """The same interactions with rows of the head for items; n_head stands for all others."""
    return Histories(
        items=places.index_select(0, block.items), starts=block.starts, n_items=n_head + 1, signals=block.signals
    )


def neighbour_sums(part: Histories, table: torch.Tensor, *, half_life: float) -> torch.Tensor:
    """For each interaction x_p sum_r g^(|p - r| - 1) x_r table[i_r] over its neighbours r, [n_interactions, k]."""
    sums = _neighbour_sums(part, table, half_life=half_life)
    return sums if part.weights is None else sums.mul_(part.weights[:, None])


def _neighbour_sums(part: Histories, table: torch.Tensor, *, half_life: float) -> torch.Tensor:
    """The same without x_p."""
    sizes = part.starts.diff()
    if part.signals is None or part.signals.rank is None:
        rows = _rows_of(part, table, slice(None))
        return _sum_runs(rows, sizes)[part.users] - rows
    order, g, reach = part.by_order, 2.0 ** (-1 / half_life), window(half_life)
    rows = _rows_of(part, table, order)
    rank = part.signals.rank[order].long()
    after = (sizes[part.users] - 1 - rank).flip(0)
    sums = _sums_before(rows, rank, g=g, reach=reach)
    sums += _sums_before(rows.flip(0), after, g=g, reach=reach).flip(0)
    placed = torch.empty_like(sums)
    placed[order] = sums
    return placed


def _rows_of(part: Histories, table: torch.Tensor, places: torch.Tensor | slice) -> torch.Tensor:
    """x_r table[i_r] of the interactions at `places`, [n, k]."""
    rows = table.index_select(0, part.items[places])
    return rows if part.weights is None else rows.mul_(part.weights[places, None])


def _sums_before(rows: torch.Tensor, rank: torch.Tensor, *, g: float, reach: int) -> torch.Tensor:
    """sum_{j=1}^{reach} g^(j-1) rows[p - j], of those with p - j of the same user, [n, k].

    With S_m[p] = sum_{j=0}^{m-1} g^j rows[p - j]: S_2m[p] = S_m[p] + g^m S_m[p - m] where rank[p] >= m, else S_m[p].
    """
    sums, other, m = rows.clone(), torch.empty_like(rows), 1
    while m < reach:
        factors = torch.where(rank[m:] >= m, g**m, 0.0)[:, None].to(rows.dtype)
        other[:m] = sums[:m]
        torch.addcmul(sums[m:], factors, sums[:-m], out=other[m:])
        sums, other, m = other, sums, 2 * m
    before = torch.zeros_like(sums)
    before[1:] = torch.where(rank[1:, None] >= 1, sums[:-1], 0.0)
    return before


def _add_repeated(part: Histories, sums: torch.Tensor) -> torch.Tensor:
    """Rows of one user and item added at one of its interactions, zeros at the others."""
    order = part.order.long()
    items, users = part.items[order], part.users[order]
    again = torch.zeros(len(order), dtype=torch.bool, device=order.device)
    again[1:] = (items[1:] == items[:-1]) & (users[1:] == users[:-1]) & (items[1:] < part.n_items - 1)
    if not bool(again.any()):
        return sums
    firsts = torch.nonzero(~again)[:, 0]
    ends = torch.cat([firsts[1:], firsts.new_tensor([len(order)])])
    added = torch.zeros_like(sums)
    added[order[firsts]] = _sum_runs(sums[order], ends - firsts)
    return added


def sum_by_item(part: Histories, units: torch.Tensor) -> torch.Tensor:
    """Rows of each item added up, float64 [n_items, k]; exact, as they are whole numbers below 2^31."""
    if not len(units):
        return units.new_zeros(part.n_items, units.shape[1])
    ones, order = torch.ones(len(units), dtype=torch.float64, device=units.device), part.order
    starts, shape = part.item_starts.to(order.dtype), (part.n_items, len(units))
    return torch.sparse_csr_tensor(starts, order, ones, size=shape, check_invariants=False) @ units


def lengths_of_terms(part: Histories, sums: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """1 / ||D T_u|| of each user's rows T_u, and less than that by what rounding may add: float64 [n_users].

    A sum of n k squares is right to (n k + 3) 2^-53 of itself in whatever order, and no square is negative.
    """
    squares = sums.square().sum(1) * weights.index_select(0, part.items)
    norms = _sum_runs(squares[:, None], part.starts.diff())[:, 0].sqrt()
    margin = 1 + 2.0**-50 * (part.starts.diff().double() * sums.shape[1] + 8)
    usable = (norms > 1e-150) & norms.isfinite()
    return torch.where(usable, 1 / (norms * margin), 0.0)


def _sum_runs(rows: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Sums of consecutive runs of rows, in one order on every device: [n_runs, k]."""
    return torch.segment_reduce(rows, "sum", lengths=lengths, axis=0, unsafe=True)


# By rule: half-lives of the window and of a history, in positions; exponents of the damping and of the lengths of
# rows; see docs/order.md.
WINDOW, RECENCY, DAMPING, ROW_EXPONENT = 3.5, 2.0, 0.3, 0.25
_MAX_DIM, _LEAST_HEAD = 64, 50
_SMOOTHING_DIM = 60
# Of popularity in the scores: much of what small data and budgets know.
_PRIOR = 0.02


def window_of(facts: PublicFacts) -> float:
    """The half-life of the window: what was asked for; by the rule there is one where the next item is asked for."""
    if facts.order is None:
        return WINDOW if facts.next_item else 0.0
    return facts.order


@dataclass(frozen=True, kw_only=True)
class OrderedSize:
    """Dimensions and rows of the subspace, and the rounds with counts."""

    embedding_dim: int
    n_head: int
    rounds: int


def _ordered_size(facts: PublicFacts) -> OrderedSize:
    """The rule, from public facts only, chosen on validation items of MovieLens-1M and MovieLens-100K."""
    signal = min(facts.signal_to_noise, 1e12)
    featured = facts.features is not None
    wanted = signal**0.45 if featured else (0.09 * signal) ** 0.5
    most = min(_MAX_DIM, max(2, facts.n_items // 4))
    dim = min(facts.embedding_dim or round(min(max(wanted, 4), most)), facts.n_items)
    n_head = int(min(max(120 * signal**0.28, _LEAST_HEAD), facts.n_items))
    return OrderedSize(
        embedding_dim=min(dim, n_head), n_head=n_head, rounds=facts.rounds or (3 if signal < 50_000 else 5)
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class OrderedState:
    """What the server holds between rounds: public facts, and what follows from releases.

    The next round asks with W = subspace * scales, of which the subspace is orthonormal; `useful` directions are in
    the model. `own` are this training's tables, where it came after others.
    """

    facts: PublicFacts
    start: torch.Tensor
    popularity: NoisyPopularity | None = None
    subspace: torch.Tensor | None = None
    scales: torch.Tensor | None = None
    useful: torch.Tensor | None = None
    own: Products | None = None


class OrderedSubspace(Trainer):
    """The half of spectral for the next item; see the module. `Spectral` hands on to it."""

    name: ClassVar[str] = "spectral"
    reads: ClassVar[frozenset[Signal]] = frozenset({"weight"})

    def plan(self, facts: PublicFacts) -> tuple[Stage, ...]:
        """Counts, then subspace rounds that share what is left of the budget, the first with half a part."""
        if facts.rounds == 1:
            raise ConfigurationError("Expected rounds >= 2 for spectral (one of counts), got 1. Leave rounds at 0.")
        later = _ordered_size(facts).rounds - 2
        shares = [(1 - popularity.BUDGET_SHARE) * part / (1 + 2 * later) for part in (1, *[2] * later)]
        settings = {HALF_LIFE: window_of(facts)}
        releases = [PlannedRelease(released="item embeddings", relative_noise=share**-0.5) for share in shares]
        rounds = [Stage(name=STAGE, release=release, settings=settings, kept=True) for release in releases]
        return (popularity.counts_stage(), *rounds)

    def start(self, facts: PublicFacts, rng: np.random.Generator) -> OrderedState:
        """Draw a random start [n_items, dim]; public features give a better one."""
        start = rng.standard_normal((facts.n_items, _ordered_size(facts).embedding_dim))
        return OrderedState(facts=facts, start=torch.from_numpy(start))

    def tables(self, state: OrderedState, stage: Stage) -> Tables:
        """The head, its damping and what is asked; nothing before the counts."""
        if stage.name == popularity.STAGE or state.popularity is None:
            return {}
        head = state.popularity.head
        return {"head": head, "damping": _damping(state)[head].float(), "subspace": _asked(state).float()}

    def layout(self, facts: PublicFacts, stage: Stage) -> Layout:
        """Counts [n_items, 1], then the subspace [n_head, dim]."""
        if stage.name == popularity.STAGE:
            return Layout(shape=(facts.n_items, 1))
        chosen = _ordered_size(facts)
        shape = chosen.n_head, chosen.embedding_dim
        return Layout(
            shape=shape,
            tables={
                "head": TableLayout(dtype=torch.int64, shape=shape[:1]),
                "damping": TableLayout(dtype=torch.float32, shape=shape[:1]),
                "subspace": TableLayout(dtype=torch.float32, shape=shape),
            },
        )

    def contribution(
        self, stage: str, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float]
    ) -> torch.Tensor:
        """Sum over users, sensitivity settings["l2_clip_norm"]: see `contribute_counts` and `ordered_step`."""
        clip_norm = settings["l2_clip_norm"]
        if stage == popularity.STAGE:
            return popularity.contribute_counts(histories, l2_clip_norm=clip_norm)
        return ordered_step(tables, histories, half_life=settings[HALF_LIFE], l2_clip_norm=clip_norm)

    def step(
        self, state: OrderedState, stage: Stage, total: torch.Tensor, *, noise_std: float, n_silos: int
    ) -> OrderedState:
        """Popularity from the counts, or the basis of what was released, its rows smoothed by public features."""
        if stage.name == popularity.STAGE:
            n_head = _ordered_size(state.facts).n_head
            known = popularity.estimate_popularity(total, noise_std=noise_std, n_head=n_head, facts=state.facts)
            return _with_start(replace(state, popularity=known))
        found = Products(asked=_asked(state), table=total.double())
        if state.facts.earlier_trainings and noise_std > 0:
            own = product(found.asked, found.table, noise_std=noise_std, traced=False)
            own = own if state.own is None else side_by_side([state.own, own])
            state = replace(state, own=own)
            found, noise_std = pool_products([*_earlier_products(state), own]), 1.0
        return _with_basis(state, found, noise_std=noise_std)

    def item_embeddings(self, state: OrderedState) -> ItemEmbeddings:
        """V of the module on the head, zeros elsewhere; popularity as a small bias."""
        n_items = state.facts.n_items
        vectors, weights, bias = torch.zeros(n_items, state.start.shape[1]), torch.ones(n_items), torch.zeros(n_items)
        if state.popularity is not None and state.subspace is not None:
            damping, head = _damping(state), state.popularity.head
            kept = state.subspace if state.useful is None else state.subspace * state.useful
            vectors = torch.zeros(n_items, kept.shape[1], dtype=torch.float64)
            vectors[head] = kept / damping[head, None]
            weights, bias = damping.square(), _PRIOR * popularity.unit(state.popularity.counts)
            norms = vectors.norm(dim=1)
            lengths = torch.where(norms > 0, norms, 1.0) ** ROW_EXPONENT
            vectors, weights = vectors / lengths[:, None], weights * lengths
        return ItemEmbeddings(
            vectors=vectors.float(),
            bias=bias.float(),
            history_weights=weights.float(),
            fold_in=FoldIn(kind="projection", half_life=RECENCY),
            catalogue_hash=state.facts.catalogue_hash,
        )


def _known(state: OrderedState) -> NoisyPopularity:
    if state.popularity is None:
        raise ConfigurationError("The counts are not there yet. Run the plan in order.")
    return state.popularity


def _damping(state: OrderedState) -> torch.Tensor:
    counts = _known(state).counts
    return (counts / counts.mean()) ** -DAMPING


def _occurrence(state: OrderedState) -> torch.Tensor:
    """Expected diagonal of the damped second moment on the head, up to a factor."""
    known = _known(state)
    return (known.counts * _damping(state).square())[known.head]


def _features_of_head(state: OrderedState) -> sparse.csr_matrix | None:
    features = state.facts.features
    return None if features is None else features[_known(state).head.numpy()]


def _with_start(state: OrderedState) -> OrderedState:
    earlier = _earlier_products(state)
    if earlier:
        return _with_basis(state, pool_products(earlier), noise_std=1.0)
    start, features = state.start[_known(state).head], _features_of_head(state)
    if features is not None:
        found = leading_directions(features, weights=_occurrence(state).sqrt(), dim=start.shape[1])
        start = torch.cat([found, start[:, found.shape[1] :]], dim=1)
    return replace(state, subspace=orthonormal(start, against=torch.zeros_like(start[:, 0])))


def _earlier_products(state: OrderedState) -> list[Products]:
    """One for each earlier training that has released a subspace, oldest first, over the rows of the head."""
    head = _known(state).head
    by_training = state.facts.released_by_training(STAGE)
    found = [products_of(releases, now=head, traced=False) for releases in by_training]
    return [one for one in found if one is not None]


def _with_basis(state: OrderedState, found: Products, *, noise_std: float) -> OrderedState:
    """The basis of a table, its rows smoothed by public features, and which of its directions are in the model."""
    table, features, columns = found.table, _features_of_head(state), state.start.shape[1]
    if features is not None and noise_std > 0:
        rows = principal_features(features, weights=_occurrence(state).sqrt(), dim=_SMOOTHING_DIM)
        table = smooth(table, features=rows, noise_std=noise_std)
    basis = orthonormal(table, against=torch.zeros_like(table[:, 0]), dim=columns)
    useful = agreeing(basis, table, asked=found.asked).double()
    scales = even_out_scales((basis.T @ table).norm(dim=1))
    if basis.shape[1] < columns:
        # Earlier trainings asked with fewer directions than this one may.
        basis, scales, useful = (
            torch.nn.functional.pad(one, (0, columns - basis.shape[1])) for one in (basis, scales, useful)
        )
    return replace(state, subspace=basis, scales=scales, useful=useful)


def _asked(state: OrderedState) -> torch.Tensor:
    if state.subspace is None:
        raise ConfigurationError("The counts are not there yet. Run the plan in order.")
    return state.subspace if state.scales is None else state.subspace * state.scales
