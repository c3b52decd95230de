"""Negatives are uniform over everything outside train but the positive, and follow from the generator."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.stats import chisquare

from recsys_fed.errors import ConfigurationError, DataError
from recsys_fed.evaluation.sampled import NO_ITEM, draw_negatives

BLANK, TRAIN, TEST = 0, 1, 2


def matrices(states):
    states = np.asarray(states)
    return csr_array(1 * (states == TRAIN)), csr_array(1 * (states == TEST))


def candidates(row, positive):
    return {item for item, state in enumerate(row) if state != TRAIN and item != positive}


@st.composite
def worlds(draw):
    n_users, n_items = draw(st.integers(1, 5)), draw(st.integers(1, 10))
    cell = st.sampled_from([BLANK, TRAIN, TEST])
    states = draw(st.lists(st.lists(cell, min_size=n_items, max_size=n_items), min_size=n_users, max_size=n_users))
    states[0][draw(st.integers(0, n_items - 1))] = TEST
    return states


@settings(max_examples=150, deadline=None)
@given(worlds(), st.integers(1, 12), st.integers(0, 2**32))
def test_distinct_candidates_as_many_as_there_are(states, n, seed):
    trials = draw_negatives(*matrices(states), n=n, rng=np.random.default_rng(seed))
    expected = [(u, i) for u, row in enumerate(states) for i, state in enumerate(row) if state == TEST]
    assert list(zip(trials.users.tolist(), trials.positives.tolist(), strict=True)) == expected
    assert trials.negatives.shape == (len(expected), n)
    for (user, positive), row in zip(expected, trials.negatives.tolist(), strict=True):
        allowed = candidates(states[user], positive)
        count = min(n, len(allowed))
        assert len(set(row[:count])) == count
        assert set(row[:count]) <= allowed
        assert row[count:] == [NO_ITEM] * (n - count)


def test_every_candidate_is_equally_likely_other_test_items_included():
    states = np.full((20_000, 12), BLANK)
    states[:, [0, 5, 11]] = TRAIN
    states[:, [2, 7]] = TEST
    trials = draw_negatives(*matrices(states), n=3, rng=np.random.default_rng(1))
    drawn = trials.negatives[trials.positives == 2]
    counts = np.bincount(drawn.ravel(), minlength=12)
    allowed = [1, 3, 4, 6, 7, 8, 9, 10]
    assert counts.sum() == counts[allowed].sum() == 60_000
    assert chisquare(counts[allowed]).pvalue > 1e-4
    # The test rejects a bias of one part in ten for a single item.
    biased = counts.copy()
    biased[7] = round(0.9 * biased[7])
    assert chisquare(biased[allowed]).pvalue < 1e-4


def test_every_subset_is_equally_likely():
    states = np.full((30_000, 6), BLANK)
    states[:, 0] = TEST
    trials = draw_negatives(*matrices(states), n=2, rng=np.random.default_rng(2))
    pairs = np.sort(trials.negatives, axis=1)
    _, counts = np.unique(pairs[:, 0] * 6 + pairs[:, 1], return_counts=True)
    assert len(counts) == 10
    assert chisquare(counts).pvalue > 1e-4


def test_the_generator_decides():
    rng = np.random.default_rng(3)
    states = np.where(rng.random((30, 60)) < 0.3, TRAIN, BLANK)
    states[:, 7] = TEST
    one, same, other = (
        draw_negatives(*matrices(states), n=9, rng=np.random.default_rng(seed)).negatives for seed in (4, 4, 5)
    )
    assert (one == same).all()
    assert (one != other).any()


def test_what_cannot_be_drawn_from_is_refused():
    train, test = matrices([[TRAIN, TEST, BLANK]])
    with pytest.raises(ConfigurationError, match="Expected n to be an integer >= 1"):
        draw_negatives(train, test, n=0, rng=np.random.default_rng(0))
    with pytest.raises(DataError, match="without common entries"):
        draw_negatives(train, train, n=1, rng=np.random.default_rng(0))


def test_the_trials_do_not_show_in_the_repr():
    trials = draw_negatives(*matrices([[TRAIN, TEST, BLANK]]), n=1, rng=np.random.default_rng(0))
    assert repr(trials) == "SampledTrials()"
