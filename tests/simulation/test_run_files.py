"""The files of a run: complete, repeatable, and with every release in them."""

import json
import math

import pytest
from small_run import small_run

from recsys_fed.config import FederationConfig, SimulationConfig, parse, read_toml
from recsys_fed.data.simulated import simulated_federation
from recsys_fed.privacy.accounting import epsilon_pld, epsilon_prv
from recsys_fed.privacy.events import ReleaseEvent
from recsys_fed.simulation.runner import Progress, Simulation, simulate

KEYS = {
    "data", "data_note", "data_findings", "n_users", "n_items", "n_interactions", "n_silos", "trainer", "noise",
    "noise_note", "epsilon", "delta", "epsilon_spent", "guarantee", "noise_multiplier", "declared_users", "rounds",
    "embedding_dim", "seed", "engine", "device", "seconds", "peak_rss_mb", "bytes_up", "bytes_down", "refused",
    "note", "metrics", "popularity", "versions",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The record and the folder of a run."""
    folder = tmp_path_factory.mktemp("run")
    return small_run(folder, seed=5, epsilon=4.0, partition="zipf"), folder


def test_the_record_has_all_that_was_promised(run):
    record, folder = run
    assert set(record) >= KEYS
    assert json.loads((folder / "metrics.json").read_text()) == record
    assert set(record["seconds"]) == {"load", "train", "evaluate"}
    assert set(record["epsilon_spent"]) == {"silo-0", "silo-1", "silo-2"}
    assert {"python", "recsys-fed", "flwr", "torch", "opacus", "dp-accounting"} <= set(record["versions"])
    assert record["metrics"].keys() == record["popularity"].keys() >= {"recall@20", "ndcg@20", "mrr"}


def test_the_record_says_what_the_data_was(run):
    record, _ = run
    data = simulated_federation(
        parse(SimulationConfig, {"data": "generated:users=120,items=40,interactions=12", "partition": "zipf"}),
        silos=3,
        seed=5,
    )
    assert (record["n_users"], record["n_items"], record["n_silos"]) == (120, 40, 3)
    assert record["n_interactions"] == len(data.dataset.interactions)
    assert record["declared_users"] == 100
    assert (record["seed"], record["engine"], record["device"]) == (5, "in-process", record["device"])
    assert "not privatised" in record["note"]


def test_figures_of_cost_are_plausible(run):
    record, _ = run
    one_way = 4 * record["n_silos"] * record["n_items"]
    assert record["bytes_up"] > one_way
    assert record["bytes_down"] > one_way
    assert 50 < record["peak_rss_mb"] < 100_000
    assert all(seconds >= 0 for seconds in record["seconds"].values())


def test_every_release_of_every_silo_is_in_the_events(run):
    record, folder = run
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert len(lines) == record["rounds"] * record["n_silos"]
    assert {(line["silo"], line["round"]) for line in lines} == {
        (f"silo-{silo}", number) for silo in range(3) for number in range(record["rounds"])
    }
    for silo, spent in record["epsilon_spent"].items():
        events = [
            ReleaseEvent.from_dict({k: v for k, v in x.items() if k not in ("silo", "payload")})
            for x in lines
            if x["silo"] == silo
        ]
        assert spent == pytest.approx(max(epsilon_pld(events, delta=1e-6), epsilon_prv(events, delta=1e-6)), rel=1e-9)
        assert 0.98 * 4.0 <= spent <= 4.0


@pytest.mark.parametrize("data", ["generated", "table"])
def test_config_toml_repeats_the_run(data, run, tmp_path):
    _, folder = run
    if data == "table":
        rows = "".join(f"{user},{item}\n" for user in range(30) for item in range(12) if (user * 7 + item * 5) % 3)
        (tmp_path / "my table.csv").write_text("who,what\n" + rows)
        folder = tmp_path / "first"
        small_run(folder, data=str(tmp_path / "my table.csv"), columns="user=who,item=what", min_value=-math.inf)
    keys = read_toml(folder / "config.toml")
    again = tmp_path / "again"
    simulation = Simulation(
        federation=parse(FederationConfig, keys),
        data=parse(SimulationConfig, keys),
        engine=keys["engine"],
        declare_users="declared-users" not in keys,
    )
    simulate(simulation, output=again)
    for name in ("item_embeddings.safetensors", "events.jsonl", "config.toml", "catalogue.parquet"):
        assert (again / name).read_bytes() == (folder / name).read_bytes(), name
    figures = ("metrics", "popularity", "epsilon_spent", "bytes_up", "bytes_down")
    first, second = (json.loads((where / "metrics.json").read_text()) for where in (folder, again))
    assert [first[name] for name in figures] == [second[name] for name in figures]


def test_without_an_output_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    small_run()
    assert list(tmp_path.iterdir()) == []


def test_infinite_epsilon_is_said_in_words_that_json_knows(tmp_path):
    record = small_run(tmp_path, epsilon=math.inf)
    text = (tmp_path / "metrics.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == record
    assert record["epsilon"] == "inf"
    assert set(record["epsilon_spent"].values()) == {"inf"}
    assert "no privacy protection" in record["guarantee"]


def test_progress_is_reported(tmp_path):
    steps, releases = [], []
    progress = Progress(step=lambda *step: steps.append(step), releases=lambda *numbers: releases.append(numbers))
    record = small_run(tmp_path, progress=progress)
    assert steps == [(1, 3, "load"), (2, 3, "train"), (3, 3, "evaluate")]
    n = record["rounds"] * 3
    assert releases == [(done, n, 3) for done in range(1, n + 1)]


def test_sampled_metrics_stand_beside_the_others():
    record = small_run(sampled_negatives=10)
    assert any(name.startswith("sampled") for name in record["metrics"])
    assert record["metrics"].keys() == record["popularity"].keys()
