"""The headline protocol: every item of the catalogue is ranked, except those that the user has in train.

Only users with at least one test item count. Ties go to the lower item row (see `ranking`). Nothing of size
n_users x n_items is ever held: scores exist for one block of users at a time.

A scorer maps a block of users, given as the slice of their row numbers, to one score per item:
a floating tensor [n_block, n_items] on any device. Higher is better; only the order matters.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from scipy.sparse import csr_array, csr_matrix

from recsys_fed.checks import at_least
from recsys_fed.errors import ConfigurationError, DataError
from recsys_fed.evaluation.metrics import AUC, CUTOFFS, METRICS, Metric, coverage, reciprocal_rank
from recsys_fed.evaluation.ranking import area_under_curve, first_relevant_rank, top_items

Scorer: TypeAlias = Callable[[slice], torch.Tensor]

_DTYPES = (torch.float32, torch.float64)


def score_block(score: Scorer, rows: slice, n_items: int) -> torch.Tensor:
    """Score a block of users and check the result.

    Args:
        score: the scorer.
        rows: row numbers of the users, with `start` and `stop` set.
        n_items: number of columns to expect.

    Returns:
        The scores [rows.stop - rows.start, n_items] as they came, detached. They may share memory with
        the scorer, so the caller must not write to them.

    Raises:
        ConfigurationError: the shape or the type is wrong, or a score is NaN or infinite.
    """
    with torch.no_grad():
        scores = score(rows).detach()
    if scores.ndim != 2 or len(scores) != rows.stop - rows.start or scores.shape[1] != n_items:
        raise ConfigurationError(
            f"Expected scores with one row per user of the block and {n_items} columns, "
            f"got {scores.ndim} dimensions, the last of size {scores.shape[-1] if scores.ndim else 1}. "
            "Score every user of the slice on every item of the catalogue."
        )
    if scores.dtype not in _DTYPES:
        raise ConfigurationError(
            f"Expected scores as float32 or float64, got {scores.dtype}. Convert them in the scorer."
        )
    # aminmax propagates NaN, so the two extremes are finite only if every score is.
    if scores.numel() and not torch.stack(scores.aminmax()).isfinite().all():
        raise ConfigurationError(
            "Expected finite scores, got NaN or infinity. The model has diverged or was not trained."
        )
    return scores


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What the model has seen and what it is asked for, as [n_users, n_items] patterns without overlap."""

    train: csr_array = field(repr=False)
    test: csr_array = field(repr=False)

    @property
    def n_items(self) -> int:
        """Number of columns of both matrices."""
        return int(self.test.shape[1])

    @property
    def users(self) -> np.ndarray:
        """Rows with at least one test item, ascending, int64."""
        return self.users_in(0, self.test.shape[0])

    def users_in(self, start: int, stop: int) -> np.ndarray:
        """Rows from `start` up to but not including `stop` with at least one test item, ascending, int64."""
        return start + np.flatnonzero(np.diff(self.test.indptr[start : stop + 1]))

    def train_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Users and items of the train entries, int64 [n_entries] each, by user and then item."""
        return _entries(self.train)

    def test_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Users and items of the test entries, int64 [n_entries] each, by user and then item."""
        return _entries(self.test)

    def of_users(self, users: np.ndarray) -> "HeldOut":
        """The rows `users` alone, in that order."""
        return HeldOut(train=self.train[users], test=self.test[users])


def hold_out(train: csr_matrix | csr_array, test: csr_matrix | csr_array) -> HeldOut:
    """Check two interaction matrices and reduce them to patterns.

    Every stored non-zero entry is an interaction, whatever its value; entries stored twice count once.

    Args:
        train: sparse [n_users, n_items], interactions that the model has seen.
        test: sparse [n_users, n_items], interactions to be predicted.

    Returns:
        The two patterns; the arguments are left as they are.

    Raises:
        DataError: the shapes differ, an entry is in both, or no user has a test item.
    """
    if train.shape != test.shape:
        raise DataError(
            "Expected train and test of one shape [n_users, n_items], got two. "
            "Index both by the same users and the same catalogue."
        )
    held_out = HeldOut(train=_pattern(train), test=_pattern(test))
    if held_out.train.multiply(held_out.test).nnz:
        raise DataError(
            "Expected train and test without common entries, got some. "
            "A train item is never recommended again: remove it from the user's test row."
        )
    if not held_out.test.nnz:
        raise DataError("Expected at least one user with a test item, got none. Check the split and --hit-weight.")
    return held_out


