"""Bootstrap intervals cover the mean as often as they say, and pairing counts."""

import numpy as np
import pytest

from recsys_fed.comparison.intervals import bootstrap
from recsys_fed.errors import ConfigurationError


def test_the_interval_is_that_of_the_normal_approximation():
    values = np.random.default_rng(0).exponential(size=4_000)
    found = bootstrap(values, rng=np.random.default_rng(1), resamples=4_000)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


@pytest.mark.parametrize(("level", "low", "high"), [(0.95, 0.90, 0.98), (0.5, 0.42, 0.58)])
def test_it_covers_the_truth_as_often_as_it_says(level, low, high):
    rng = np.random.default_rng(2)
    covered = [
        (found := bootstrap(rng.standard_normal(100), rng=rng, resamples=300, level=level)).low < 0 < found.high
        for _ in range(400)
    ]
    assert low < np.mean(covered) < high


def test_chunks_do_not_change_how_many_are_drawn(monkeypatch):
    values = np.arange(50.0)
    monkeypatch.setattr("recsys_fed.comparison.intervals._CHUNK_CELLS", 130)
    found = bootstrap(values, rng=np.random.default_rng(3), resamples=501)
    assert found.low < found.mean == 24.5 < found.high


def test_nothing_to_average_is_refused():
    with pytest.raises(ConfigurationError, match="n_users"):
        bootstrap(np.zeros(0), rng=np.random.default_rng(0))
