"""Co-occurrence of the most frequent items: the release from which the subspace iteration of spectral starts.

With x the damped history of a user on n rows (D on its items, times their weights), v = x * x and P = I - q q^T for
the unit vector q of popularity, a user contributes

    E = P (x x^T - diag(v)) P,   scaled to ||E||_F = 1

so the sum is the second moment of histories without its diagonal: that an item occurs with itself says nothing. E is
symmetric, and travels as a table over the same items that holds every pair once, sqrt(2) E_ij, which has the norm of
E: noise on a pair counts for 1 / sqrt(2) of what it would on both of its places.
"""

from threading import Lock

import torch
from scipy import sparse

from recsys_fed import checks
from recsys_fed.models.histories import PARTS, Histories, UserHistories, for_each_block
from recsys_fed.trainers.exact_sum import LONGEST, UNIT, in_units
from recsys_fed.trainers.subspace import unit_tables
from recsys_fed.trainers.trainer import Tables

# Nobody's x x^T counts with more than 2^6 clip norms, however much of it is along q or on the diagonal.
_CANCELLING = 2.0**-12
# Covers sums of n_u terms in float64, each of which is right to n_u + 16 roundings of its parts' sizes.
_PARTS = 32
_MARGIN = 1e-9


def packed_columns(n_rows: int) -> int:
    """Columns of the table [n_rows, columns] that holds every pair of rows once.

    >>> packed_columns(5), packed_columns(6)
    (3, 4)
    """
    return n_rows // 2 + 1


def pack(symmetric: torch.Tensor) -> torch.Tensor:
    """A symmetric E [n, n] as [n, n // 2 + 1] of the same norm: row i holds E_ii, then sqrt(2) E_i(i+j), circularly.

    Of an even n, pairs at a distance of n / 2 are there twice, as E_ij.
    """
    n_rows = len(symmetric)
    rows, columns = _places(n_rows, symmetric.device)
    packed = symmetric[rows, columns]
    packed[:, 1:] *= 2**0.5
    if n_rows % 2 == 0:
        packed[:, -1] /= 2**0.5
    return packed


def unpack(packed: torch.Tensor) -> torch.Tensor:
    """The symmetric E [n, n] of `pack`; independent noise of std s on `packed` is s / sqrt(2) off its diagonal."""
    n_rows = len(packed)
    rows, columns = _places(n_rows, packed.device)
    found = torch.zeros(n_rows, n_rows, dtype=packed.dtype, device=packed.device)
    found[rows[:, 1:], columns[:, 1:]] = packed[:, 1:] / 2**0.5
    if n_rows % 2 == 0:
        found[rows[:, -1], columns[:, -1]] = packed[:, -1] / 2
    found = found + found.T
    found.diagonal().copy_(packed[:, 0])
    return found


