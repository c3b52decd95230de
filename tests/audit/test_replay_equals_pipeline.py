"""The cheap path is the pipeline: with the pipeline's keys a replay gives its very integers."""

from dataclasses import replace

import numpy as np
import pytest
from small_audit import small_audit

from recsys_fed.audit._broken_mechanisms import _KnownSeed
from recsys_fed.audit._mechanism import SUM
from recsys_fed.federation.noise_split import resolve_masking


@pytest.mark.parametrize(
    "settings",
    [{}, {"noise": "distributed"}, {"secure_aggregation": "on"}],
    ids=["per-silo", "distributed", "masked"],
)
def test_a_replay_with_the_pipelines_keys_is_what_its_server_saw(settings):
    audit = small_audit(8.0, canaries=60, **settings)
    run = audit.run
    silos = _KnownSeed(trainer=audit.mechanism.trainer, key=0, public_seed=run.config.seed)
    users = run.users(canaries=True)
    assert [one.request.stage for one in run.rounds] == [
        "item counts",
        "co-occurrence",
        "subspace",
        "subspace",
        "metrics",
    ]
    for one in run.rounds:
        seen = silos.observed(one.schedule, one.request, users, release=one.request.round)
        assert seen.keys() == one.seen.keys() == ({SUM} if settings else {"silo-0", "silo-1", "silo-2"})
        for view, integers in seen.items():
            assert np.array_equal(integers, one.seen[view])


def test_other_keys_and_other_users_give_other_integers():
    audit = small_audit(8.0, canaries=60)
    one, users = audit.run.rounds[0], audit.run.users(canaries=True)
    seen = audit.mechanism.observed(one.schedule, one.request, users, release=0)
    assert not np.array_equal(seen["silo-0"], one.seen["silo-0"])
    again = audit.mechanism.observed(one.schedule, one.request, users, release=0)
    assert np.array_equal(seen["silo-0"], again["silo-0"])
    quiet = replace(audit.mechanism, key=5).observed(one.schedule, one.request, audit.others, release=0)
    assert not np.array_equal(seen["silo-0"], quiet["silo-0"])


def test_masks_change_nothing_that_the_server_may_see():
    masked = small_audit(8.0, canaries=60, secure_aggregation="on").run
    split = small_audit(8.0, canaries=60, noise="distributed").run
    assert resolve_masking(masked.config, simulated=True).secure_aggregation_threshold == 3
    for one, two in zip(masked.rounds, split.rounds, strict=True):
        assert np.array_equal(one.seen[SUM], two.seen[SUM])
