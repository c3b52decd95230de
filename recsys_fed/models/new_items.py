"""Vectors of items that nobody has seen yet, from their public features: ridge regression, no budget.

    B = argmin sum_i ||v_i - B^T f_i||^2 + regularization ||B||^2,      v_new = B^T f_new

over the items of the model, with f centred features and a constant. It reads released vectors and the public
catalogue only, so it is post-processing.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from scipy import linalg, sparse

from recsys_fed import checks
from recsys_fed.errors import DataError
from recsys_fed.models.items import ItemEmbeddings

_MAX_FEATURES = 2_000


def with_new_items(
    model: ItemEmbeddings,
    features: sparse.csr_matrix,
    old_rows: npt.NDArray[np.int64],
    *,
    catalogue_hash: str,
    regularization: float = 1.0,
) -> ItemEmbeddings:
    """The model over a larger catalogue: rows that it knows are kept, the others are mapped from their features.

    Args:
        model: the released model.
        features: public features of the larger catalogue, csr [n_all, n_features].
        old_rows: the model's row of each item of the larger catalogue, -1 for new ones, [n_all].
        catalogue_hash: of the larger catalogue.
        regularization: of the regression, in items.

    Raises:
        DataError: the lengths differ, or no item of the model is in the larger catalogue.
    """
    checks.positive(regularization=regularization)
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


def _ridge(
    features: sparse.csr_matrix,
    known: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    *,
    regularization: float,
) -> npt.NDArray[np.float64]:
    """Predictions for all rows of `features` from the values of the known ones; the constant is not shrunk."""
    seen = features[known]
    mean, centre = np.asarray(seen.mean(axis=0)).ravel(), values.mean(axis=0)
    gramian = (seen.T @ seen).toarray() - len(known) * np.outer(mean, mean)
    gramian[np.diag_indices_from(gramian)] += regularization
    right = seen.T @ (values - centre)
    weights = linalg.solve(gramian, right, assume_a="pos")
    return np.asarray(features @ weights - mean @ weights + centre)
