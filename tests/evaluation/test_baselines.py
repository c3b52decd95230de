"""Popularity counts users, and gives the published figures on public splits."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_array

from recsys_fed.evaluation.baselines import BASELINES, popularity
from recsys_fed.evaluation.protocol import evaluate_ranking
from recsys_fed.evaluation.sampled import evaluate_sampled

ML_1M = Path(__file__).parents[3] / "shared" / "data" / "ml-1m"


def test_popularity_counts_users_not_ratings():
    train = csr_array(np.array([[5, 0, 1], [1, 0, 0], [0, 0, 2]]))
    scores = popularity(train)(slice(1, 3))
    assert torch.equal(scores, torch.tensor([[2.0, 0.0, 2.0]] * 2))


def test_popularity_ranks_equal_counts_by_item_row():
    # Even users like even items, odd ones odd items, the diagonal withheld: every item has n/2 - 1 users.
    # User u's candidates are u and the items of the other parity, of which (u + 1) // 2 come before it.
    n = 30
    likes = (np.arange(n)[:, None] + np.arange(n)) % 2 == 0
    train = csr_array(1 * (likes & ~np.eye(n, dtype=bool)))
    result = evaluate_ranking(BASELINES["popularity"](train), train=train, test=csr_array(np.eye(n)))
    assert (1 / result.per_user["mrr"]).tolist() == pytest.approx([1 + (u + 1) // 2 for u in range(n)])


def read_user_lines(path, shape):
    rows = [[int(number) for number in line.split()] for line in path.read_text().splitlines()]
    users = np.repeat([row[0] for row in rows], [len(row) - 1 for row in rows])
    items = np.concatenate([row[1:] for row in rows]).astype(int)
    return csr_array((np.ones(len(users)), (users, items)), shape=shape)


def test_popularity_on_the_ultragcn_split():
    folder = ML_1M / "ultragcn"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data/ml-1m/ultragcn")
    train, test = (read_user_lines(folder / name, (6022, 3043)) for name in ("train.txt", "test.txt"))
    assert (train.nnz, test.nnz) == (796_244, 99_455)
    result = evaluate_ranking(popularity(train), train=train, test=test)
    means = result.means()
    assert len(result.users) == 6022
    assert (round(means["recall@20"], 4), round(means["ndcg@20"], 4)) == (0.1161, 0.1176)


def test_popularity_on_the_ncf_split():
    # Published: HR@10 .453, NDCG@10 .254 (arXiv 1911.07698, additional material).
    if not (ML_1M / "ncf").is_dir():
        pytest.skip("needs ../shared/data/ml-1m/ncf")
    rows = pd.read_csv(ML_1M / "ncf" / "ncf_item_to_movie_id.csv").set_index("movie_id")["ncf_item"]
    ratings = pd.read_parquet(ML_1M / "ratings.parquet").query("not ncf_test")
    users, items = ratings["user_id"].to_numpy() - 1, rows.loc[ratings["movie_id"]].to_numpy()
    train = csr_array((np.ones(len(users)), (users, items)), shape=(6040, len(rows)))
    text = (ML_1M / "ncf" / "ml-1m.test.negative").read_text().translate(str.maketrans("(),", "   "))
    trials = np.array([line.split() for line in text.splitlines()], dtype=np.int64)
    means = evaluate_sampled(
        popularity(train),
        users=trials[:, 0],
        positives=trials[:, 1],
        negatives=trials[:, 2:],
        n_items=len(rows),
    ).means()
    assert (round(means["sampled_hr@10"], 3), round(means["sampled_ndcg@10"], 3)) == (0.453, 0.254)
