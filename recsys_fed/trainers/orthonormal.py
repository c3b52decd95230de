"""Orthonormal bases on the server: of a noised sum, and of public item features. All float64."""

import numpy as np
import torch
from scipy import sparse

_MAX_FEATURES = 2_000


def orthonormal(table: torch.Tensor, *, against: torch.Tensor) -> torch.Tensor:
    """Orthonormal basis, float64 [n_rows, k], of the columns of `table` after removing the unit vector `against`.

    By SVD, so the columns come in the order of their singular values. Columns that are linearly dependent
    give directions of zero length, which are returned as zero columns: they score nothing.
    """
    centred = table - against[:, None] * (against @ table)
    if not centred.shape[1]:
        return centred
    left, singular, _ = torch.linalg.svd(centred, full_matrices=False)
    basis = torch.zeros_like(centred)
    # Relative to the table before the removal: of a column along `against` only rounding is left.
    kept = singular > torch.linalg.matrix_norm(table) * 1e-10
    basis[:, : int(kept.sum())] = left[:, : len(singular)][:, kept]
    return basis


def leading_directions(features: sparse.csr_matrix, *, weights: torch.Tensor, dim: int) -> torch.Tensor:
    """Left singular vectors, float64 [n_rows, <= dim], of weighted and centred public features.

    F_c = diag(weights) (F - 1 mean^T), mean the mean of F under weights^2. The right vectors come from the
    n_features x n_features Gramian, so no dense [n_rows, n_features] is decomposed. Only the 2,000 most
    frequent features are read.
    """
    frequency = np.asarray((features != 0).sum(axis=0)).ravel()
    chosen = np.sort(np.argsort(-frequency, kind="stable")[:_MAX_FEATURES])
    weight = weights.numpy()
    scaled = sparse.diags(weight) @ features[:, chosen].astype(np.float64)
    mean = np.asarray(scaled.T @ weight).ravel() / max(float(weight @ weight), 1e-300)
    # (S - w m^T)^T (S - w m^T) with S^T w = |w|^2 m
    raw = (scaled.T @ scaled).toarray()
    gramian = raw - float(weight @ weight) * np.outer(mean, mean)
    values, vectors = torch.linalg.eigh(torch.from_numpy(gramian))
    # Relative to the features before centring: of those that all rows share only rounding is left.
    kept = int((values > max(float(np.trace(raw)), 1e-300) * 1e-10).sum())
    right = vectors.flip(1)[:, : min(dim, kept)].numpy()
    left = torch.from_numpy(scaled @ right - np.outer(weight, mean @ right))
    norms: torch.Tensor = left.norm(dim=0)
    return left / norms.clamp_min(1e-300)
