"""Attacks: they work where nothing protects, and stop working where something does."""

import numpy as np
import pytest
from scipy import sparse
from small_audit import small_audit

from recsys_fed.audit._attacks import (
    _compare_with_histories,
    _from_updates,
    _KnownSilo,
    _mean_figure,
    _separation,
    _Victims,
)
from recsys_fed.errors import ConfigurationError


def test_auc_counts_pairs_and_ties_half():
    members, others = np.array([3.0, 2.0, 2.0, 1.0]), np.array([2.0, 0.0, 0.0, 1.0])
    pairs = [(m > o) + 0.5 * (m == o) for m in members for o in others]
    assert _separation(members, others).auc.value == pytest.approx(np.mean(pairs))
    with pytest.raises(ConfigurationError, match="4 scores"):
        _separation(members, others[:2])


def test_intervals_of_auc_and_advantage_cover():
    rng, covered = np.random.default_rng(1), []
    for _ in range(100):
        found = _separation(rng.normal(size=150) + 1, rng.normal(size=150))
        covered.append((found.auc.low <= 0.7602 <= found.auc.high, found.advantage.high > 0.3))
    assert 0.88 <= np.mean(covered, axis=0)[0] <= 0.99
    null = [_separation(rng.normal(size=150), rng.normal(size=150)).advantage.low for _ in range(100)]
    assert np.mean(np.array(null) > 0) <= 0.07


def test_a_history_is_recovered_without_protection_and_not_with_either_kind():
    audit = small_audit(8.0)
    placed = audit.run.placed
    train = placed.federation.train
    victims = _Victims(histories=placed.withheld[:40], silos=[train[rows] for rows in placed.others])
    found = _from_updates(audit.run.rounds[0].request, audit.mechanism, victims)
    prior = np.tile(_KnownSilo(others=victims.silos[0]).prior, (40, 1))
    guessing = _compare_with_histories(prior, victims.histories).share.value
    shares = {name: one.share.value for name, one in found.items()}
    assert shares.pop("one silo's update, without noise") > 0.95
    assert guessing < 0.35
    for name, share in shares.items():
        assert share < guessing + 0.12, (name, guessing)


def test_perfect_and_useless_guesses_have_the_figures_that_they_should():
    histories = sparse.csr_matrix(np.array([[1, 1, 0, 0], [0, 0, 0, 1]], dtype=np.float32))
    perfect = _compare_with_histories(histories.toarray(), histories)
    assert (perfect.share.value, perfect.auc.value) == (1.0, 1.0)
    worst = _compare_with_histories(-histories.toarray(), histories)
    assert (worst.share.value, worst.auc.value) == (0.0, 0.0)
    assert _mean_figure(np.array([1.0])).low == 1.0
