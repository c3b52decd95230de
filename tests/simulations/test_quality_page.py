"""The quality page says what its record says, its points are command lines, and what is asked of it holds."""

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recsys_fed.config import FederationConfig, SimulationConfig
from recsys_fed.simulation.runner import Simulation
from simulations.quality import work
from simulations.quality.__main__ import PICTURE, _done, publish
from simulations.quality.page import START, compared, means_of, tables
from simulations.quality.points import (
    BARS,
    DEFAULT_KINDS,
    EPSILONS,
    SWEEPS,
    UNSEEN,
    VARIANTS,
    Grid,
    Point,
    all_points,
)  # fmt: skip
from simulations.quality.running import APART, Job, kept_folder, results
from simulations.results.page import END

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DOCS / "quality.json").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def whole(record) -> dict[str, Any]:
    """The record where nothing was left out."""
    if record["runs_left"]:
        pytest.skip(f"docs/quality.json leaves {record['runs_left']} runs out: make quality")
    return record


def test_figures_of_the_page_are_those_of_the_record(record):
    inside = (DOCS / "quality.md").read_text(encoding="utf-8").partition(START)[2].partition(END)[0]
    assert inside.strip().splitlines() == tables(record)


def test_every_point_was_measured_within_its_budget(whole):
    measured = {json.dumps(line["command"]) + str(line["epsilon"]) + line["table"]: line for line in whole["points"]}
    for point in all_points():
        line = measured[json.dumps(point.command()) + str(point.record()["epsilon"]) + point.table]
        assert len(line["metrics"]["recall@20"]) == len(line["seeds"]) == len(point.seeds)
        assert float(line["epsilon_spent"]) <= float(line["epsilon"])


@pytest.mark.parametrize("protocol", BARS)
def test_ten_masked_silos_reach_the_level_that_is_asked_for(record, protocol):
    found = means_of(record, table="silos", protocol=protocol, silos=10, noise="masked")
    for epsilon, bar in zip(EPSILONS, BARS[protocol], strict=True):
        assert len(found[epsilon]) == 5 or record["runs_left"]
        assert statistics.fmean(found[epsilon]) >= bar


def test_small_data_is_never_below_noised_popularity_and_clearly_above_it_at_epsilon_8(record):
    auto, floor = (means_of(record, "ndcg@10", table="ml-100k", trainer=name) for name in ("auto", "popularity"))
    for epsilon in EPSILONS:
        assert statistics.fmean(auto[epsilon]) >= statistics.fmean(floor[epsilon])
    assert statistics.fmean(auto[8.0]) >= 1.3 * statistics.fmean(floor[8.0])
    assert statistics.fmean(auto[8.0]) > 0.0523


def test_the_default_kinds_are_what_validation_data_chose(whole):
    by_kind = {
        line["kinds"]: means_of(whole, table="features", held_out="validation", kinds=line["kinds"])
        for line in whole["points"]
        if line["held_out"] == "validation"
    }
    means = {
        kind: statistics.fmean(value for values in found.values() for value in values)
        for kind, found in by_kind.items()
    }
    assert means[DEFAULT_KINDS] >= 0.995 * max(means.values())


def test_the_rule_is_near_the_best_sizes_by_hand(record):
    rows = compared(record)
    assert {row["data"] for row in rows} >= ({"random90", "ultragcn", *UNSEEN} if not record["runs_left"] else set())
    for row in rows:
        # The best of thirteen on the test items of few users is best by chance as well; and generated data are made
        # of few groups, which the rule cannot know.
        least = 0.97 if row["data"] in BARS else 0.96
        assert row["rule"] >= least * row["best"], row


def test_a_point_is_what_its_command_says():
    point = Point(table="t", protocol="ncf", silos=3, epsilon=2.0, delta=1e-5, kinds="", held_out="validation")
    assert point.command() == (
        "recsys-fed simulate --protocol ncf --silos 3 --delta 1e-05 --trainer auto --secure-aggregation "
        "--held-out validation --no-item-features"
    )
    simulation = point.simulation(7)
    federation, data = simulation.federation, simulation.data
    assert (federation.seed, federation.epsilon, federation.delta, federation.silos) == (7, 2.0, 1e-5, 3)
    assert (federation.secure_aggregation, federation.item_features, federation.trainer) == ("on", False, "auto")
    assert (data.protocol, data.held_out) == ("ncf", "validation")
    assert Point(table="t", protocol="ncf", noise="own").simulation(0).federation.secure_aggregation == "off"


def test_no_two_points_of_a_table_are_the_same_run():
    names = [(point.table, point.command(), point.epsilon) for point in all_points()]
    assert len(set(names)) == len(names)


