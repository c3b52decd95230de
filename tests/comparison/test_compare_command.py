"""`recsys-fed compare` on a small federation: every line, the record, the picture, and what the sentences say."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from command_line import run_command
from scipy import sparse

from recsys_fed.comparison.compare import Compared
from recsys_fed.comparison.lines import Line, averaged, item_groups, measured_by_silo
from recsys_fed.comparison.record import sentences


def table(tmp_path, *, n_users=120, n_items=36):
    rng = np.random.default_rng(0)
    likely = np.where(np.arange(n_items) % 3 == (np.arange(n_users) % 3)[:, None], 0.5, 0.05)
    users, items = np.nonzero(rng.random((n_users, n_items)) < likely)
    path = tmp_path / "t.csv"
    path.write_text("user,item\n" + "".join(f"{u},{i}\n" for u, i in zip(users, items, strict=True)))
    return path


def test_the_command_compares_everything(tmp_path):
    picture = tmp_path / "c.png"
    code, out, err = run_command("compare", "--data", table(tmp_path), "--silos", 2, "--noise", "central", "--epsilons", "8,4",
                    "--seeds", 2, "--plot", picture, "--set", "threads=1", "--json")  # fmt: skip
    assert code == 0, err
    record = json.loads(out)
    budgets = [(line["method"], line["epsilon"]) for line in record["lines"]]
    both = [(name, e) for name in ("global, user-only", "global, silo-trusted") for e in (4.0, 8.0)]
    assert set(budgets) == {
        ("popularity", "inf"), ("private popularity", 4.0), ("private popularity", 8.0), ("local-only", "inf"),
        *both, ("pooled, EASE", "inf"), ("global", "inf"),
    }  # fmt: skip
    lines = dict(zip(budgets, record["lines"], strict=True))
    for line in lines.values():
        assert line["recall@20"]["low"] <= line["recall@20"]["mean"] <= line["recall@20"]["high"]
    assert lines["pooled, EASE", "inf"]["ndcg@20"]["mean"] > 1.2 * lines["popularity", "inf"]["ndcg@20"]["mean"]
    assert [silo["n_users"] for silo in record["silos"]] == [60, 60]
    assert len(record["sentences"]) == 2
    assert picture.read_bytes().startswith(b"\x89PNG")


def two_silos():
    train = sparse.csr_matrix(np.ones((6, 4)))
    dataset = SimpleNamespace(name="x")
    users = [np.array([0, 2, 4]), np.array([1, 3, 5])]
    return SimpleNamespace(train=train, test=train, users_of_silo=users, dataset=dataset)


def line(method, values, epsilon=math.inf):
    return Line(method=method, epsilon=epsilon, per_user={"recall@20": np.array(values)}, by_popularity={})


@pytest.mark.parametrize(
    ("gain", "said"), [(0.1, "joining pays by +0.1"), (-0.1, "it costs -0.1"), (None, "does not pay for sure")]
)
def test_the_sentence_follows_the_paired_interval(gain, said):
    alone = np.linspace(0.2, 0.8, 6)
    change = np.array([0.1, 0.1, -0.1, -0.1, 0.05, 0.05]) if gain is None else gain
    lines = [line("local-only", alone), line("global, silo-trusted", alone + change, 8.0)]
    compared = Compared(federation=two_silos(), first=lines, lines=lines, spreads={})
    told = sentences(compared, rng=np.random.default_rng(0))
    assert [text.split(":")[0] for text in told] == ["silo-0", "silo-1"]
    assert all(said in text for text in told)


def test_a_silo_without_test_items_says_so():
    lines = [line("local-only", [np.nan, 0.1] * 3), line("global, user-only", [np.nan, 0.2] * 3, 1.0)]
    told = sentences(
        Compared(federation=two_silos(), first=lines, lines=lines, spreads={}), rng=np.random.default_rng(0)
    )
    assert "nothing can be said" in told[0]
    assert "joining pays by +0.1" in told[1]


def test_users_are_averaged_over_the_seeds_in_which_they_were_measured():
    found = averaged([line("m", [0.0, np.nan, np.nan]), line("m", [1.0, 0.5, np.nan])])
    np.testing.assert_array_equal(found.per_user["recall@20"], [0.5, 0.5, np.nan])


def test_each_group_of_items_has_a_third_of_the_interactions():
    train = sparse.csr_matrix((np.random.default_rng(0).random((300, 40)) < np.linspace(0.9, 0.02, 40)).astype(float))
    groups, counts = item_groups(train), np.asarray(train.sum(axis=0)).ravel()
    assert sum(members.astype(int) for members in groups.values()).tolist() == [1] * 40
    shares = [counts[members].sum() / counts.sum() for members in groups.values()]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.08)
    assert counts[groups["frequent items"]].min() >= counts[groups["rare items"]].max()


def test_every_silo_is_scored_by_its_own_scorer():

    federation = two_silos()
    federation.train = sparse.csr_matrix((6, 30))
    federation.test = sparse.csr_matrix(([1.0] * 6, (range(6), [29] * 6)), shape=(6, 30))
    ranks = {0: torch.arange(30.0), 1: -torch.arange(30.0)}
    found, _ = measured_by_silo(
        federation, lambda silo, train: lambda rows: ranks[silo].repeat(len(range(3)[rows]), 1)
    )
    np.testing.assert_array_equal(found["recall@20"], [1, 0] * 3)
