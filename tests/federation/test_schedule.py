"""The server's half of a run: planned, calibrated, asked and stepped."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from by_hand import answers, begun, run_by_hand
from silo_data import make_histories

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.config import FederationConfig
from recsys_fed.errors import ConfigurationError, PrivacyError, ProtocolError
from recsys_fed.federation.messages import Greeting
from recsys_fed.federation.metrics_round import STAGE as METRICS
from recsys_fed.federation.schedule import advance, agree, item_embeddings, request
from recsys_fed.privacy.accounting import epsilon_pld, epsilon_prv

N_ITEMS, N_SILOS = 25, 3
SPECTRAL = FederationConfig(silos=N_SILOS, declared_users=90, rounds=3, embedding_dim=3, epsilon=2.0)
DP_SGD = replace(SPECTRAL, trainer="dp-sgd", rounds=5)
LOCAL = {"schedule": "local", "local_steps": 3}
CONFIGS = {
    "spectral, own": SPECTRAL,
    "spectral, distributed": replace(SPECTRAL, noise="distributed"),
    "spectral by the rule": replace(SPECTRAL, rounds=0, embedding_dim=0, epsilon=8.0),
    "dp-sgd, own": DP_SGD,
    "dp-sgd, distributed": replace(DP_SGD, noise="distributed"),
    "dp-sgd, sampled": replace(DP_SGD, dp_sgd={"sampling_probability": 0.3}),
    "dp-sgd, local steps": replace(DP_SGD, rounds=3, dp_sgd=LOCAL),
    "dp-sgd, sampled local steps": replace(DP_SGD, rounds=3, dp_sgd={**LOCAL, "sampling_probability": 0.3}),
}


@pytest.fixture(scope="module")
def silos():
    return [make_histories(30, N_ITEMS, seed=seed) for seed in range(N_SILOS)]


@pytest.fixture(scope="module", params=CONFIGS.values(), ids=CONFIGS)
def whole_run(request, silos):
    """A configuration, the schedule at the end and the events of each round."""
    return request.param, *run_by_hand(begun(request.param, N_ITEMS), silos)


def test_a_whole_run_costs_what_was_promised(whole_run):
    config, schedule, rounds = whole_run
    assert len(rounds) == len(schedule.stages)
    assert not config.rounds or len(rounds) == config.rounds + 1
    assert rounds[-1][0].stage == METRICS
    spent = [account([events[0] for events in rounds], delta=config.delta) for account in (epsilon_pld, epsilon_prv)]
    assert max(spent) <= config.epsilon
    assert min(spent) >= 0.98 * config.epsilon


def test_every_silo_pays_for_every_round_alike(whole_run):
    config, _, rounds = whole_run
    for number, events in enumerate(rounds):
        assert events == [events[0]] * N_SILOS
        assert events[0].round == number
        assert events[0].noise_share == (1.0 if config.noise == "per-silo" else 1 / (N_SILOS - 1))


def test_a_whole_run_gives_a_usable_model(whole_run):
    model = item_embeddings(whole_run[1])
    assert model.vectors.shape[0] == N_ITEMS
    assert model.vectors.isfinite().all()
    assert model.vectors.abs().sum() > 0
    assert model.catalogue_hash == "c0ffee"


def test_without_privacy_nothing_is_noised(silos):
    schedule = begun(replace(SPECTRAL, epsilon=math.inf), N_ITEMS)
    assert schedule.noise_multiplier == 0.0
    updates = answers(schedule, silos)
    exact = sum(
        schedule.trainer.contribution("item counts", {}, histories, settings={"l2_clip_norm": 1.0})
        for histories in silos
    )
    step = request(schedule).grid_step
    total = sum(update.total.astype(np.int64) for update in updates) * step
    np.testing.assert_allclose(total, exact.numpy(), atol=N_SILOS * step)


def test_the_grid_holds_the_noise_and_the_declared_users():
    for config in (SPECTRAL, replace(SPECTRAL, noise="distributed"), DP_SGD, CONFIGS["dp-sgd, local steps"]):
        asked = request(begun(config, N_ITEMS))
        one = asked.noise_multiplier * asked.l2_clip_norm * asked.noise_share**0.5
        assert asked.grid_step <= one / 32
        assert config.declared_users * asked.l2_clip_norm / asked.grid_step < 2**31


def test_delta_must_suit_the_declared_users():
    begun(replace(SPECTRAL, delta=0.0099, declared_users=100), N_ITEMS)
    with pytest.raises(ConfigurationError, match="n_users = 100"):
        begun(replace(SPECTRAL, delta=0.01, declared_users=100), N_ITEMS)


def test_noise_that_is_split_needs_every_silo(silos):
    schedule = begun(replace(SPECTRAL, noise="distributed"), N_ITEMS)
    asked, updates = request(schedule), answers(schedule, silos)
    assert advance(schedule, asked, updates).round == 1
    with pytest.raises(PrivacyError, match=r"all 3 silos .* got 2"):
        advance(schedule, asked, updates[:2])


def test_whole_noise_does_not_need_every_silo(silos):
    schedule = begun(SPECTRAL, N_ITEMS)
    asked, updates = request(schedule), answers(schedule, silos)
    assert advance(schedule, asked, updates[:1]).round == 1
    with pytest.raises(ProtocolError, match="No silo sent an update"):
        advance(schedule, asked, [])


def test_an_answer_to_another_round_is_refused(silos):
    schedule = begun(SPECTRAL, N_ITEMS)
    asked, stale = request(schedule), answers(schedule, silos)
    later = advance(schedule, asked, stale)
    with pytest.raises(ProtocolError, match="round 1"):
        advance(later, request(later), stale)


def test_local_steps_cannot_split_their_noise():
    with pytest.raises(ConfigurationError, match="noise = per-silo with the local schedule"):
        begun(replace(DP_SGD, noise="distributed", dp_sgd=LOCAL), N_ITEMS)


def test_the_start_depends_on_the_seed_alone():
    tables = [begun(replace(DP_SGD, seed=seed), N_ITEMS).state.start for seed in (0, 0, 1)]
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])


def test_features_are_read_only_where_they_are_wanted():
    categories = tuple((f"group {number % 4}",) for number in range(N_ITEMS))
    ids = np.array([str(number) for number in range(N_ITEMS)], dtype=object)
    catalogue = Catalogue(item_ids=ids, categories=categories)
    assert begun(SPECTRAL, N_ITEMS, catalogue).facts.features.shape[0] == N_ITEMS
    assert begun(replace(SPECTRAL, item_features=False), N_ITEMS, catalogue).facts.features is None
    assert begun(SPECTRAL, N_ITEMS, None).facts.features is None


def greeting(silo: int, **changes) -> Greeting:
    return replace(Greeting(silo=f"silo-{silo}", catalogue_hash="c0ffee", n_items=N_ITEMS), **changes)


def test_silos_with_one_catalogue_agree():
    assert agree([greeting(0), greeting(1)], None).n_items == N_ITEMS


@pytest.mark.parametrize("change", [{"catalogue_hash": "decaf"}, {"n_items": N_ITEMS + 1}])
def test_silos_with_another_catalogue_are_named(change):
    with pytest.raises(ProtocolError, match=r"silos silo-1, silo-3 hold another than silo-0"):
        agree([greeting(0), greeting(1, **change), greeting(2), greeting(3, **change)], None)


def test_the_servers_catalogue_decides():
    own = Catalogue(item_ids=np.array(["a", "b"], dtype=object))
    same = {"catalogue_hash": own.content_hash, "n_items": 2}
    assert agree([greeting(0, **same)], own).catalogue_hash == own.content_hash
    with pytest.raises(ProtocolError, match=r"silos silo-1 hold another than server"):
        agree([greeting(0, **same), greeting(1)], own)


def test_nobody_is_no_federation():
    with pytest.raises(ProtocolError, match="at least one silo"):
        agree([], None)


@pytest.mark.parametrize("k", [2, 3])
def test_a_user_in_k_silos_is_protected_over_all_of_them(silos, k):
    config = replace(CONFIGS["spectral, own"], max_silos_per_user=k)
    schedule, rounds = run_by_hand(begun(config, N_ITEMS), silos)
    events = [events[0] for events in rounds]
    assert 0.98 * config.epsilon <= epsilon_pld(events * k, delta=config.delta) <= config.epsilon
    # Gaussian releases: k of them cost what one with a root of k less noise costs.
    alone = begun(replace(config, max_silos_per_user=1), N_ITEMS)
    assert schedule.noise_multiplier == pytest.approx(alone.noise_multiplier * k**0.5, rel=1e-3)