def test_small_sweeps_and_grids_run_and_differ(monkeypatch):
    small = "generated:users=150,items=60,interactions=12,groups=3"
    common = {"data": small, "epsilon": 4.0, "delta": 1e-5, "seed": 0}
    swept = {name: work.swept(**common, features=False, variant=name)["metrics"] for name in VARIANTS}
    assert len({json.dumps(metrics) for metrics in swept.values()}) > 4
    by_rule = work.tuned(**common, by_hand=None)
    assert by_rule == work.tuned(**common, by_hand=None)
    assert work.tuned(**common, by_hand=(1.0, 1.0, 0))["metrics"] != by_rule["metrics"]
    assert work.tuned(**common, by_hand=(1.6, 1.0, 3))["metrics"] != by_rule["metrics"]
    assert SWEEPS
    assert len(set(Grid(data="x").settings())) == len(Grid(data="x").settings())


def test_one_run_of_a_point_gives_the_figures_of_the_table(monkeypatch):
    small = Simulation(
        federation=FederationConfig(silos=2, epsilon=8.0, threads=1, delta=1e-5),
        data=SimulationConfig(data="generated:users=120,items=40,interactions=12"),
    )
    monkeypatch.setattr(Point, "simulation", lambda self, seed, catalogue: small)
    found = work.point(fields=Point(table="t", protocol="ncf").record(), seed=0, catalogue="")
    assert found["metrics"].keys() == found["popularity"].keys() == set(work.METRICS)
    assert 7.8 < found["epsilon_spent"] <= 8.0
    assert found["n_users"] == 120


def test_a_run_enters_none_of_the_rooms_that_do_not_count():
    """Else what was measured with other code would be taken for what this code gives."""
    code = (
        "import json, sys\n"
        "from simulations.quality import work\n"
        "from simulations.quality.points import Point\n"
        "from recsys_fed.config import FederationConfig, SimulationConfig\n"
        "from recsys_fed.simulation.runner import Simulation\n"
        "data = 'generated:users=120,items=40,interactions=12'\n"
        "federation = FederationConfig(silos=3, epsilon=8.0, delta=1e-5, threads=1, secure_aggregation='on')\n"
        "small = Simulation(federation=federation, data=SimulationConfig(data=data))\n"
        "Point.simulation = lambda self, seed, catalogue: small\n"
        "work.point(fields=Point(table='t', protocol='ncf').record(), seed=0, catalogue='')\n"
        "common = {'data': data, 'epsilon': 8.0, 'delta': 1e-5, 'seed': 0}\n"
        "work.tuned(**common, by_hand=None)\n"
        "work.swept(**common, features=False, variant='8%')\n"
        "print(json.dumps([name.split('.')[1] for name in sys.modules if name.startswith('recsys_fed.')]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    entered = set(json.loads(done.stdout.splitlines()[-1]))
    assert {"trainers", "ledger", "evaluation"} <= entered
    assert not entered & set(APART)


def test_what_is_done_is_kept_and_not_done_again(tmp_path):
    jobs = [Job(work="baseline", arguments={"protocol": "ncf", "name": name}) for name in ("a", "b")]
    assert jobs[0].name != jobs[1].name
    for job in jobs:
        (tmp_path / job.name).write_text(json.dumps({"of": job.arguments["name"]}))
    found = results(jobs, tmp_path, minutes=1, on_done=lambda *_: pytest.fail("nothing is missing"))
    assert [found[job.name]["of"] for job in jobs] == ["a", "b"]
    assert kept_folder(tmp_path) == kept_folder(tmp_path)


def test_of_what_is_left_undone_a_page_has_nothing_and_seeds_count_whole():
    points = [Point(table="t", protocol="ncf", epsilon=e, seeds=(0, 1, 2)) for e in (1.0, 2.0)]
    jobs = {(point.epsilon, seed): Job(work="x", arguments={"e": point.epsilon, "seed": seed, "part": part})
            for point in points for seed in point.seeds for part in (0,)}  # fmt: skip
    there = {jobs[1.0, 0].name: {}, jobs[1.0, 2].name: {}}
    (kept,) = _done(points, lambda point, seed: [jobs[point.epsilon, seed]], there)
    assert (kept.epsilon, kept.seeds) == (1.0, (0, 2))
    assert _done(points, lambda point, seed: [*jobs.values()], there) == []


def test_the_page_is_written_from_the_record_alone(record, tmp_path):
    (tmp_path / "quality.json").write_text(json.dumps(record))
    (tmp_path / "quality.md").write_text(f"before\n{START}\nold\n{END}\nafter\n")
    publish(tmp_path)
    assert (tmp_path / PICTURE).read_bytes().startswith(b"\x89PNG")
    written = (tmp_path / "quality.md").read_text()
    assert "old" not in written and written.startswith("before") and written.endswith("after\n")