def _places(n_rows: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column of E of each entry of the packed table, both int64 [n_rows, packed_columns]."""
    rows = torch.arange(n_rows, device=device)[:, None].expand(n_rows, packed_columns(n_rows))
    return rows, (rows + torch.arange(packed_columns(n_rows), device=device)) % max(n_rows, 1)


def cooccurrence_step(tables: Tables, histories: UserHistories, *, l2_clip_norm: float) -> torch.Tensor:
    """Sum over users of E_u scaled to l2_clip_norm, packed: float64 [n, n // 2 + 1].

    Args:
        tables: head int64 [n] ascending, damping and direction float32 [n].
        histories: of the silo's users.
        l2_clip_norm: what a user adds.

    Guarantees:
        - Unit: a user. Neighbouring relation: add or remove one user. The L2 sensitivity is l2_clip_norm, whatever
          the tables hold, up to rounding that is bounded below: `pack` keeps the Frobenius norm, and c_u is at most
          one over a bound on ||E_u||_F that includes rounding (see `_scales`).
        - A user's term depends on that user's history and on the tables only. A user with fewer than two items of
          the head counts for nothing, as E is then zero.
        - N_ij = sum of c_u w_ui w_uj over users with both i and j are sums of integers, exact below 2^22 users:
          weights are multiples of 2^-5 (all ones without any), so that the sums are counted in 2^-10 units and in
          int64. Blocks, threads, and the order of users do not change a bit. What follows is one fixed linear map of
          N, P (D N D - diag) P in float64. It rounds to 4 (n + 4) 2^-53 of the sum of c_u ||x_u||^2, which is below
          2^6 clip norms a user: with n = 2^11 and 2^22 users below 2^-12 clip norms, less than the arithmetic error
          that is charged for (see `privacy.integer_mechanism`).
        - Assumes that no user has an item twice (`data.silo` sums up duplicates).
    """
    checks.positive(l2_clip_norm=l2_clip_norm)
    head, (damping, direction) = tables["head"], unit_tables(tables)
    moments = _moments(damping, direction)
    counts = torch.zeros(len(head), len(head), dtype=torch.int64)
    adding = Lock()

    def work(_: int, block: Histories) -> None:
        part = block.restricted(head)
        scale = _scales(part, moments).cpu()
        added = _weighted_pairs(part, in_units(scale))
        with adding:
            counts.add_(added)

    for_each_block(histories, work)
    damping, direction = damping.cpu(), direction.cpu()
    moment = damping[:, None] * (counts.double() / PARTS**2) * damping
    moment.diagonal().zero_()
    along = moment @ direction
    moment -= direction[:, None] * along
    moment -= (moment @ direction)[:, None] * direction
    return pack(moment).to(histories.device) * (UNIT * l2_clip_norm)


def _moments(damping: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """What each item adds to a user's [q^T x, ||x||^2, v^T q^2, q^T (v x), q^T (v v q), ||v||^2], float64 [n, 6]."""
    squares = damping.square()
    along = damping * direction
    return torch.stack(
        [along, squares, along.square(), squares * along, squares * along.square(), squares.square()], dim=1
    )


def _scales(part: Histories, moments: torch.Tensor) -> torch.Tensor:
    """c_u, float64 [n_users], with c_u ||E_u||_F <= 1 - 2^-31, so that cutting c_u off to whole units keeps it.

    With a = q^T x, S = ||x||^2, D = diag(v) and r = (x x^T - D) q = a x - v * q, for ||q|| = 1,

        ||E||^2 = ||x x^T - D||^2 - 2 ||r||^2 + (q^T r)^2
        ||x x^T - D||^2 = S^2 - ||v||^2,   ||r||^2 = a^2 S - 2 a q^T (v x) + q^T (v v q),   q^T r = a^2 - v^T q^2

    The six sums are of n_u terms, whose sizes add up to S^2 at most in each product above (|a|^2 <= S, and v <= S
    entry by entry). So the square is right to `_PARTS` (n_u + 16) 2^-53 S^2, which is added. Who is nearly parallel
    to q, or whose E is next to nothing beside x x^T, counts for less than the clip norm, not for more.
    """
    a, size, squared, cubes, fourths, diagonal = _sums(part, moments).unbind(1)
    rows = a.square() * size - 2 * a * cubes + fourths
    left = size.square() - diagonal - 2 * rows + (a.square() - squared).square()
    rounding = _PARTS * torch.finfo(torch.float64).eps * (part.starts.diff().double() + 16)
    bound = torch.maximum(left + rounding * size.square(), _CANCELLING * size.square())
    usable = (part.starts.diff() > 1) & (bound > 0) & bound.isfinite()
    return torch.where(usable, ((1 - _MARGIN) * bound.rsqrt()).clamp_max(LONGEST), 0.0)


# Powers of the weights in each column of `_moments`.
_POWERS = (1, 2, 2, 3, 4, 4)


def _sums(part: Histories, moments: torch.Tensor) -> torch.Tensor:
    """Sum of the rows of `moments` over each user's items, each times a power of its weight: float64 [n_users, 6]."""
    if part.weights is None:
        return part.times(torch.ones(len(part.items), dtype=torch.float64, device=part.device), moments)
    # All columns every time, so that weights of 1 give the very sums without any.
    sums = {power: part.times(part.weights**power, moments) for power in set(_POWERS)}
    return torch.stack([sums[power][:, column] for column, power in enumerate(_POWERS)], dim=1)


def _weighted_pairs(part: Histories, units: torch.Tensor) -> torch.Tensor:
    """PARTS^2 sum_u units_u w_u w_u^T with the users' weights w_u on their items, int64 [n, n]."""
    items, starts, size = part.items.cpu().numpy(), part.starts.cpu().numpy(), (part.n_users, part.n_items)
    if part.weights is None:
        weights = torch.full((len(items),), PARTS, dtype=torch.int64)
    else:
        weights = (PARTS * part.weights).long().cpu()
    scaled = weights * torch.repeat_interleave(units.long(), part.starts.cpu().diff())
    left, right = (sparse.csr_matrix((values.numpy(), items, starts), shape=size) for values in (weights, scaled))
    return torch.from_numpy((left.T @ right).toarray())
