"""Robust steps over silos, and the largest release that an honest silo could send."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from by_hand import answers, begun
from sample_messages import REQUEST, honest_update
from silo_data import make_histories

from recsys_fed.config import FederationConfig
from recsys_fed.errors import ConfigurationError, ProtocolError
from recsys_fed.federation.aggregation import _largest_norm, check_norm, noise_factor, robust_total, total_of
from recsys_fed.federation.schedule import advance, request

KINDS = [("median", 0.2), ("trimmed-mean", 0.2)]


def updates_of(columns):
    """One update a silo; each silo has one column."""
    return [honest_update(REQUEST, np.reshape(column, (4, 1))) for column in columns]


@pytest.mark.parametrize(("kind", "trim"), KINDS)
def test_silos_that_agree_give_their_sum(kind, trim):
    updates = updates_of([[1, -2, 3, 4]] * 5)
    assert torch.equal(robust_total(updates, REQUEST, kind=kind, trim=trim), total_of(updates, REQUEST))


@pytest.mark.parametrize(("kind", "trim"), KINDS)
def test_one_liar_of_five_moves_nothing_beyond_the_others(kind, trim):
    honest = [[10, 20, 30, 40], [11, 21, 31, 41], [12, 22, 32, 42], [13, 23, 33, 43]]
    for lie in ([2**31 - 1] * 4, [-(2**31)] * 4):
        updates = updates_of([*honest, lie])
        found = robust_total(updates, REQUEST, kind=kind, trim=trim)[:, 0] / (5 * REQUEST.grid_step)
        assert (found >= torch.tensor(honest[0])).all()
        assert (found <= torch.tensor(honest[-1])).all()
        assert not torch.allclose(total_of(updates, REQUEST)[:, 0] / (5 * REQUEST.grid_step), found, rtol=0.5)


@pytest.mark.parametrize(("kind", "trim"), [*KINDS, ("trimmed-mean", 0.4)])
@pytest.mark.parametrize("n_silos", [5, 10, 31])
def test_the_noise_is_what_is_said(kind, trim, n_silos):
    draws = np.rint(np.random.default_rng(7).normal(0, 1000, (n_silos, 40_000, 1))).astype(np.int32)
    asked = replace(REQUEST, shape=(40_000, 1))
    total = robust_total([honest_update(asked, silo) for silo in draws], asked, kind=kind, trim=trim)
    measured = float(total.std()) / (1000 * asked.grid_step * n_silos**0.5)
    said = noise_factor(n_silos, kind=kind, trim=trim)
    assert measured == pytest.approx(said, rel=0.07)
    # What is said is told apart from the plain sum's.
    assert said > 1.02


def test_noise_that_is_split_is_refused():
    with pytest.raises(ConfigurationError, match="whole noise"):
        robust_total(updates_of([[1, 2, 3, 4]]), replace(REQUEST, noise_share=0.5), kind="median", trim=0.2)
    with pytest.raises(ConfigurationError, match="noise = per-silo"):
        FederationConfig(robust="median", noise="distributed")
    with pytest.raises(ProtocolError):
        robust_total([], REQUEST, kind="median", trim=0.2)


def test_a_run_takes_the_step_that_was_asked_for():
    silos = [make_histories(30, 20, seed=seed) for seed in range(3)]
    plain = FederationConfig(silos=3, declared_users=90, rounds=3, embedding_dim=3, metrics_epsilon=0.0)
    counts = {}
    for kind in ("none", "median"):
        schedule = begun(replace(plain, robust=kind), 20)
        schedule = advance(schedule, request(schedule), answers(schedule, silos))
        counts[kind] = schedule.state.popularity.counts
    assert not torch.equal(counts["none"], counts["median"])


@pytest.mark.parametrize(
    "trainer", [{}, {"trainer": "dp-sgd"}, {"trainer": "dp-sgd", "dp_sgd": {"schedule": "local"}}]
)
@pytest.mark.parametrize("epsilon", [0.1, 8.0, float("inf")])
def test_honest_silos_are_within_the_bound_even_if_one_has_everybody(trainer, epsilon):
    config = FederationConfig(silos=2, declared_users=80, rounds=3, embedding_dim=4, epsilon=epsilon, **trainer)
    schedule = begun(config, 30)
    silos = [make_histories(160, 30, seed=1), make_histories(0, 30)]
    while schedule.round < len(schedule.stages):
        asked, updates = request(schedule), answers(schedule, silos)
        for update in updates:
            check_norm(update, asked, declared_users=config.declared_users)
        schedule = advance(schedule, asked, updates)


def test_what_no_honest_silo_sends_is_refused():
    bound = _largest_norm(REQUEST, declared_users=100)
    within = honest_update(REQUEST, [[int(bound) - 1], [0], [0], [0]])
    check_norm(within, REQUEST, declared_users=100)
    with pytest.raises(ProtocolError, match="norm at most"):
        check_norm(honest_update(REQUEST, [[int(bound) + 1], [0], [0], [0]]), REQUEST, declared_users=100)
    # The bound grows with the users that are declared, not with those that are there.
    assert _largest_norm(REQUEST, declared_users=200) > bound
