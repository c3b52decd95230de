"""Estimates of what was released from its noised sum: free post-processing on the server, all float64.

The release is A = C W + noise, with C = sum_u c_u x_u x_u^T the weighted second moment of histories and W the
subspace that it was asked with. Two things are known beforehand and used here:

- The diagonal of C says how often an item occurs, not with what. It goes along the noised counts, so a share of it
  can be taken away without another release (EASE, arXiv 1905.03375, gains by the same: no item predicts itself).
- Items with like public features have like rows. The rows get a Gaussian prior with that covariance; its posterior
  mean under noise of known variance is the estimate (empirical Bayes: the prior's two scales are fitted to the
  released A, which is public by then).
"""

import numpy as np
import torch

# Share of tr(W^T C W) that is taken away with the diagonal; chosen on validation parts (docs/evaluation.md).
DIAGONAL_SHARE = 0.15
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


def reliability(singular: torch.Tensor, *, n_rows: int, noise_std: float) -> torch.Tensor:
    """Squared cosine between each left singular vector of A and that of its noiseless part, [k], in [0, 1].

    With A [n, k] of noise s, y = sigma / (s sqrt(n)) and b = k / n, large random matrices have (Benaych-Georges and
    Nadakuditi, arXiv 1103.2221)

        cos^2 = 1 - (b + x) / (x (x + 1)),   x = (t + sqrt(t^2 - 4 b)) / 2,   t = y^2 - 1 - b

    for y > 1 + sqrt(b), and 0 below: there a direction cannot be told from noise. Nothing but the known noise and
    the released singular values goes in.

    Args:
        singular: sigma, the singular values of A, [k].
        n_rows: n.
        noise_std: s, above zero.
    """
    aspect = len(singular) / n_rows
    squares = (singular / (noise_std * n_rows**0.5)).square()
    t = squares - 1 - aspect
    x = (t + (t.square() - 4 * aspect).clamp_min(0).sqrt()) / 2
    cosines = 1 - (aspect + x) / (x * (x + 1)).clamp_min(1e-300)
    above = squares > (1 + aspect**0.5) ** 2
    kept: torch.Tensor = torch.where(above, cosines, 0.0).clamp(0, 1)
    return kept


def smoothed(table: torch.Tensor, *, features: torch.Tensor, noise_std: float) -> torch.Tensor:
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
