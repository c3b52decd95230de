"""Orthonormal bases on the server: of a noised sum, and of public item features. All float64."""

from contextlib import suppress

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from scipy.sparse.linalg import ArpackNoConvergence, eigsh

_MAX_FEATURES = 2_000
# Rows for each column from which the Gramian pays.
_TALL = 16
# A matrix so many times larger than what is asked of it is decomposed in part.
_FEW = 8


def orthonormal(table: torch.Tensor, *, against: torch.Tensor) -> torch.Tensor:
    """Orthonormal basis, float64 [n_rows, k], of the columns of `table` after removing the unit vector `against`.

    The left singular vectors, in the order of their singular values. Columns that are linearly dependent
    give directions of zero length, which are returned as zero columns: they score nothing.

    Tall tables go by way of the k x k Gramian, which takes a few passes over the table instead of a decomposition.
    Where that would lose digits, and for small tables, it is the singular value decomposition itself.
    """
    centred = table - against[:, None] * (against @ table)
    if not centred.shape[1]:
        return centred
    if len(centred) >= _TALL * centred.shape[1]:
        basis = _by_gramian(centred)
        if basis is not None:
            return basis
    return _by_svd(centred, smallest=float(torch.linalg.matrix_norm(table)) * 1e-10)


def _by_gramian(table: torch.Tensor) -> torch.Tensor | None:
    """Left singular vectors T V / sigma from T^T T = V sigma^2 V^T; None where sigma differ by more than 10^4.

    Within that, the vectors are orthonormal to 1e-8; a second step (as in CholeskyQR2) makes it 1e-15.
    """
    values, vectors = torch.linalg.eigh(table.T @ table)
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