def _entries(matrix: csr_array) -> tuple[np.ndarray, np.ndarray]:
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    return rows, matrix.indices.astype(np.int64)


def _pattern(matrix: csr_matrix | csr_array) -> csr_array:
    pattern = csr_array(matrix, copy=True)
    pattern.eliminate_zeros()
    pattern.sum_duplicates()
    pattern.data = np.ones(pattern.nnz, dtype=np.int8)
    return pattern


# Scores of a block: 8 MB, which an allocator gives again without new pages, and most of which stays in the cache.
_BLOCK_SCORES = 1 << 21


@dataclass(frozen=True, kw_only=True)
class RankingMetrics:
    """Metrics per user and for the catalogue, as they came out of one protocol.

    The values per user are private data and stay where the test interactions are; they are left out of
    `repr`. They are kept so that an interval can be computed over users.

    Attributes:
        users: int64 [n_evaluated], row numbers.
        per_user: name such as "recall@20" -> float64 [n_evaluated], in the order of `users`.
        catalogue: name such as "coverage@20" -> one value over all evaluated users.
    """

    users: np.ndarray = field(repr=False)
    per_user: Mapping[str, np.ndarray] = field(repr=False)
    catalogue: Mapping[str, float] = field(repr=False)

    def means(self) -> dict[str, float]:
        """Mean over users of every metric, and the catalogue values, by name."""
        return {name: float(values.mean()) for name, values in self.per_user.items()} | dict(self.catalogue)


@dataclass(frozen=True, kw_only=True)
class _RankedBlock:
    items: torch.Tensor  # int64 [n_block, list_length]
    listed: torch.Tensor  # bool, like items: False where the user had no candidate left
    hits: torch.Tensor  # bool, like items
    n_relevant: torch.Tensor  # int64 [n_block]
    first_rank: torch.Tensor | None  # int64 [n_block]; None where nobody asked
    area: torch.Tensor | None  # float64 [n_block]; None where nobody asked


