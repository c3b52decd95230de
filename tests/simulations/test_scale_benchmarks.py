"""The benchmarks of scale run on small sizes, compare runs of the same data, and fit the exponent that is there."""

import pytest

from simulations.benchmarks import growth
from simulations.benchmarks.federation_run import (
    Federation,
    als_seconds,
    alternating,
    bare_products,
    private_run,
    timed,
)
from simulations.benchmarks.spectral_scale import run, write_parquet

SMALL = Federation(n_users=150, n_items=60, mean_interactions=12, silos=2)


def test_every_way_runs_on_the_same_data():
    assert SMALL.train().shape[0] == 150
    assert timed(lambda: private_run(SMALL)) > 0
    assert timed(lambda: bare_products(SMALL, dim=8)) > 0
    assert als_seconds(SMALL, dim=8, iterations=1, threads=1) > 0


def test_a_run_from_parquet_measures_the_users_asked_for(tmp_path):
    path = write_parquet(SMALL, tmp_path / "small.parquet")
    record = run(path, SMALL, evaluated=20)
    assert (record["n_silos"], record["rounds"]) == (2, 5), "four that train, and the metrics"
    # A mean over 20 users of whether they have a hit is a multiple of 1/20; one over all of them is hardly ever.
    assert (record["metrics"]["hr@20"] * 20) == pytest.approx(round(record["metrics"]["hr@20"] * 20))
    assert record["peak_rss_mb"] > 0


def test_medians_are_of_each_way_and_ways_take_turns():
    calls = []

    def way(name, values):
        def measured():
            calls.append(name)
            return values.pop(0)

        return measured

    assert alternating([way("a", [3.0, 1.0, 2.0]), way("b", [9.0, 9.0, 8.0])], repetitions=3) == [2.0, 9.0]
    assert calls == ["a", "b"] * 3


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.5])
def test_the_exponent_is_the_slope_in_logarithms(exponent):
    sizes = [10, 20, 80]
    assert growth.fit_exponent(sizes, [0.3 * size**exponent for size in sizes]) == pytest.approx(exponent)


def test_what_grows_along_each_series():
    grown = {name: [growth._factors(size, sizes) for size in sizes] for name, sizes in growth.SERIES.items()}
    assert grown["dimensions"] == [8, 16, 32, 64]
    assert grown["users x items (interactions fixed)"][-1] == 160_000 * 80_000
    fixed = growth.SERIES["users x items (interactions fixed)"]
    assert len({size.users * size.history for size in fixed}) == 1


def test_a_small_series_gives_a_finite_exponent(monkeypatch):
    monkeypatch.setattr(growth, "REPETITIONS", 1)
    sizes = [growth.Size(users=n, items=30, history=5, dim=2) for n in (10, 40)]
    assert abs(growth._exponent(sizes)) < 50
