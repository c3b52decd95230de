"""Ranking metrics of one user at a time, by groups of users or items, and the list of those that are reported.

`hits[u, r]` says whether the item at position r of user u's list (best first) is relevant. A list shorter
than k, as of a user or a catalogue with fewer than k candidates, is scored as if filled with misses.

Definitions, with n_u the number of test items of user u and rel_r in {0, 1} the relevance at rank r >= 1

    Recall@k = (1 / n_u) * sum_{r<=k} rel_r                    the denominator is n_u, NOT min(k, n_u)
    NDCG@k   = sum_{r<=k} rel_r / log2(r + 1)  /  sum_{r<=min(k, n_u)} 1 / log2(r + 1)
    HR@k     = 1 if any rel_r with r <= k, else 0
    RR       = 1 / (rank of the first relevant item, over the whole ranking)
    P@k      = (1 / k) * sum_{r<=k} rel_r
    F1@k     = 2 P@k Recall@k / (P@k + Recall@k)
    MAP@k    = (1 / n_u) * sum_{r<=k} rel_r P@r                its mean over users is what the name says
    AUC      = chance that a test item ranks before another candidate, over the whole ranking; ties count one half

With n_u > k, Recall@k and MAP@k cannot reach 1, while NDCG@k can. Values are float64, per user.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from recsys_fed import extensions
from recsys_fed.checks import at_least, one_of
from recsys_fed.errors import ConfigurationError

CUTOFFS = (10, 20)
"""Lengths of the lists that a run is measured by."""


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


def precision_at(hits: torch.Tensor, n_relevant: torch.Tensor, k: int) -> torch.Tensor:
    """Share of k places that test items have; places that a short list leaves empty have none.

    Arguments, result and errors as for `recall_at`.
    """
    at_least(1, k=k)
    return hits[:, :k].sum(dim=1).double() / k


def f1_at(hits: torch.Tensor, n_relevant: torch.Tensor, k: int) -> torch.Tensor:
    """Harmonic mean of precision and recall, 0 where both are; arguments, result and errors as for `recall_at`."""
    at_least(1, k=k)
    return 2 * hits[:, :k].sum(dim=1).double() / (k + n_relevant)


def average_precision_at(hits: torch.Tensor, n_relevant: torch.Tensor, k: int) -> torch.Tensor:
    """Precision at the rank of each test item among the first k, 0 for those behind, averaged over all of them.

    Arguments, result and errors as for `recall_at`. The denominator is `n_relevant`, as in trec_eval's map_cut.
    """
    at_least(1, k=k)
    top = hits[:, :k].double()
    ranks = torch.arange(1, top.shape[1] + 1, dtype=torch.float64, device=hits.device)
    return (top * top.cumsum(dim=1) / ranks).sum(dim=1) / n_relevant


def reciprocal_rank(first_rank: torch.Tensor) -> torch.Tensor:
    """1 / rank of the first relevant item; its mean over users is the MRR.

    Args:
        first_rank: int [n_users], 1 for the top of the list, over the whole ranking (not cut at k).

    Returns:
        float64 [n_users] in (0, 1].
    """
    return first_rank.double().reciprocal()


def gini(exposure: torch.Tensor) -> float:
    """How unevenly items are recommended, from counts [n_items]: 0 if all alike, near 1 if a few fill all lists.

    G = sum_i (2 i - n - 1) c_(i) / (n sum c) over counts in ascending order; 0 where nothing is recommended.
    """
    counts = exposure.double().sort().values
    n_items, total = len(counts), float(counts.sum())
    if not total:
        return 0.0
    ranks = 2 * torch.arange(1, n_items + 1, dtype=torch.float64) - n_items - 1
    return float(ranks @ counts) / (n_items * total)


def coverage(recommended: torch.Tensor) -> float:
    """Share of the catalogue that is recommended to anybody.

    Args:
        recommended: bool [n_items], whether the item is among the first k of at least one user.

    Returns:
        A number in [0, 1].
    """
    return float(recommended.double().mean())


@dataclass(frozen=True)
class Metric:
    """A metric of one user's list of k items; what is reported is its mean over users.

    The value of a user depends on that user's list alone, so sums over silos divided by their users are the value of
    all of them together. `recsys_fed.testing.check_metric` tries that.

    Attributes:
        name: it is reported as `name@k`.
        values: of hits bool [n_users, list_length], n_relevant int [n_users] and k: float64 [n_users] in [0, 1].
        shown_at: cutoffs at which the table of a run shows it.
    """

    name: str
    values: Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
    shown_at: tuple[int, ...] = CUTOFFS

    def at(self, k: int) -> str:
        """The name under which it is reported for lists of k items."""
        return f"{self.name}@{k}"


RECALL, NDCG, HIT_RATE = Metric("recall", recall_at), Metric("ndcg", ndcg_at), Metric("hr", hit_rate_at, (10,))

METRICS = (RECALL, NDCG, HIT_RATE)
"""What every full ranking is measured by."""
ON_REQUEST = (
    Metric("precision", precision_at, (20,)),
    Metric("f1", f1_at, (20,)),
    Metric("map", average_precision_at, (20,)),
)
"""What it is measured by where that is asked for; a further metric is a function above and one entry here."""
_OURS = {metric.name: metric for metric in (*METRICS, *ON_REQUEST)}
AUC = "auc"
ERRORS = ("rmse", "mae")
"""Of predicted ratings, where the model predicts some: see `evaluation.rating_errors`."""

GROUP = "recsys_fed.metrics"


def choose_metrics(names: str = "") -> tuple[Metric, ...]:
    """`METRICS`, and those of lists that are named besides, with commas: of ours, passed or found by entry points.

    >>> [metric.name for metric in choose_metrics("map,auc")]
    ['recall', 'ndcg', 'hr', 'map']

    Raises:
        ConfigurationError: there is none of that name, or what stands under it is none of that name.
    """
    chosen = {metric.name: metric for metric in METRICS}
    for name in filter(None, names.split(",")):
        if name in (AUC, *ERRORS):
            continue
        if name in _OURS:
            chosen[name] = _OURS[name]
            continue
        one_of((*_OURS, AUC, *ERRORS, *extensions.extension_names(GROUP)), metrics=name)
        found = extensions.load_extension(GROUP, name)
        if not isinstance(found, Metric) or found.name != name:
            raise ConfigurationError(f"Expected a Metric of the name {name!r}, got {found!r}.")
        chosen[name] = found
    return tuple(chosen.values())


def name_metrics(metrics: Iterable[Metric | str]) -> str:
    """Names of metrics with commas, as a run's key `metrics` has them; objects are made known to this process.

    Raises:
        ConfigurationError: an object has no name of its own.
    """
    names = []
    for metric in metrics:
        if isinstance(metric, Metric):
            if not metric.name.isidentifier() or _OURS.get(metric.name, metric) is not metric:
                raise ConfigurationError(f"Expected a metric's own name, such as my_metric, got {metric.name!r}.")
            extensions.register(GROUP, metric.name, metric)
        names.append(metric.name if isinstance(metric, Metric) else metric)
    return ",".join(names)


SAMPLED_METRICS = (HIT_RATE, NDCG)
"""What the sampled protocol reports."""

HEADLINE, HEADLINE_CUTOFF = (RECALL, NDCG), 20
"""What silos release as noisy sums, and what comparisons show: a change is a change of the protocol."""

HEADLINE_NAMES = tuple(metric.at(HEADLINE_CUTOFF) for metric in HEADLINE)
NEXT, NEXT_CUTOFF = (NDCG, HIT_RATE), 10
MRR = "mrr"
NEXT_NAMES = (*(metric.at(NEXT_CUTOFF) for metric in NEXT), MRR)
"""What comparisons show besides where the next item is asked for."""
SHOWN_NAMES = tuple(
    metric.at(k) for k in sorted(CUTOFFS, reverse=True) for metric in _OURS.values() if k in metric.shown_at
)
"""Per user, as the tables of a run order them."""


def shown_names(measured: Collection[str]) -> list[str]:
    """Of the names that a run has measured, those per user that its tables show: ours, then those brought."""
    ours = {"coverage", *_OURS}
    brought = [name for name in measured if "@" in name and name.partition("@")[0] not in ours]
    return [
        *(name for name in SHOWN_NAMES if name in measured),
        *(n for n in brought if not n.startswith("sampled_")),
    ]


ACTIVITY_GROUPS = ("light users", "middle users", "heavy users")
POPULARITY_GROUPS = ("frequent items", "middle items", "rare items")


def users_by_activity(sizes: npt.NDArray[np.number]) -> dict[str, npt.NDArray[np.bool_]]:
    """Thirds of the users by the length of their train history [n_users]: bool [n_users] by name."""
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[np.argsort(sizes, kind="stable")] = np.arange(len(sizes))
    third = 3 * rank // max(len(sizes), 1)
    return {name: third == k for k, name in enumerate(ACTIVITY_GROUPS)}


def items_by_popularity(train: sparse.csr_matrix) -> dict[str, npt.NDArray[np.bool_]]:
    """Items by how often they occur in train: each group has about a third of all interactions, bool [n_items]."""
    counts = np.asarray(train.sum(axis=0)).ravel()
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    third = np.minimum(3 * before / max(counts.sum(), 1), 2.999).astype(int)
    group = np.empty(len(counts), dtype=int)
    group[order] = third
    return {name: group == k for k, name in enumerate(POPULARITY_GROUPS)}


def by_user_group(values: npt.NDArray[np.floating], groups: npt.NDArray[np.object_]) -> dict[str, float]:
    """Mean of a metric over the users of each group, and "gap", the largest difference between two of them.

    Args:
        values: of each user, [n_users].
        groups: name of each user's group, object array of str [n_users].

    Raises:
        ConfigurationError: of different lengths, or empty.
    """
    if len(values) != len(groups) or not len(values):
        raise ConfigurationError(f"Expected one group for each of the users, got {len(values)} and {len(groups)}.")
    means = {str(name): float(values[groups == name].mean()) for name in np.unique(groups)}
    return means | {"gap": max(means.values()) - min(means.values())}


def exposure(lists: npt.NDArray[np.integer], item_groups: npt.NDArray[np.object_]) -> Mapping[str, float]:
    """Share of all places of the lists that each group of items has; places that are not filled are -1.

    >>> exposure(np.array([[0, 1], [0, -1]]), np.array(["head", "tail"], dtype=object))["head"]
    0.6666666666666666
    """
    filled = lists[lists >= 0]
    names, codes = np.unique(item_groups, return_inverse=True)
    counts = np.bincount(codes[filled], minlength=len(names))
    total = max(1, len(filled))
    return {str(name): float(count) / total for name, count in zip(names, counts, strict=True)}
