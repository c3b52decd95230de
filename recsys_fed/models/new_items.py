"""Vectors of items that nobody has seen yet, from their public features: ridge regression, no budget.

    B = argmin sum_i ||y_i - B^T f_i||^2 + regularization ||B||^2,      y_new = B^T f_new

over the items of the model, with y_i the item's vector, bias and history weight, f_i its centred features, and a
constant. The regularisation minimises generalised cross-validation (Golub, Heath and Wahba 1979,
doi 10.1080/00401706.1979.10489751) over a grid, for the vectors:

    sum_i ||y_i - B^T f_i||^2 / (1 - tr(A) / n_items)^2,     A the smoother of the regression

All of it reads released vectors and the public catalogue only, so it is post-processing.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from scipy import linalg, sparse

from recsys_fed import checks
from recsys_fed.errors import DataError
from recsys_fed.models.items import ItemEmbeddings

Floats = npt.NDArray[np.float64]
_MAX_FEATURES = 2_000
_GRID = np.geomspace(0.1, 1e3, 13)


def with_new_items(
    model: ItemEmbeddings,
    features: sparse.csr_matrix,
    old_rows: npt.NDArray[np.int64],
    *,
    catalogue_hash: str,
    regularization: float | None = None,
) -> ItemEmbeddings:
    """The model over a larger catalogue: rows that it knows are kept, the others are mapped from their features.

    Args:
        model: the released model.
        features: public features of the larger catalogue, csr [n_all, n_features].
        old_rows: the model's row of each item of the larger catalogue, -1 for new ones, [n_all].
        catalogue_hash: of the larger catalogue.
        regularization: of the regression, in items; None chooses it.

    Raises:
        DataError: the lengths differ, or no item of the model is in the larger catalogue.
    """
    known = _check_rows(model, features, old_rows)
    targets = torch.cat([model.vectors, model.bias[:, None], model.history_weights[:, None]], dim=1).double().cpu()
    values = targets.numpy()[old_rows[known]]
    frequency = np.asarray((features[known] != 0).sum(axis=0)).ravel()
    chosen = np.sort(np.argsort(-frequency, kind="stable")[:_MAX_FEATURES])
    predicted = _ridge(features[:, chosen].astype(np.float64), known, values, regularization=regularization)
    predicted[known] = values
    table = torch.from_numpy(predicted).to(model.vectors)
    return replace(
        model,
        vectors=table[:, :-2].contiguous(),
        bias=table[:, -2].contiguous(),
        history_weights=table[:, -1].clamp_min(0).contiguous(),
        catalogue_hash=catalogue_hash,
    )


def _check_rows(
    model: ItemEmbeddings, features: sparse.csr_matrix, old_rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Rows of the larger catalogue that the model knows."""
    if len(old_rows) != features.shape[0] or old_rows.max(initial=-1) >= model.n_items:
        raise DataError(
            f"Expected a row of the model or -1 for each of {features.shape[0]} items, got {len(old_rows)} of up to "
            f"{old_rows.max(initial=-1)} for a model of {model.n_items}."
        )
    known = np.flatnonzero(old_rows >= 0)
    if not len(known):
        raise DataError(
            "Expected items of the model in the new catalogue, got none. Take the catalogue that extends it."
        )
    return known


def _ridge(
    features: sparse.csr_matrix, known: npt.NDArray[np.int64], values: Floats, *, regularization: float | None
) -> Floats:
    """Predictions for all rows of `features` from the values of the known ones; the constant is not shrunk."""
    seen = features[known]
    mean, centre = np.asarray(seen.mean(axis=0)).ravel(), values.mean(axis=0)
    gramian = (seen.T @ seen).toarray() - len(known) * np.outer(mean, mean)
    # Of the centred features F^T F = Q diag(s) Q^T; all strengths share it.
    strengths, basis = linalg.eigh(gramian)
    strengths = np.maximum(strengths, 0.0)
    projected = basis.T @ (seen.T @ (values - centre))
    if regularization is None:
        vectors = values[:, :-2] - centre[:-2]
        regularization = _best(strengths, projected[:, :-2], float(np.square(vectors).sum()), len(known))
    checks.positive(regularization=regularization)
    weights = basis @ (projected / (strengths + regularization)[:, None])
    return np.asarray(features @ weights - mean @ weights + centre)


def _best(strengths: Floats, projected: Floats, total: float, n_known: int) -> float:
    """The regularisation of the grid with the least generalised cross-validation; `projected` is P = Q^T F^T Y."""
    power = np.square(projected).sum(axis=1)
    return float(min(_GRID, key=lambda r: _criterion(r, strengths, power, total=total, n_known=n_known)))


def _criterion(r: float, strengths: Floats, power: Floats, *, total: float, n_known: int) -> float:
    """||Y||^2 - sum_k P_k^2 (s_k + 2 r) / (s_k + r)^2 over (1 - tr(A) / n)^2, tr(A) = 1 + sum_k s_k / (s_k + r)."""
    residual = total - float((power * (strengths + 2 * r) / (strengths + r) ** 2).sum())
    freedom = 1 + float((strengths / (strengths + r)).sum())
    return max(residual, 0.0) / max(1 - freedom / n_known, 1e-3) ** 2
