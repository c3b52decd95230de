"""The metrics on lists short enough to be worked out by hand."""

import math

import pytest
import torch

from recsys_fed.errors import ConfigurationError
from recsys_fed.evaluation.metrics import (
    METRICS,
    SHOWN_NAMES,
    coverage,
    hit_rate_at,
    ndcg_at,
    recall_at,
    reciprocal_rank,
)

# Hits at ranks 1 and 3, at rank 4 alone, and nowhere.
HITS = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=torch.bool)
N_RELEVANT = torch.tensor([2, 1, 5])


def test_recall_divides_by_the_number_of_test_items_even_beyond_k():
    assert recall_at(HITS, N_RELEVANT, 2).tolist() == [0.5, 0.0, 0.0]
    assert recall_at(HITS, N_RELEVANT, 4).tolist() == [1.0, 1.0, 0.0]
    perfect_top_two_of_eight = torch.tensor([[True, True]])
    assert recall_at(perfect_top_two_of_eight, torch.tensor([8]), 2).item() == 0.25


def test_ndcg_discounts_by_log2_of_rank_plus_one():
    first, second, _ = ndcg_at(HITS, N_RELEVANT, 4).tolist()
    assert first == pytest.approx((1 + 1 / 2) / (1 + 1 / math.log2(3)), abs=1e-12)
    assert second == pytest.approx(1 / math.log2(5), abs=1e-12)


def test_ndcg_of_a_list_full_of_hits_is_one_even_beyond_k():
    full = torch.ones(1, 3, dtype=torch.bool)
    assert ndcg_at(full, torch.tensor([8]), 3).item() == pytest.approx(1.0, abs=1e-12)


def test_hit_rate_asks_for_any_hit():
    assert hit_rate_at(HITS, N_RELEVANT, 3).tolist() == [1.0, 0.0, 0.0]
    assert hit_rate_at(HITS, N_RELEVANT, 4).tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_short_list_counts_as_filled_with_misses(metric):
    padded = torch.cat([HITS, torch.zeros(3, 6, dtype=torch.bool)], dim=1)
    short = metric.values(HITS, N_RELEVANT, 10)
    assert short.tolist() == pytest.approx(metric.values(padded, N_RELEVANT, 10).tolist(), abs=1e-12)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_cutoff_below_one_is_refused(metric):
    with pytest.raises(ConfigurationError, match="Expected k to be an integer >= 1, got 0"):
        metric.values(HITS, N_RELEVANT, 0)


def test_reciprocal_rank_and_coverage():
    assert reciprocal_rank(torch.tensor([1, 4])).tolist() == [1.0, 0.25]
    assert coverage(torch.tensor([True, False, False, True, False])) == 0.4


def test_the_names_that_tables_show_follow_from_the_list():
    assert SHOWN_NAMES == (
        "recall@20", "ndcg@20", "precision@20", "f1@20", "map@20", "recall@10", "ndcg@10", "hr@10",
    )  # fmt: skip
