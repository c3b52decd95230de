"""Our metrics equal those of independent libraries: trec_eval for lists, scikit-learn for areas and errors."""

import numpy as np
import pytest
import pytrec_eval
import torch
from scipy import sparse
from sklearn.metrics import f1_score, mean_absolute_error, precision_score, roc_auc_score, root_mean_squared_error

from recsys_fed.evaluation.metrics import choose_metrics
from recsys_fed.evaluation.protocol import evaluate_ranking
from recsys_fed.evaluation.ranking import top_items
from recsys_fed.evaluation.rating_errors import rating_errors
from recsys_fed.models.histories import Histories, Signals

K = 5


def case(seed):
    """Scores with many ties, and disjoint train and test items; every user has a test item and another candidate."""
    rng = np.random.default_rng(seed)
    n_users, n_items = 8, int(rng.integers(6, 30))
    scores = rng.integers(0, 5, (n_users, n_items)).astype(float)
    drawn = rng.random((n_users, n_items))
    train, test = drawn < 0.25, (drawn >= 0.25) & (drawn < 0.55)
    train[:, :2] = False
    test[:, 0], test[:, 1] = True, False
    return scores, train, test


def measured(scores, train, test):
    return evaluate_ranking(
        lambda rows: torch.from_numpy(scores[rows]),
        train=sparse.csr_matrix(train),
        test=sparse.csr_matrix(test),
        cutoffs=(K,),
        metrics=choose_metrics("precision,f1,map"),
        area=True,
    ).per_user


@pytest.mark.parametrize("seed", range(50))
def test_lists_are_measured_as_by_trec_eval(seed):
    scores, train, test = case(seed)
    found = measured(scores, train, test)
    ranked = np.where(train, -np.inf, scores)
    # trec_eval breaks ties in another way: it is given our order.
    order = top_items(torch.from_numpy(ranked), ranked.shape[1]).numpy()
    relevant = {f"{u}": {f"{i}": int(test[u, i]) for i in range(test.shape[1])} for u in range(len(test))}
    run = {
        f"{u}": {f"{i}": float(-place) for place, i in enumerate(order[u]) if np.isfinite(ranked[u, i])}
        for u in range(len(test))
    }
    names = {f"recall_{K}", f"P_{K}", f"map_cut_{K}", f"ndcg_cut_{K}", f"success_{K}", "recip_rank"}
    theirs = pytrec_eval.RelevanceEvaluator(relevant, names).evaluate(run)
    pairs = {
        f"recall@{K}": f"recall_{K}",
        f"precision@{K}": f"P_{K}",
        f"map@{K}": f"map_cut_{K}",
        f"ndcg@{K}": f"ndcg_cut_{K}",
        f"hr@{K}": f"success_{K}",
        "mrr": "recip_rank",
    }
    for ours, name in pairs.items():
        np.testing.assert_allclose(found[ours], [theirs[f"{u}"][name] for u in range(len(test))], atol=1e-9)


@pytest.mark.parametrize("seed", range(50))
def test_areas_and_f1_are_those_of_scikit_learn(seed):
    scores, train, test = case(seed)
    found = measured(scores, train, test)
    listed = np.zeros_like(test)
    order = top_items(torch.from_numpy(np.where(train, -np.inf, scores)), K).numpy()
    np.put_along_axis(listed, order, True, axis=1)
    listed &= ~train
    for user in range(len(test)):
        candidates = ~train[user]
        area = roc_auc_score(test[user][candidates], scores[user][candidates])
        assert found["auc"][user] == pytest.approx(area, abs=1e-9)
        if listed[user].sum() == K:
            assert found[f"precision@{K}"][user] == pytest.approx(precision_score(test[user], listed[user]), abs=1e-9)
            assert found[f"f1@{K}"][user] == pytest.approx(
                f1_score(test[user], listed[user], zero_division=0), abs=1e-9
            )


def test_a_user_whose_every_candidate_is_held_out_has_an_area_of_one_half():
    found = measured(np.ones((1, 3)), np.array([[True, False, False]]), np.array([[False, True, True]]))
    assert found["auc"].tolist() == [0.5]


@pytest.mark.parametrize("seed", range(50))
def test_rating_errors_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    n_users, n_items = 6, 9
    held = rng.random((n_users, n_items)) < 0.5
    held[0, 0] = True
    users, items = np.nonzero(held)
    values = rng.integers(1, 6, len(users)).astype(np.float32)
    values[1:][rng.random(len(users) - 1) < 0.1] = np.nan
    test = Histories(
        items=torch.from_numpy(items),
        starts=torch.from_numpy(np.searchsorted(users, np.arange(n_users + 1))),
        n_items=n_items,
        signals=Signals(value=torch.from_numpy(values)),
    )
    predicted, there = rng.uniform(1, 5, len(users)), ~np.isnan(values)
    train = sparse.csr_matrix(rng.random((n_users, n_items)) < 0.4)
    found = rating_errors(predicted, test, train)
    assert found["overall"]["rmse"] == pytest.approx(
        root_mean_squared_error(values[there], predicted[there]), abs=1e-9
    )
    assert found["overall"]["mae"] == pytest.approx(mean_absolute_error(values[there], predicted[there]), abs=1e-9)
