"""The subspace of spectral: orthonormal bases, a silo's step of the power iteration, estimates from releases."""

from contextlib import suppress
from functools import partial
from threading import Lock

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from scipy.sparse.linalg import ArpackNoConvergence, eigsh

from recsys_fed import checks
from recsys_fed.models.histories import PARTS, Histories, UserHistories, for_each_block, positions
from recsys_fed.privacy.clipping import MODES
from recsys_fed.trainers.exact_sum import LONGEST, UNIT, add_by_item, in_units
from recsys_fed.trainers.trainer import Tables

_MAX_FEATURES = 2_000
# Rows for each column from which the Gramian pays.
_TALL = 16
# A matrix so many times larger than what is asked of it is decomposed in part.
_FEW = 8


def orthonormal(table: torch.Tensor, *, against: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """Orthonormal basis, float64 [n_rows, k], of the columns of `table` after removing the unit vector `against`.

    The left singular vectors, in the order of their singular values; only the first `dim`, where it is not 0. Columns
    that are linearly dependent give directions of length zero, returned as zero columns: they score nothing.

    Tall tables go by way of the k x k Gramian, which takes a few passes over the table instead of a decomposition.
    Where that would lose digits, and for small tables, it is the singular value decomposition itself.
    """
    centred = table - against[:, None] * (against @ table)
    if not centred.shape[1]:
        return centred
    dim = min(dim or centred.shape[1], centred.shape[1])
    if len(centred) >= _TALL * centred.shape[1]:
        basis = _by_gramian(centred, dim)
        if basis is not None:
            return basis
    return _by_svd(centred, smallest=float(torch.linalg.matrix_norm(table)) * 1e-10)[:, :dim]


def _by_gramian(table: torch.Tensor, dim: int) -> torch.Tensor | None:
    """`dim` left singular vectors T V / sigma by T^T T = V sigma^2 V^T; None where sigma differ by more than 10^4.

    Within that, the vectors are orthonormal to 1e-8; a second step (as in CholeskyQR2) makes it 1e-15.
    """
    values, vectors = torch.linalg.eigh(table.T @ table)
    values, vectors = values[-dim:], vectors[:, -dim:]
    if not values[0] > values[-1] * 1e-8:
        return None
    basis = table @ (vectors.flip(1) / values.flip(0).sqrt())
    # basis^T basis = L L^T, and basis L^-T is orthonormal.
    factor, failed = torch.linalg.cholesky_ex(basis.T @ basis)
    if bool(failed):
        return None
    refined: torch.Tensor = torch.linalg.solve_triangular(factor.T, basis, upper=True, left=False)
    return refined


def _by_svd(table: torch.Tensor, *, smallest: float) -> torch.Tensor:
    left, singular, _ = torch.linalg.svd(table, full_matrices=False)
    basis = torch.zeros_like(table)
    # Relative to the table before the removal: of a column along `against` only rounding is left.
    kept = singular > smallest
    basis[:, : int(kept.sum())] = left[:, : len(singular)][:, kept]
    return basis


def leading_columns(table: torch.Tensor, *, count: int) -> torch.Tensor:
    """T R, float64 [n_rows, <= count], with R the leading right singular vectors of T: independent noise stays so."""
    if table.shape[1] <= count:
        return table
    rotation = torch.linalg.eigh(table.T @ table).eigenvectors
    rotated: torch.Tensor = table @ rotation.flip(1)[:, :count]
    return rotated


def leading_directions(features: sparse.csr_matrix, *, weights: torch.Tensor, dim: int) -> torch.Tensor:
    """Left singular vectors, float64 [n_rows, <= dim], of weighted and centred public features.

    F_c = diag(weights) (F - 1 mean^T), mean the mean of F under weights^2.
    """
    left = principal_features(features, weights=weights, dim=dim) * weights[:, None]
    norms: torch.Tensor = left.norm(dim=0)
    return left / norms.clamp_min(1e-300)


def principal_features(features: sparse.csr_matrix, *, weights: torch.Tensor, dim: int) -> torch.Tensor:
    """Rows (F - 1 mean^T) R, float64 [n_rows, <= dim], with R the leading right singular vectors of F_c.

    F_c = diag(weights) (F - 1 mean^T), mean the mean of F under weights^2. R comes from the n_features x n_features
    Gramian, so no dense [n_rows, n_features] is decomposed. Only the 2,000 most frequent features are read.
    """
    frequency = np.asarray((features != 0).sum(axis=0)).ravel()
    chosen = np.sort(np.argsort(-frequency, kind="stable")[:_MAX_FEATURES])
    read, weight = features[:, chosen].astype(np.float64), weights.numpy()
    scaled = sparse.diags(weight) @ read
    mean = np.asarray(scaled.T @ weight).ravel() / max(float(weight @ weight), 1e-300)
    # (S - w m^T)^T (S - w m^T) with S^T w = |w|^2 m
    raw = (scaled.T @ scaled).toarray()
    gramian = raw - float(weight @ weight) * np.outer(mean, mean)
    values, vectors = _leading_eigenvectors(gramian, dim)
    # Relative to the features before centring: of those that all rows share only rounding is left.
    right = vectors[:, values > max(float(np.trace(raw)), 1e-300) * 1e-10]
    return torch.from_numpy(np.asarray(read @ right) - mean @ right)


def _leading_eigenvectors(
    symmetric: npt.NDArray[np.float64], count: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The `count` (or all) largest eigenvalues, descending, and their vectors; the same bits for the same matrix.

    A few of a large matrix by Lanczos' method (ARPACK) from a fixed start, else all by the dense decomposition.
    """
    if 0 < _FEW * count < len(symmetric) and np.trace(symmetric) > 0:
        start = np.sqrt(np.abs(np.diag(symmetric)))
        with suppress(ArpackNoConvergence):
            values, vectors = eigsh(symmetric, k=count, v0=start)
            order = np.argsort(-values, kind="stable")
            return values[order], vectors[:, order]
    values, vectors = np.linalg.eigh(symmetric)
    return values[::-1][:count], vectors[:, ::-1][:, :count]


_FLOAT32_ROUNDING = 2.0**-24
_MARGIN = 1e-6


def power_step(
    tables: Tables, histories: UserHistories, *, l2_clip_norm: float, mode: str = "automatic"
) -> torch.Tensor:
    """Sum over users of terms, each scaled ("automatic") or clipped ("flat") to l2_clip_norm: float64 [n_head, k].

    Args:
        tables: head int64 [n_head] ascending, damping and direction float32 [n_head], subspace float32 [n_head, k].
        histories: of the silo's users.
        l2_clip_norm: what a user may add.
        mode: see `privacy.clipping`; "flat" clips the term of the history scaled to norm 1.

    Guarantees:
        - Unit: a user. Neighbouring relation: add or remove one user. The L2 (Frobenius) sensitivity is l2_clip_norm,
          whatever the tables hold: ||x_u - a_u q|| is bounded from above including the rounding of the float32
          sums that it is computed from, z_u is cut off towards zero, and the sum is exact.
        - A user's term depends on that user's history and on the tables only. A user without an item of the head,
          and one whose term overflows, counts for nothing.
        - Blocks, threads, and the order of users do not change a bit of the result. It is finite: |a_u| ||z_u|| is
          below 2^10, as c_u ||W^T x_u|| <= 1 / (||x_u|| sqrt(5 g)) with g >= 5 2^-24, and int64 holds 2^27 users.
        - Of histories with weights x_u holds w_ui d_i in the place of d_i, w_ui as in `Histories.weights`. They are
          multiples of 2^-5: sums over users of w_ui c_u z_u are whole numbers of 2^-5 units.
        - Assumes that no user has an item twice (`data.silo` sums up duplicates). With 2^22 items none counts.
    """
    checks.positive(l2_clip_norm=l2_clip_norm)
    checks.one_of(MODES, mode=mode)
    damping, direction, table = _scaled_rows(tables)
    n_head, k = tables["subspace"].shape
    places = positions(tables["head"], histories.n_items, dtype=torch.int32)
    places[places < 0] = n_head
    by_item = torch.zeros(n_head, k, dtype=torch.int64, device=damping.device)
    along = torch.zeros(k, dtype=torch.int64, device=damping.device)
    adding = Lock()

    def work(_: int, block: Histories) -> None:
        sums = _row_sums(table, places, block).double()
        scale = _scales(sums, block, direction=direction, l2_clip_norm=l2_clip_norm, mode=mode)
        units = in_units(sums[:, :k] * scale[:, None])
        add_by_item(by_item, block, units, rows=tables["head"], adding=adding)
        centred = units.mul_(sums[:, k, None].nan_to_num_(0.0, 0.0, 0.0)).trunc_().long().sum(0)
        with adding:
            along.add_(centred)

    for_each_block(histories, work)
    total = damping[:, None] * (by_item.double() / PARTS) - direction[:, None] * along
    return total * (UNIT * l2_clip_norm)


def unit_tables(tables: Tables) -> tuple[torch.Tensor, torch.Tensor]:
    """Damping over its largest, rounded to float32, and q over its length, both float64 [n_head].

    A user's term is the same whatever the scale of both; the bounds on its rounding need them of size one.
    """
    damping, direction = tables["damping"].double(), tables["direction"].double()
    largest = damping.abs().max() if len(damping) else damping.sum()
    damping = (damping / largest.clamp_min(torch.finfo(torch.float32).tiny)).float().double()
    return damping, direction / direction.norm().clamp_min(1e-300)


def _scaled_rows(tables: Tables) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The `unit_tables`, and rows [D W, D q, D^2], zeros last, in float32."""
    damping, direction = unit_tables(tables)
    columns = [damping[:, None] * tables["subspace"].double(), (damping * direction)[:, None]]
    rows = torch.cat([*columns, damping.square()[:, None]], dim=1).float()
    return damping, direction, torch.nn.functional.pad(rows, (0, 0, 0, 1))


def _row_sums(table: torch.Tensor, places: torch.Tensor, block: Histories) -> torch.Tensor:
    """Weighted sum of rows of `table` over each user's items: float32 [n_users, columns], each user by one thread.

    Weights enter squared in the last column, that of squares: 11 binary digits at most, so nothing is lost.
    """
    if not len(block.items):
        return torch.zeros(block.n_users, table.shape[1], device=table.device)
    columns, offsets = places.index_select(0, block.items), block.starts[:-1].to(places.dtype)
    add = partial(torch.nn.functional.embedding_bag, columns, table, offsets, mode="sum")
    if block.weights is None:
        return add()
    weights = block.weights.float()
    sums = add(per_sample_weights=weights)
    # The same columns, so that weights of 1 give the very sums without any.
    sums[:, -1] = add(per_sample_weights=weights.square())[:, -1]
    return sums


def _scales(
    sums: torch.Tensor, block: Histories, *, direction: torch.Tensor, l2_clip_norm: float, mode: str
) -> torch.Tensor:
    """c_u in clip norms, float64 [n_users]: c_u ||W^T x_u|| ||x_u - a_u q|| <= 1.

    With S = ||x_u||^2 and a = q^T x_u as computed in float32 (relative to the sum of the terms' sizes each is right
    to g = (n_u + 4) 2^-24, in whatever order they are added, weighed or not), the true norm fulfils, for g <= 1/4 and
    ||q|| = 1,

        ||x_u - a q||^2 = S_true - 2 a a_true + a^2 ||q||^2 <= S - a^2 + 5 g S

    Where weights are so small that float32 has no digits for their squares, c_u ||W^T x_u|| <= LONGEST is the bound.
    Who is parallel to q but for less than sqrt(5 g) of ||x_u|| counts for less than the clip norm, not for more.
    """
    k = sums.shape[1] - 2
    along, squares = sums[:, k], sums[:, k + 1]
    rounding = _FLOAT32_ROUNDING * (block.starts.diff().double() + 4)
    q_square = float(direction @ direction)
    left = (squares - (2 - q_square) * along.square()).clamp_min(0) + 5 * rounding * squares
    # Cutting off a_u z_u adds at most one unit in each of k columns.
    inverse = 1 / (left.sqrt() * (1 + _MARGIN + UNIT * k**0.5))
    sizes = sums[:, :k].norm(dim=1)
    lengths = inverse if mode == "automatic" else torch.minimum(inverse, sizes / (squares * l2_clip_norm))
    usable = (rounding < 0.25) & (sizes > 0) & (sizes + squares + along).isfinite()
    return torch.where(usable, lengths.clamp_max(LONGEST) / sizes, 0.0)


# Share of tr(W^T C W) that is taken away with the diagonal; chosen on validation parts (docs/evaluation.md).
DIAGONAL_SHARE = 0.15
_SIGNAL_EXPONENT = 0.4
# Shares of the rows' variance that the features may leave unexplained.
_UNEXPLAINED = (0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
# A column whose variance is not above the noise's still counts for this share of it.
_LEAST_SIGNAL = 0.02


def without_diagonal(table: torch.Tensor, *, asked: torch.Tensor, occurrence: torch.Tensor) -> torch.Tensor:
    """A - t P W with P = diag(occurrence) and t such that tr(W^T t P W) = DIAGONAL_SHARE tr(W^T A).

    Args:
        table: A, [n_head, k].
        asked: W, the same shape.
        occurrence: expected diagonal of C up to a factor, not negative, [n_head].
    """
    trace = float((asked * table).sum())
    diagonal = float(occurrence @ asked.square().sum(dim=1))
    if trace <= 0 or diagonal <= 0:
        return table
    return table - (DIAGONAL_SHARE * trace / diagonal) * occurrence[:, None] * asked


# A round asks with columns scaled by (singular value / largest)^-EVENING: weak directions need the signal most.
EVENING = 0.25
_LEAST_SINGULAR = 0.05


def over_largest(singular: torch.Tensor) -> torch.Tensor:
    """Singular values over the largest, [k]."""
    return singular / singular.max().clamp_min(1e-300) if len(singular) else singular


def even_out_scales(singular: torch.Tensor, *, exponent: float = EVENING) -> torch.Tensor:
    """(singular value / largest)^-exponent of each direction [k]; of those without any, what the least may have."""
    scales: torch.Tensor = over_largest(singular).clamp_min(_LEAST_SINGULAR) ** -exponent
    return scales


def agreeing(basis: torch.Tensor, table: torch.Tensor, *, asked: torch.Tensor) -> torch.Tensor:
    """Which left singular vectors of A stand for items that occur together, bool [k].

    u_k = A v_k / sigma_k is the image of W v_k under C. C without its diagonal has negative eigenvalues too, of
    items that occur apart; then u_k points away from W v_k: u_k^T W A^T u_k < 0. A score V V^T x would reward it.

    Args:
        basis: U, the left singular vectors of A in columns, [n_head, k].
        table: A after the diagonal was taken off, [n_head, k].
        asked: W, [n_head, k].
    """
    agrees: torch.Tensor = ((basis.T @ asked) * (basis.T @ table)).sum(dim=1) > 0
    return agrees


def direction_weights(singular: torch.Tensor, *, n_rows: int) -> torch.Tensor:
    """How far each left singular vector of a table of noise 1 counts: max(0, 1 - n_rows / sigma^2)^0.4, [k].

    Noise alone gives a column of n_rows entries the square n_rows: the rest of sigma^2 is signal. The exponent was
    chosen on validation parts (docs/evaluation.md).
    """
    weights: torch.Tensor = (1 - n_rows / singular.square().clamp_min(1e-300)).clamp_min(0) ** _SIGNAL_EXPONENT
    return weights


def smooth(table: torch.Tensor, *, features: torch.Tensor, noise_std: float) -> torch.Tensor:
    """Posterior mean of the rows of A under the prior of like rows for like features.

    In the basis of its right singular vectors the columns a_k of A are taken as independent,

        a_k ~ N(0, l_k K + s^2 I),   K = (1 - t) F F^T + t I,   estimate: l_k K (l_k K + s^2 I)^-1 a_k

    with F scaled to tr(F F^T) = n, s the noise, l_k from |a_k|^2 / n = l_k + s^2, and t the one of a short list that
    makes A most likely. With F = U D R^T thin, all of it needs products with U only: O(n p k).

    Args:
        table: A, [n, k].
        features: F, [n, p], of any scale.
        noise_std: s.
    """
    n_rows = len(table)
    left, singular, _ = torch.linalg.svd(features, full_matrices=False)
    if noise_std <= 0 or not table.numel() or not float(singular.square().sum()) > 0:
        return table
    variances = singular.square() * (n_rows / singular.square().sum())
    turn = torch.linalg.svd(table, full_matrices=False).Vh
    columns = table @ turn.T
    explained = left.T @ columns
    rest = columns - left @ explained
    noise = noise_std**2
    level = (columns.square().mean(dim=0) - noise).clamp_min(_LEAST_SIGNAL * noise)
    best, chosen = -np.inf, _UNEXPLAINED[0]
    for share in _UNEXPLAINED:
        inside = level * ((1 - share) * variances + share)[:, None] + noise
        outside = level * share + noise
        log_likelihood = -0.5 * float(
            (explained.square() / inside + inside.log()).sum()
            + (rest.square().sum(dim=0) / outside + (n_rows - len(variances)) * outside.log()).sum()
        )
        if log_likelihood > best:
            best, chosen = log_likelihood, share
    inside = level * ((1 - chosen) * variances + chosen)[:, None]
    outside = level * chosen
    estimate = left @ (explained * (inside / (inside + noise))) + rest * (outside / (outside + noise))
    back: torch.Tensor = estimate @ turn
    return back
