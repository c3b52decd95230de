"""Runs that answer which item comes next: what they read, what they refuse, and what stays as it was."""

import numpy as np
import pytest
from small_run import small_run

from recsys_fed.certificates.run import verify_run
from recsys_fed.errors import ConfigurationError
from recsys_fed.federation.run_files import CERTIFICATES, EMBEDDINGS, EVENTS
from recsys_fed.models.items import load_item_embeddings


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Users who walk through 40 items in steps of one, from starts of their own, with times of the clock."""
    path = tmp_path_factory.mktemp("walks") / "walks.csv"
    rng, lines = np.random.default_rng(0), ["user,item,timestamp"]
    for user in range(150):
        start = int(rng.integers(40))
        lines += [f"u{user},i{(start + step) % 40},{1_700_000_000 + 86_400 * step}" for step in range(12)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def trained(folder, data, **keys):
    record = small_run(folder, data=data, epsilon=8.0, **keys)
    return record, (folder / EMBEDDINGS).read_bytes()


def test_the_next_item_of_a_walk_is_found_by_order_and_lost_when_it_is_shuffled(table, tmp_path):
    walks = {"split": "leave-last-out", "epsilon": float("inf"), "metrics_epsilon": 0.0, "declared_users": 100}
    found = {
        name: small_run(data=table, trainer="spectral", **walks, **keys)["metrics"]["ndcg@10"]
        for name, keys in {
            "ordered": {},
            "unordered": {"order": "off", "recency": "off"},
            "shuffled": {"shuffle_order": True},
        }.items()
    }
    assert found["ordered"] > 0.9, found
    assert found["ordered"] > found["unordered"] + 0.1, found
    assert found["shuffled"] < found["ordered"] - 0.2, found


def test_order_is_charged_and_certified_like_every_release(table, tmp_path):
    record, _ = trained(tmp_path, table, split="leave-last-out", trainer="spectral")
    found = verify_run(tmp_path / CERTIFICATES, events=tmp_path / EVENTS, model=tmp_path / EMBEDDINGS)
    assert found.holds, found
    assert record["next_item"]["ties"] == 0
    assert "ordered subspace" in (tmp_path / EVENTS).read_text()
    assert all(spent <= 8.0 for spent in record["epsilon_spent"].values())
    assert load_item_embeddings(tmp_path / EMBEDDINGS).fold_in.half_life > 0


@pytest.mark.parametrize("keys", [{"split": "per-user-random"}, {"split": "leave-last-out", "target": "any"}])
def test_without_the_next_item_as_target_a_model_has_the_bytes_of_no_order(table, tmp_path, keys):
    _, auto = trained(tmp_path / "auto", table, **keys)
    _, off = trained(tmp_path / "off", table, order="off", recency="off", **keys)
    assert auto == off


def test_some_users_are_measured_by_their_own_order(table):
    keys = {"data": table, "split": "leave-last-out", "epsilon": float("inf"), "metrics_epsilon": 0.0}
    some = small_run(trainer="spectral", evaluate_users=60, **keys)
    # An order of other users would find no more than chance does.
    assert some["metrics"]["ndcg@10"] > 0.9


def test_masked_and_plain_rounds_take_in_the_same_order(table, tmp_path):
    record, _ = trained(tmp_path, table, split="leave-two-out", secure_aggregation="on", trainer="spectral")
    assert record["metrics"]["ndcg@10"] > 0


def test_silos_on_disk_train_the_same_model(table, tmp_path):
    how = {"split": "leave-last-out", "trainer": "spectral"}
    _, memory = trained(tmp_path / "memory", table, **how)
    _, disk = trained(tmp_path / "disk", table, block_interactions=50, **how)
    assert memory == disk


@pytest.mark.parametrize("keys", [{"target": "next"}, {"order": "3"}, {"recency": "5"}, {"recency": "30d"}], ids=str)
def test_data_without_times_has_no_next_item(table, keys):
    with pytest.raises(ConfigurationError, match="times"):
        small_run(data=table, columns="time=", **keys)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"order": "3", "trainer": "popularity"}, "which reads none"),
        ({"order": "often"}, "number of positions"),
        ({"order": "30d"}, "number of positions"),
        ({"recency": "-1"}, "days"),
        ({"target": "past"}, "target"),
    ],
)
def test_settings_that_mean_nothing_are_refused(table, keys, said):
    with pytest.raises(ConfigurationError, match=said):
        small_run(data=table, split="leave-last-out", **keys)
