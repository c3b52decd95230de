"""Ranking metrics of one user at a time, from a matrix of hits and the number of relevant items.

`hits[u, r]` says whether the item at position r of user u's list (best first) is relevant. A list shorter
than k, as of a user or a catalogue with fewer than k candidates, is scored as if filled with misses.

Definitions, with n_u the number of test items of user u and rel_r in {0, 1} the relevance at rank r >= 1

    Recall@k = (1 / n_u) * sum_{r<=k} rel_r                    the denominator is n_u, NOT min(k, n_u)
    NDCG@k   = sum_{r<=k} rel_r / log2(r + 1)  /  sum_{r<=min(k, n_u)} 1 / log2(r + 1)
    HR@k     = 1 if any rel_r with r <= k, else 0
    RR       = 1 / (rank of the first relevant item, over the whole ranking)

With n_u > k, Recall@k cannot reach 1, while NDCG@k can. Values are float64, per user.
"""

from collections.abc import Callable

import torch

from recsys_fed.checks import at_least


def recall_at(hits: torch.Tensor, n_relevant: torch.Tensor, k: int) -> torch.Tensor:
    """Share of the user's test items that are among the first k; the denominator is `n_relevant`.

    Args:
        hits: bool [n_users, list_length].
        n_relevant: int [n_users], number of test items, each at least 1.
        k: cutoff, at least 1.

    Returns:
        float64 [n_users] in [0, 1].

    Raises:
        ConfigurationError: k is below 1.
    """
    at_least(1, k=k)
    return hits[:, :k].sum(dim=1).double() / n_relevant


def ndcg_at(hits: torch.Tensor, n_relevant: torch.Tensor, k: int) -> torch.Tensor:
    """Discounted gain of the first k, over that of the best list possible; binary gains, log2 discounts.

    Arguments, result and errors as for `recall_at`. The best list has min(k, n_relevant) hits on top.
    """
    at_least(1, k=k)
    discounts = 1.0 / torch.log2(torch.arange(2, k + 2, dtype=torch.float64, device=hits.device))
    top = hits[:, :k].double()
    ideal = discounts.cumsum(dim=0)[n_relevant.clamp(max=k) - 1]
    return top @ discounts[: top.shape[1]] / ideal


def hit_rate_at(hits: torch.Tensor, n_relevant: torch.Tensor, k: int) -> torch.Tensor:
    """1 where any of the first k is a test item, else 0.

    Arguments, result and errors as for `recall_at`. `n_relevant` does not enter: all are called alike.
    """
    at_least(1, k=k)
    return hits[:, :k].any(dim=1).double()


def reciprocal_rank(first_rank: torch.Tensor) -> torch.Tensor:
    """1 / rank of the first relevant item; its mean over users is the MRR.

    Args:
        first_rank: int [n_users], 1 for the top of the list, over the whole ranking (not cut at k).

    Returns:
        float64 [n_users] in (0, 1].
    """
    return first_rank.double().reciprocal()


def coverage(recommended: torch.Tensor) -> float:
    """Share of the catalogue that is recommended to anybody.

    Args:
        recommended: bool [n_items], whether the item is among the first k of at least one user.

    Returns:
        A number in [0, 1].
    """
    return float(recommended.double().mean())


AtCutoff = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]

METRICS: dict[str, AtCutoff] = {"recall": recall_at, "ndcg": ndcg_at, "hr": hit_rate_at}
"""Metrics that are reported at every cutoff as `name@k`."""