def evaluate_ranking(  # noqa: PLR0913  (each says how to measure)
    score: Scorer,
    *,
    train: csr_matrix | csr_array,
    test: csr_matrix | csr_array,
    cutoffs: Sequence[int] = CUTOFFS,
    metrics: Sequence[Metric] = METRICS,
    block_users: int | None = None,
    whole_ranking: bool = True,
    area: bool = False,
    overwrite: bool = False,
    on_block: Callable[[int], None] | None = None,
) -> RankingMetrics:
    """Rank all items for every user with a test item and measure the lists.

    Args:
        score: maps a slice of user rows to finite scores [n_block, n_items], float32 or float64, on any
            device; it is called once for each block that has a user to evaluate.
        train: sparse [n_users, n_items]; a user's items here are excluded from the user's ranking.
        test: sparse [n_users, n_items], without entries of `train`.
        cutoffs: list lengths k to report. A user with fewer than k candidates gets a shorter list.
        metrics: of each list; see `choose_metrics`.
        block_users: scored at once; bounds memory, changes no result. Without it as many as a cache keeps at hand.
        whole_ranking, area: also report "mrr", for which users without a hit are ranked to the end; and "auc".
        overwrite: the scores are made for this call, and may be written to.
        on_block: called after each block with the number of user rows done.

    Returns:
        Each of `metrics`, as in "recall@k", for every k, "mrr" and "auc" (of the whole ranking) per user, and
        "coverage@k" for the catalogue. Recall divides by the number of test items of the user, not min(k, n).

    Raises:
        ConfigurationError, DataError: see `check_cutoffs`, `score_block` and `hold_out`; or `block_users` is below 1.
    """
    check_cutoffs(cutoffs)
    held_out = hold_out(train, test)
    block_users = max(1, _BLOCK_SCORES // held_out.n_items) if block_users is None else block_users
    at_least(1, block_users=block_users)
    n_users = held_out.test.shape[0]
    recommended = {k: torch.zeros(held_out.n_items, dtype=torch.bool) for k in cutoffs}
    per_block: list[dict[str, np.ndarray]] = []
    for start in range(0, n_users, block_users):
        stop = min(start + block_users, n_users)
        users = held_out.users_in(start, stop)
        if users.size:
            scores = score_block(score, slice(start, stop), held_out.n_items)
            # Otherwise a copy is written to: scores may belong to the scorer, and be one row for everybody.
            mine = overwrite and len(users) == len(scores)
            own = scores if mine else scores.index_select(0, torch.from_numpy(users - start).to(scores.device))
            block = _rank_block(own, held_out.of_users(users), max(cutoffs), whole=whole_ranking, area=area)
            per_block.append(_measure(block, metrics, cutoffs))
            for k, seen in recommended.items():
                seen[block.items[:, :k][block.listed[:, :k]]] = True
        if on_block is not None:
            on_block(stop)
    return RankingMetrics(
        users=held_out.users,
        per_user={name: np.concatenate([part[name] for part in per_block]) for name in per_block[0]},
        catalogue={f"coverage@{k}": coverage(seen) for k, seen in recommended.items()},
    )


def check_cutoffs(cutoffs: Sequence[int]) -> None:
    """Refuse an empty list of cutoffs and cutoffs below 1."""
    if not cutoffs:
        raise ConfigurationError("Expected at least one cutoff, got none. Give the list lengths, as in (10, 20).")
    for cutoff in cutoffs:
        at_least(1, cutoff=cutoff)


def _on_device(pairs: tuple[np.ndarray, np.ndarray], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    users, items = pairs
    return torch.from_numpy(users).to(device), torch.from_numpy(items).to(device)


def _rank_block(scores: torch.Tensor, held_out: HeldOut, k: int, *, whole: bool, area: bool) -> _RankedBlock:
    """Rank one block; `scores` is written to."""
    train_users, train_items = _on_device(held_out.train_pairs(), scores.device)
    scores[train_users, train_items] = -torch.inf
    relevant = _on_device(held_out.test_pairs(), scores.device)
    items = top_items(scores, k)
    hits = are_among(items, *relevant, n_items=held_out.n_items)
    return _RankedBlock(
        items=items.cpu(),
        listed=scores.gather(1, items).isfinite().cpu(),
        hits=hits.cpu(),
        n_relevant=torch.from_numpy(np.diff(held_out.test.indptr).astype(np.int64)),
        first_rank=_first_ranks(scores, hits, *relevant).cpu() if whole else None,
        area=area_under_curve(scores, *relevant).cpu() if area else None,
    )


def are_among(items: torch.Tensor, users: torch.Tensor, relevant: torch.Tensor, *, n_items: int) -> torch.Tensor:
    """Whether each of `items` [n_users, k] is one of its user's relevant pairs; no table of users and items."""
    own = items + n_items * torch.arange(len(items), device=items.device)[:, None]
    return torch.isin(own, users * n_items + relevant)


def _first_ranks(
    scores: torch.Tensor, hits: torch.Tensor, users: torch.Tensor, relevant: torch.Tensor
) -> torch.Tensor:
    """Rank of each user's first relevant item: its place in the list, or counted where the list has none."""
    ranks = 1 + hits.int().argmax(1)
    missed = ~hits.any(1)
    if missed.any():
        place = missed.cumsum(0) - 1
        of_missed = missed[users]
        ranks[missed] = first_relevant_rank(scores[missed], place[users[of_missed]], relevant[of_missed])
    return ranks


def _measure(block: _RankedBlock, metrics: Sequence[Metric], cutoffs: Sequence[int]) -> dict[str, np.ndarray]:
    values = {metric.at(k): metric.values(block.hits, block.n_relevant, k) for metric in metrics for k in cutoffs}
    if block.first_rank is not None:
        values["mrr"] = reciprocal_rank(block.first_rank)
    if block.area is not None:
        values[AUC] = block.area
    return {name: value.numpy() for name, value in values.items()}
