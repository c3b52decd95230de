"""A generated shop: what is bought weighs more than what is viewed, in training and in what counts as a hit."""

from dataclasses import replace

import numpy as np
import pytest

from recsys_fed.config import SimulationConfig
from recsys_fed.data.generate import generate
from recsys_fed.data.simulated import simulated_federation

KINDS = {"view": 0.1, "buy": 1.0}
SMALL = {"n_users": 300, "n_items": 200, "mean_interactions": 10.0, "n_groups": 5, "views": 4, "seed": 3}
DATA = SimulationConfig(
    data="generated:users=300,items=200,interactions=10,groups=5,views=4,seed=3", kinds="view=0.1,buy=1"
)


def test_most_views_have_nothing_to_do_with_taste():
    shop = generate(**SMALL, kinds=KINDS)
    weight = shop.interactions.weight
    assert set(np.unique(weight)) == {np.float32(0.1), np.float32(1.0)}
    assert 2 < np.count_nonzero(weight < 1) / np.count_nonzero(weight == 1) < 4.5
    group = np.array([names[0] for names in shop.catalogue.categories])
    # A user's buys are of few groups; what is viewed is of all.
    shares = []
    for bought in (weight == 1, weight < 1):
        user, item = shop.interactions.user[bought], shop.interactions.item[bought]
        of_user = [np.unique(group[item[user == one]], return_counts=True)[1] for one in range(300)]
        shares.append(np.mean([counts.max() / counts.sum() for counts in of_user if counts.sum() > 4]))
    assert shares[0] > shares[1] + 0.1


def test_kinds_say_what_counts():
    buys = generate(**SMALL, kinds={"buy": 1.0}).interactions
    everything = generate(**SMALL)
    assert everything.interactions.weight is None
    assert 2.5 * len(buys) < len(everything.interactions)


@pytest.mark.parametrize("least", [-1.0, 0.5])
def test_only_buys_are_hits(least):
    federation = simulated_federation(replace(DATA, hit_weight=least), silos=2, seed=0)
    weight = dict(zip(zip(*federation.train.nonzero(), strict=True), federation.histories.weights, strict=True))
    assert set(map(float, weight.values())) >= {1.0}
    interactions = federation.dataset.interactions
    rows = federation.catalogue.rows(interactions.item_ids)[interactions.item]
    bought = set(zip(interactions.user[interactions.weight == 1], rows[interactions.weight == 1], strict=True))
    held = set(zip(*federation.test.nonzero(), strict=True))
    assert held and held <= bought


def test_the_control_has_the_same_histories_and_hits_without_weights():
    whole = simulated_federation(DATA, silos=2, seed=0)
    control = simulated_federation(replace(DATA, ignore_weights=True), silos=2, seed=0)
    assert (whole.train != control.train).nnz == (whole.test != control.test).nnz == 0
    assert whole.histories.weights is not None and control.histories.weights is None
