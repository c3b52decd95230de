"""Which items to ask somebody about of whom little is known: those whose answers say most about taste.

With x_i = w_i v_i what an item adds to a user's vector, p_i the chance that the user knows it and A the precision of
what is known of the user's taste so far, items are taken one after the other by

    log(1 + p_i x_i^T A^-1 x_i),    then A <- A + p_i x_i x_i^T                       (D-optimal design, greedily)

p_i follows from the released popularity, so that nobody is asked about what hardly anybody knows. All of it reads the
released model and the user's own answers: it costs no privacy.
"""

import numpy as np

from recsys_fed.serving.packed_model import Floats, PackedModel, Rows

# Chance that a user knows the most popular item; see docs/serving.md for how it was chosen.
_MOST_KNOWN = 0.6


def propose_questions(release: PackedModel, known: Rows, limit: int) -> tuple[Rows, Floats]:
    """Rows of at most `limit` items, in the order in which to ask, and what each is expected to tell, in nats.

    `known` are the user's `UserHistory.answered_rows`: they are not asked about again.

    Guarantees: they follow from the released model and from this user's own events alone.
    """
    x = release.vectors.astype(np.float64) * release.weights[:, None]
    popularity = release.bias.astype(np.float64).clip(min=0.0)
    largest = float(popularity.max(initial=0.0))
    # Without popularity all items are as likely to be known.
    chances = np.full(release.n_items, _MOST_KNOWN) if not largest else _MOST_KNOWN / largest * popularity
    level = max(float(np.square(x).sum()) / max(release.n_items, 1), 1e-30)
    precision = level * np.eye(release.dim) + x[known].T @ x[known]
    covariance = np.linalg.inv(precision)
    variances = np.einsum("ij,ij->i", x @ covariance, x)
    open_ = np.ones(release.n_items, dtype=bool)
    open_[known] = False
    rows, gains = [], []
    for _ in range(min(limit, int(open_.sum()))):
        worth = np.where(open_, np.log1p(chances * np.maximum(variances, 0.0)), -1.0)
        row = int(worth.argmax())
        rows.append(row)
        gains.append(worth[row])
        open_[row] = False
        # (A + p x x^T)^-1 = A^-1 - p (A^-1 x)(A^-1 x)^T / (1 + p x^T A^-1 x)
        along = covariance @ x[row]
        share = chances[row] / (1 + chances[row] * variances[row])
        covariance -= share * np.outer(along, along)
        variances -= share * np.square(x @ along)
    return np.array(rows, dtype=np.int64), np.array(gains, dtype=np.float32)
