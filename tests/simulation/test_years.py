"""Trainings that build on one another: one budget, one ledger, the same bytes after a kill, and no changed table."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from command_line import json_of, run_command
from small_years import content, simulation

from recsys_fed.certificates.run import read_certificates, verify_run
from recsys_fed.data.simulated import simulated_federation
from recsys_fed.errors import ConfigurationError, LedgerIntegrityError
from recsys_fed.federation.kept_releases import RELEASES, read_earlier
from recsys_fed.federation.run_files import CERTIFICATES, EMBEDDINGS, EVENTS
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.models.items import load_item_embeddings
from recsys_fed.report.report_file import write_report
from recsys_fed.simulation.years import Years, simulate_years


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Three trainings; their folder and record."""
    folder = tmp_path_factory.mktemp("years")
    return folder, simulate_years(simulation(), Years(trainings=3), output=folder)


def test_all_trainings_together_keep_to_one_budget_in_one_ledger(finished):
    folder, record = finished
    assert [one["share"] for one in record["trainings"]] == pytest.approx([0.58, 0.79, 1.0])
    assert all(one["metrics"]["recall@20"] > 0 for one in record["trainings"])
    in_all = [max(one["epsilon_spent_in_all"].values()) for one in record["trainings"]]
    assert in_all == sorted(in_all) and 0.98 * 8 < in_all[-1] <= 8
    assert record["epsilon_spent"] == record["trainings"][-1]["epsilon_spent_in_all"]
    ledger = Ledger.open(str(folder / "training-3" / "ledgers" / "silo-0" / "ledger.sqlite"))
    assert ledger.spending().epsilon == pytest.approx(in_all[-1])
    assert dict(ledger.runs(newest=5)) == {f"training-{k}": 5 for k in (1, 2, 3)}
    for k in (1, 2, 3):
        run = folder / f"training-{k}"
        assert verify_run(run / CERTIFICATES, events=run / EVENTS, model=run / EMBEDDINGS).holds


def test_certificates_name_the_tables_of_their_training_and_of_all_before(finished):
    folder, _ = finished
    digests = [hashlib.sha256((folder / f"training-{k}" / RELEASES).read_bytes()).hexdigest() for k in (1, 2, 3)]
    for k in (1, 2, 3):
        certificates, problems = read_certificates(folder / f"training-{k}" / CERTIFICATES)
        assert not problems and len(certificates) == 4
        for certificate in certificates.values():
            assert certificate.tables == digests[k - 1] and list(certificate.earlier) == digests[: k - 1]


@pytest.mark.parametrize("name", [RELEASES, EMBEDDINGS])
def test_a_table_that_was_changed_later_is_refused(finished, tmp_path, name):
    folder, _ = finished
    run = tmp_path / "training-1"
    run.mkdir()
    for part in (RELEASES, EMBEDDINGS):
        (run / part).write_bytes((folder / "training-1" / part).read_bytes())
    (run / CERTIFICATES).symlink_to(folder / "training-1" / CERTIFICATES)
    config = replace(simulation().federation, earlier_trainings=1, earlier=json.dumps([str(run)]))
    read_earlier(config, None)
    changed = bytearray((run / name).read_bytes())
    changed[-1] ^= 1
    (run / name).write_bytes(bytes(changed))
    with pytest.raises(LedgerIntegrityError, match="changed later"):
        read_earlier(config, None)


def test_later_trainings_start_from_releases_and_cold_ones_do_not(finished, tmp_path):
    folder, _ = finished
    cold = simulate_years(simulation(), Years(trainings=3, cold=True), output=tmp_path)
    assert content(folder, [1]) == content(tmp_path, [1])
    assert content(folder, [2]) != content(tmp_path, [2])
    stages = {
        place.name: [json.loads(line)["stage"] for line in (place / "training-2" / EVENTS).read_text().splitlines()]
        for place in (folder, tmp_path)
    }
    assert "co-occurrence" in stages[tmp_path.name] and "co-occurrence" not in stages[folder.name]
    assert max(cold["epsilon_spent"].values()) <= 8


def test_it_goes_on_with_trainings_of_the_same_settings_only(finished, tmp_path):
    folder, record = finished
    again = simulate_years(simulation(), Years(trainings=3), output=folder)
    assert again["trainings"] == record["trainings"]
    with pytest.raises(ConfigurationError, match="other settings"):
        simulate_years(simulation(seed=1), Years(trainings=3), output=folder)
    with pytest.raises(ConfigurationError, match="no --ledgers"):
        simulate_years(simulation(ledgers=str(tmp_path)), Years(trainings=2), output=tmp_path / "other")


