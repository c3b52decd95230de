"""Runs under a protocol: its parts, its metrics and its word are in the record; published negatives are used."""

import numpy as np
import pytest
import torch
from scipy import sparse
from small_run import small_run

from recsys_fed.config import SimulationConfig
from recsys_fed.data.simulated import simulated_federation
from recsys_fed.simulation.runner import _pick_test_users, evaluate


@pytest.fixture
def u_data(tmp_path):
    """60 users with about 12 ratings of 1 to 5 each, in MovieLens-100K's layout."""
    rng = np.random.default_rng(0)
    rows = [
        (user, item, rng.integers(1, 6), rng.integers(1_000))
        for user in range(1, 61)
        for item in rng.choice(30, 12, replace=False) + 1
    ]
    (tmp_path / "u.data").write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    return str(tmp_path)


def test_the_record_says_which_part_of_which_protocol_was_measured(u_data, tmp_path):
    records = {
        part: small_run(data=u_data, protocol="ml-100k", held_out=part, epsilon=8.0)
        for part in ("test", "validation")
    }
    for part, record in records.items():
        assert record["protocol"]["name"] == "ml-100k"
        assert record["protocol"]["held_out"] == part
        assert record["protocol"]["metrics"] == ["ndcg@10", "hr@10"]
        assert set(record["protocol"]["metrics"]) <= set(record["metrics"])
        assert not any(name.startswith("sampled") for name in record["metrics"])
        assert max(record["epsilon_spent"].values()) <= 8.0
    assert records["test"]["metrics"] != records["validation"]["metrics"]
    assert small_run(data=u_data, epsilon=8.0)["protocol"] == {"name": "", "held_out": "test"}


def test_a_run_under_a_protocol_is_repeated_from_its_files(u_data, tmp_path):
    from recsys_fed.config import FederationConfig, parse, read_toml
    from recsys_fed.simulation.runner import Simulation, simulate

    first = small_run(tmp_path / "run", data=u_data, protocol="ml-100k", trainer="popularity")
    keys = read_toml(tmp_path / "run" / "config.toml")
    assert keys["protocol"] == "ml-100k"
    again = simulate(Simulation(federation=parse(FederationConfig, keys), data=parse(SimulationConfig, keys)))
    assert again["metrics"] == first["metrics"]
    assert (first["trainer"], first["rounds"]) == ("popularity", 2)


def federation_with(negatives):
    """Three users, five items: each has item 0 and is asked for item 1."""
    federation = simulated_federation(
        SimulationConfig(data="generated:users=3,items=5,interactions=2"), silos=1, seed=0
    )
    of_all = np.arange(3)
    train = sparse.csr_matrix((np.ones(3), (of_all, 0 * of_all)), shape=(3, 5))
    test = sparse.csr_matrix((np.ones(3), (of_all, 0 * of_all + 1)), shape=(3, 5))
    from dataclasses import replace

    return replace(federation, train=train, test=test, negatives=negatives)


def score(rows):
    """Item 2 above item 1, which is above the others."""
    return torch.tensor([0.0, 2.0, 3.0, 1.0, 1.0]).expand(len(range(3)[rows]), 5)


def test_published_negatives_are_those_that_the_test_item_is_ranked_among():
    easy, hard = np.full((3, 2), 4), np.array([[2, 4], [4, 4], [4, 4]])
    easy[:, 1] = 3
    assert evaluate(score, federation_with(easy), sampled_negatives=2)["sampled_mrr"] == 1.0
    assert evaluate(score, federation_with(hard), sampled_negatives=2)["sampled_mrr"] == pytest.approx((0.5 + 2) / 3)
    # Of other lengths they are not what was asked for, and are drawn: all three others, item 2 among them.
    assert evaluate(score, federation_with(easy), sampled_negatives=3)["sampled_mrr"] == 0.5


def test_of_some_users_the_negatives_are_their_own():
    negatives = np.array([[2], [4], [4]])
    some = _pick_test_users(federation_with(negatives), n_users=2, seed=1)
    assert len(some.negatives) == len(some.train.toarray()) == 2
    rows = [row for row in range(3) if any((negatives[row] == kept).all() for kept in some.negatives)]
    assert len(rows) >= 2
