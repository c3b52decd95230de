"""Per-user contributions that are rank one: norms, clipping and the clipped sum without per-user matrices.

User u contributes the matrix r_u y_u^T [n_items, k] with

    r_u = s_u + D e_u        s_u sparse (on the history), D [n_items, m] shared by all users, e_u [m]

Gradients of dot-product models with the user's vector held constant have this form (r_u = dL_u/ds, y_u the
user's vector), and so have the contributions of subspace iteration. Then

    ||r_u y_u^T||_F^2  = (||s_u||^2 + 2 s_u^T D e_u + e_u^T D^T D e_u) ||y_u||^2
    sum_u c_u r_u y_u^T = S^T diag(c) Y + D (E^T diag(c) Y)

at the cost of a few products of a sparse and a thin matrix; nothing of size n_users x n_items is formed, and the
sum can be had in blocks of rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from recsys_fed.models.exact_scores import observed_scores, rounding_of
from recsys_fed.models.histories import Histories
from recsys_fed.models.items import gramian_of, long_product
from recsys_fed.privacy.clipping import clip_factors

# Entries of a block of rows: half a MiB of float64, which a processor's own cache holds.
_BLOCK_FLOATS = 1 << 16
# Nobody's parts count with more than 2^10 clip norms each, however they cancel: their rounding is then small as well.
_CANCELLING = 2.0**-20


@dataclass(frozen=True, kw_only=True, eq=False)
class RankOneContributions:
    """The contributions r_u y_u^T of all users of a batch.

    Attributes:
        histories: where the sparse parts s_u are not zero.
        values: the entries of s_u, [n_interactions] in the order of `histories`.
        basis: D, [n_items, m].
        coefficients: e_u as rows, [n_users, m].
        right: y_u as rows, [n_users, k].
        reads: D e_u at the interactions, [n_interactions], where it is known already: to the rounding of
            `observed_scores`, as that of the type it has.
        gramian: D^T D, float64 [m, m], where it is known already.
    """

    histories: Histories
    values: torch.Tensor
    basis: torch.Tensor
    coefficients: torch.Tensor
    right: torch.Tensor
    reads: torch.Tensor | None = None
    gramian: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class ClippedSum:
    """A clipped sum that is formed block of rows by block of rows, float64; see `clipped_sum`.

    Attributes:
        transposed: S^T as starts [n_items + 1], users and values [n_interactions].
        scaled: c_u y_u as rows, float64 [n_users, k].
        basis: D, [n_items, m].
        mixed: E^T diag(c) Y, float64 [m, k].
        within: whether a user's norm is at most the clip norm, bool [n_users]; private.
    """

    transposed: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    scaled: torch.Tensor
    basis: torch.Tensor
    mixed: torch.Tensor
    within: torch.Tensor

    def blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """All rows in order, as the first row of each block and the block, which lasts until the next."""
        # Memory that is new to a process costs more than the sums themselves: one buffer serves all blocks.
        buffer = self._buffer(self.scaled.shape[1])
        basis = self._buffer(self.basis.shape[1])
        for start in range(0, len(self.basis), max(len(buffer), 1)):
            rows = buffer[: len(self.basis) - start]
            self._form(rows, start=start, basis=basis)
            yield start, rows

    def into(self, total: torch.Tensor) -> torch.Tensor:
        """Write all rows into `total`, float64 [n_items, k], and return it."""
        basis = self._buffer(self.basis.shape[1])
        for start in range(0, len(total), max(len(basis), 1)):
            self._form(total[start : start + len(basis)], start=start, basis=basis)
        return total

    def _buffer(self, dim: int) -> torch.Tensor:
        rows = min(len(self.basis), max(1, _BLOCK_FLOATS // max(1, self.scaled.shape[1])))
        return torch.empty(rows, dim, dtype=torch.float64, device=self.scaled.device)

    def _form(self, rows: torch.Tensor, *, start: int, basis: torch.Tensor) -> None:
        """Overwrite `rows` by the rows from `start` on; `basis` [>= n_rows, m] is room for theirs of D in float64."""
        starts, users, values = self.transposed
        part = starts[start : start + len(rows) + 1]
        first, last = int(part[0]), int(part[-1])
        if last > first and rows.numel():
            matrix = torch.sparse_csr_tensor(
                (part - first).to(users.dtype),
                users[first:last],
                values[first:last].double(),
                size=(len(rows), len(self.scaled)),
                check_invariants=False,
            )
            torch.addmm(rows, matrix, self.scaled, beta=0.0, out=rows)
        else:
            rows.zero_()
        if self.mixed.numel():
            rows.addmm_(basis[: len(rows)].copy_(self.basis[start : start + len(rows)]), self.mixed)


def _contribution_norms(batch: RankOneContributions) -> torch.Tensor:
    """Frobenius norms ||r_u y_u^T||, float64 [n_users]; equal to those of the matrices to rounding."""
    squares, _ = _squares(batch)
    return squares.sqrt_().mul_(_lengths(batch.right))


def clip(batch: RankOneContributions, *, l2_clip_norm: float, mode: str = "flat") -> ClippedSum:
    """The clipped sum of `clipped_sum`, with the same guarantees, to be formed in blocks of rows."""
    _, bounds = _squares(batch)
    bounds = bounds.sqrt_().mul_(_lengths(batch.right))
    factors = clip_factors(bounds, l2_clip_norm=l2_clip_norm, mode=mode)
    overflown = ~bounds.isfinite()[:, None]
    # In float64 no product of float32 parts overflows, however a bounded contribution falls into parts. Where a
    # user's entries are not finite, neither is the bound: the row of `scaled` is zero, and zeros stand for them.
    scaled = _copy_double(batch.right).masked_fill_(overflown, 0.0).mul_(factors[:, None])
    mixed = long_product(batch.coefficients.masked_fill(overflown, 0.0), scaled)
    histories = batch.histories
    values = batch.values.index_select(0, histories.order).nan_to_num_(0.0, posinf=0.0, neginf=0.0)
    return ClippedSum(
        transposed=(histories.item_starts, histories.users_by_item, values),
        scaled=scaled,
        basis=batch.basis,
        mixed=mixed,
        within=bounds <= l2_clip_norm,
    )


def clipped_sum(batch: RankOneContributions, *, l2_clip_norm: float, mode: str = "flat") -> torch.Tensor:
    """Sum over users of the contributions, each clipped as a whole: float64 [n_items, k].

    Guarantees:
        - Unit: a user, that is all interactions of the user in the batch. Neighbouring relation: add or
          remove one user. The L2 (Frobenius) sensitivity is l2_clip_norm, whatever the tables hold.
        - A user's term depends on that user's history and on released tables only.
        - Norms are bounded from above, rounding included (see `_squares`): where s_u and D e_u cancel so far that
          rounding is a visible part of what is left, the term comes out smaller than l2_clip_norm, never larger.
        - Sums are float64. No user's parts c_u (||s_u|| + ||D||_F ||e_u||) ||y_u|| are longer than 2^10 l2_clip_norm,
          and without a basis they are the term itself. A sum of d numbers is right to d 2^-53 of their sizes. So of
          n users, of whom at most d meet in one sum (an item's users in a block, then blocks, then ranks), the sums
          of two neighbours differ by at most n d 2^-42 l2_clip_norm beside the term: `ARITHMETIC_ERROR` for
          n d = 2^32, as 65,536 users in any order. Nothing enforces it; honest rounding is far below.
        - A user whose contribution overflows counts for nothing. No users give the zero matrix. Entries are finite.
    """
    total = clip(batch, l2_clip_norm=l2_clip_norm, mode=mode)
    rows = torch.empty(len(batch.basis), total.scaled.shape[1], dtype=torch.float64, device=total.scaled.device)
    return total.into(rows)


def _squares(batch: RankOneContributions) -> tuple[torch.Tensor, torch.Tensor]:
    """||r_u||^2 as computed and a bound that it is not above, rounding included, both float64 [n_users].

    With a = ||s_u||, b = ||e_u|| ||D||_F, n rows and m columns of D, and u = 2^-53, the three terms of the square are
    right to (n + 1) u a^2, to (n + 1) u a b and the rounding of `reads` times a b, and to (n + 2 m + 2) u b^2: each
    is a sum of products whose sizes add up to a^2, a b and b^2 at most, by Cauchy and Schwarz. What `reads` in
    float32 lost to underflow is below m 2^-149 each: less than that, unless a is tiny, and the losses' a is 2^-29 or
    more, or 0. Assumes that `gramian` is that of `basis` and that no user has a row twice (`data.silo` sums up
    duplicates); n + m^2 is below 2^50 in any memory.
    """
    sparse = batch.histories.per_user(_copy_double(batch.values).square_())
    dim = batch.basis.shape[1]
    if not dim:
        return sparse, (1 + torch.finfo(torch.float64).eps * (2 * len(batch.basis) + 2.0)) * sparse
    coefficients = batch.coefficients.double()
    gramian = gramian_of(batch.basis) if batch.gramian is None else batch.gramian
    dense = torch.linalg.vecdot(coefficients @ gramian, coefficients)
    reads = batch.reads
    if reads is None:
        reads = observed_scores(batch.histories, coefficients, batch.basis)
    cross = batch.histories.per_user(_copy_double(batch.values).mul_(reads))
    # |s| |e| |D|_F bounds |s^T D e|, and |e|^2 |D|_F^2 the quadratic form, term by term.
    own, most = sparse.sqrt(), _lengths(coefficients) * gramian.trace().sqrt()
    float64 = torch.finfo(torch.float64).eps * (len(batch.basis) + dim * dim + 2.0)
    parts = (own + most).square()
    rounding = 2 * rounding_of(reads, dim=dim) * own * most + float64 * parts
    # The sum of the three is a square; rounding can leave it just below zero.
    squares = (sparse + 2 * cross + dense).clamp_min_(0)
    return squares, torch.maximum(squares + rounding, _CANCELLING * parts)


def _lengths(rows: torch.Tensor) -> torch.Tensor:
    """L2 norm of every row, float64 [n_rows]."""
    found: torch.Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return found


def _copy_double(values: torch.Tensor) -> torch.Tensor:
    """In float64, to be overwritten: one such array at a time is held."""
    return values.to(torch.float64, copy=True)
