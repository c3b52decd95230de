"""What MLflow has of a finished training: all that it was, and what verifies."""

import json
from pathlib import Path

import pytest
from command_line import run_command
from mlflow import MlflowClient

from recsys_fed import Dataset, Federation, Run
from recsys_fed.certificates.run import verify_run
from recsys_fed.errors import ConfigurationError, EngineError, MissingExtraError
from recsys_fed.simulation.tracking import track_run

DATA = "generated:users=90,items=30"


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    """A store of files of this test alone."""
    uri = f"file://{tmp_path}/mlruns"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return uri


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    federation = Federation(Dataset.open(DATA), silos=2)
    return federation.train("spectral", epsilon=6.0, rounds=3).save(tmp_path_factory.mktemp("run") / "mine")


def tracked(uri):
    """All runs, the oldest first."""
    client = MlflowClient(uri)
    found = client.search_runs([one.experiment_id for one in client.search_experiments()])
    return client, sorted(found, key=lambda run: run.info.start_time)


def test_a_run_is_recorded_by_the_command_with_all_that_it_was(store, tmp_path):
    flags = ["--data", DATA, "--silos", 2, "--epsilon", 6, "--rounds", 3, "--output", tmp_path / "mine"]
    code, _, error = run_command("simulate", *flags, "--track", "mlflow")
    assert code == 0, error
    client, (run,) = tracked(store)
    mine = Run.load(tmp_path / "mine")
    assert run.info.run_name == "mine" and run.info.status == "FINISHED"
    assert (run.data.params["epsilon"], run.data.params["trainer"]) == ("6.0", "spectral")
    assert not {"output", "catalogue", "ledgers"} & run.data.params.keys()
    assert run.data.metrics["recall_at_20"] == mine.metrics["recall@20"]
    assert run.data.tags["recsys_fed.guarantee"] == mine.guarantee.sentence()
    assert "not privatised" in run.data.tags["recsys_fed.note"]
    by_round = client.get_metric_history(run.info.run_id, "epsilon_spent")
    spent = [one.value for one in sorted(by_round, key=lambda one: one.step)]
    assert len(spent) == mine.record["rounds"]
    assert spent == sorted(spent) and spent[-1] == max(mine.epsilon_spent.values())
    assert {one.value for one in client.get_metric_history(run.info.run_id, "silos")} == {2}
    kept = client.download_artifacts(run.info.run_id, "", str(tmp_path))
    places = {"events": Path(kept, "events.jsonl"), "model": Path(kept, "item_embeddings.safetensors")}
    assert verify_run(Path(kept, "certificates"), **places).holds
    assert mine.guarantee.sentence() in (tmp_path / "guarantee.txt").read_text()


def test_what_silos_reported_stands_beside_its_noise(store):
    federation = Federation(Dataset.open("generated:users=900,items=30"), silos=2, track="mlflow")
    trained = federation.train("popularity", epsilon=20.0)
    _, (run,) = tracked(store)
    assert trained.record["private_metrics"]
    for name, reported in trained.record["private_metrics"].items():
        for part in ("value", "noise"):
            assert run.data.metrics[f"reported/{name.replace('@', '_at_')}/{part}"] == reported[part]


def test_of_a_deployed_training_there_is_what_the_server_has(store, folder, tmp_path):
    deployed = tmp_path / "20260101T000000-abc"
    Run.load(folder).save(deployed)
    (deployed / "metrics.json").unlink()
    (deployed / "config.toml").rename(deployed / "run.toml")
    track_run(deployed, config="run.toml")
    client, (run,) = tracked(store)
    assert "recall_at_20" not in run.data.metrics and run.data.metrics["epsilon_spent"] > 0
    assert "metrics.json" not in {one.path for one in client.list_artifacts(run.info.run_id)}


@pytest.mark.soak
def test_a_sweep_records_each_trial(store, tmp_path):
    pytest.importorskip("optuna")
    federation = Federation(Dataset.open(DATA), silos=2, track="mlflow")
    federation.sweep({"rounds": [3]}, "spectral", output=tmp_path / "sweep", trials=2, epsilon=9.0)
    assert [run.info.run_name for run in tracked(store)[1]] == ["trial-0", "trial-1"]


def test_what_cannot_be_recorded_is_said_before_the_training_or_keeps_the_run(folder, monkeypatch):
    with pytest.raises(ConfigurationError, match="mlflow"):
        Federation(Dataset.open(DATA), track="wandb")
    before = json.loads((folder / "metrics.json").read_text())
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    with pytest.raises(EngineError, match="is complete, but MLflow did not take it"):
        track_run(folder)
    assert Run.load(folder).record == before
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    with pytest.raises(MissingExtraError, match=r"recsys-fed\[mlflow\]"):
        Federation(Dataset.open(DATA), track="mlflow")
