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
from simulations.quality.__main__ import PICTURE, _measured_part, _point_job, publish
from simulations.quality.page import START, means_of, tables
from simulations.quality.points import BARS, DEFAULT_KINDS, EPSILONS, Point, all_points
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
    assert statistics.fmean(auto[8.0]) >= 1.4 * statistics.fmean(floor[8.0])
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


def test_a_point_counts_on_the_seeds_that_were_measured():
    encoded = Job(work="catalogue", arguments={"output": "there"})
    point = Point(table="t", protocol="ncf", epsilon=1.0, seeds=(0, 1, 2))
    there = {_point_job(point, seed, encoded).name: {} for seed in (0, 2)}
    assert _measured_part(point, there, encoded).seeds == (0, 2)
    assert _measured_part(point, {}, encoded).seeds == ()


def test_the_page_is_written_from_the_record_alone(record, tmp_path):
    (tmp_path / "quality.json").write_text(json.dumps(record))
    (tmp_path / "quality.md").write_text(f"before\n{START}\nold\n{END}\nafter\n")
    publish(tmp_path)
    assert (tmp_path / PICTURE).read_bytes().startswith(b"\x89PNG")
    written = (tmp_path / "quality.md").read_text()
    assert "old" not in written and written.startswith("before") and written.endswith("after\n")