@pytest.mark.parametrize(
    "keys",
    [
        {"trainer": "popularity"},
        {"trainer": "auto"},
        {"trainer": "dp-sgd", "rounds": 4},
        {"trainer": "torch", "module": "neumf", "rounds": 4},
        {"target": "next", "split": "leave-last-out"},
        {"data": "generated:users=150,items=40,interactions=12", "trainer": "ratings", "metrics-epsilon": 0.0},
        {"secure-aggregation": "off", "noise": "per-silo"},
    ],
    ids=lambda keys: str(keys.get("trainer", keys.get("target", "not masked"))),
)
def test_every_trainer_builds_on_its_earlier_releases(tmp_path, keys, rated_table):
    if keys.get("trainer") == "ratings":
        keys = keys | {"data": str(rated_table)}
    record = simulate_years(simulation(**keys), Years(trainings=2), output=tmp_path / "warm")
    simulate_years(simulation(**keys), Years(trainings=2, cold=True), output=tmp_path / "cold")
    assert max(record["epsilon_spent"].values()) <= 8
    models = [load_item_embeddings(tmp_path / how / "training-2" / EMBEDDINGS) for how in ("warm", "cold")]
    assert any(not torch.equal(getattr(models[0], name), getattr(models[1], name)) for name in ("vectors", "bias"))


@pytest.fixture(scope="module")
def rated_table(tmp_path_factory):
    """A table of ratings."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("rated") / "ratings.csv"
    cells = [(u, i) for u in range(80) for i in rng.choice(25, 8, replace=False)]
    lines = [f"u{u},i{i},{1 + (u * i) % 5}" for u, i in cells]
    path.write_text("user,item,rating\n" + "\n".join(lines) + "\n")
    return path


def test_data_grows_from_the_oldest_on_and_silos_keep_their_users():
    data = simulation().data
    small, large, full = (
        simulated_federation(replace(data, train_share=share), silos=4, seed=0) for share in (0.4, 0.7, 1.0)
    )
    for one, other in ((small, large), (large, full)):
        assert one.train.multiply(other.train).nnz == one.train.nnz < other.train.nnz
        assert (one.excluded != full.train).nnz == 0 and (one.test != full.test).nnz == 0
        assert all((a == b).all() for a, b in zip(one.users_of_silo, full.users_of_silo, strict=True))
    interactions = full.dataset.interactions
    cells = zip(interactions.user.tolist(), interactions.item.tolist(), strict=True)
    time = dict(zip(cells, interactions.time, strict=True))
    newest = max(time[cell] for cell in zip(*small.train.nonzero(), strict=True))
    later = full.train - small.train
    assert newest <= min(time[cell] for cell in zip(*later.nonzero(), strict=True))


def test_tastes_change_where_they_are_to_and_popularity_stays():
    data = simulation().data
    before, after = (
        simulated_federation(replace(data, changed_tastes=share), silos=4, seed=0) for share in (0.0, 0.5)
    )
    changed = np.asarray((before.train != after.train).sum(axis=1)).ravel() > 0
    assert 0.3 < changed.mean() < 0.7
    assert before.train.nnz == after.train.nnz


def test_new_items_come_at_the_third_training(tmp_path):
    record = simulate_years(simulation(), Years(trainings=3, new_items=0.1), output=tmp_path)
    assert [one["n_items"] for one in record["trainings"]] == [36, 36, 40]
    found = record["new_items"]
    assert found["n_new"] == 4
    for one in ("mapped from features", "training 3"):
        # Of four new items any ranking finds all among the first twenty; of the others it does not.
        assert found[one]["new"]["recall@20"] == 1.0 > found[one]["others"]["recall@20"] > 0


def test_the_command_and_a_page_show_every_training(tmp_path):
    data = ["--data", "generated:users=150,items=40,interactions=12", "--silos", 4, "--delta", "1e-4"]
    code, out, err = run_command(
        "simulate", *data, "--threads", 1, "--schedule", 2, "--growth", 0.5, "--cold", "--output", tmp_path, "--json"
    )
    assert code == 0, err
    found = json_of(out)
    assert [one["share"] for one in found["trainings"]] == [0.5, 1.0]
    assert json_of((tmp_path / "metrics.json").read_text())["trainings"] == found["trainings"]
    assert run_command("simulate", *data, "--cold")[0] == 2
    page = write_report(str(tmp_path)).read_text(encoding="utf-8")
    assert "Trainings over the years" in page and "Epsilon spent in all" in page
