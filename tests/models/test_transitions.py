"""Transitions equal plain loops over a user's places, and the next item of a cycle is the one that follows."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ordered_lists import N_ITEMS, histories_in_order, users

from recsys_fed.errors import ConfigurationError
from recsys_fed.evaluation.sequential import SEQUENTIAL_BASELINES
from recsys_fed.models.histories import histories_of
from recsys_fed.models.items import FoldIn, ItemEmbeddings
from recsys_fed.models.transitions import count_transitions
from recsys_fed.personalisation.next_item import choose_next, fit_next_item_model, hold_out_latest


@settings(max_examples=60, deadline=None)
@given(users, st.sampled_from([0.0, 0.5, 3.0]))
def test_counts_are_those_of_a_loop_over_places(lists, window):
    expected = np.zeros((N_ITEMS, N_ITEMS))
    for items in lists:
        for p, first in enumerate(items):
            for r in range(p + 1, min(len(items), p + 2 + int(5.6 * window))):
                expected[first, items[r]] += 2.0 ** (-(r - p - 1) / window) if window else 1.0
    found = count_transitions(histories_in_order(lists), window=window)
    np.testing.assert_allclose(found.toarray(), expected, rtol=1e-6)


def cycles(n_users=60, length=4):
    """Users walk through the items in a circle, each from another start; the next one is what follows."""
    return [[(start + step) % N_ITEMS for step in range(length)] for start in range(n_users)]


@pytest.mark.parametrize("name", ["markov", "transitions", "sasrec"])
def test_the_item_that_follows_comes_first(name):
    lists = cycles()
    histories = histories_in_order(lists)
    scores = SEQUENTIAL_BASELINES[name](histories)(slice(0, len(lists))).clone()
    scores[histories.users, histories.items.long()] = -torch.inf
    assert scores.argmax(1).tolist() == [(items[-1] + 1) % N_ITEMS for items in lists]


@pytest.mark.parametrize("name", SEQUENTIAL_BASELINES)
def test_blocks_of_users_are_parts_of_the_whole(name):
    histories = histories_in_order(cycles())
    score = SEQUENTIAL_BASELINES[name](histories)
    whole = score(slice(0, 60))
    assert whole.shape == (60, N_ITEMS)
    torch.testing.assert_close(torch.cat([score(slice(0, 7)), score(slice(7, 60))]), whole)


def test_histories_without_an_order_are_refused():
    with pytest.raises(ConfigurationError, match="order"):
        count_transitions(histories_of(histories_in_order([[1, 2]]).matrix()), window=1.0)


def released(vectors):
    return ItemEmbeddings(
        vectors=vectors, bias=torch.zeros(N_ITEMS), history_weights=torch.ones(N_ITEMS),
        fold_in=FoldIn(kind="projection", half_life=1.0), catalogue_hash="c",
    )  # fmt: skip


def test_a_silo_whose_own_transitions_say_it_all_takes_nothing_from_a_model_of_noise():
    histories = histories_in_order(cycles())
    model = released(torch.randn(N_ITEMS, 3, generator=torch.Generator().manual_seed(0)))
    choice = choose_next(hold_out_latest(histories, rng=np.random.default_rng(0)), model)
    assert choice.validation[choice.recipe] == choice.validation[choice.alone] == 1.0
    fitted = fit_next_item_model(histories, model, choice.recipe)
    scores = fitted.scores(histories)
    scores[histories.users, histories.items.long()] = -np.inf
    assert scores.argmax(1).tolist() == [(items[-1] + 1) % N_ITEMS for items in cycles()]


def test_what_is_taken_is_never_below_the_silo_alone_on_its_own_users():
    rng = np.random.default_rng(3)
    histories = histories_in_order([rng.permutation(N_ITEMS)[:4].tolist() for _ in range(50)])
    for seed in range(5):
        model = released(torch.randn(N_ITEMS, 3, generator=torch.Generator().manual_seed(seed)))
        choice = choose_next(hold_out_latest(histories, rng=rng), model)
        assert choice.validation[choice.recipe] >= choice.validation[choice.alone]
        assert choice.alone.name == "local-only"


def test_silos_of_nobody_and_of_users_with_one_item_take_the_released_model():
    model = released(torch.eye(N_ITEMS, 3))
    for lists in ([], [[1], [2]]):
        histories = histories_in_order(lists)
        choice = choose_next(hold_out_latest(histories, rng=np.random.default_rng(0)), model)
        assert choice.recipe.name == "user-only"
        assert fit_next_item_model(histories, model, choice.recipe).scores(histories).shape == (len(lists), N_ITEMS)
