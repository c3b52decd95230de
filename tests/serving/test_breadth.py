"""Breadth: more of it changes lists in the direction that it says, none of it leaves the order of the scores."""

import numpy as np
from serving_kit import made_release

from recsys_fed.evaluation.metrics import by_user_group, exposure
from recsys_fed.serving.diversity import RerankWeights, genre_profile, rerank, tail_of

RELEASE = made_release(n_items=200, dim=6, seed=3)
ROWS = np.arange(100)
SCORES = np.linspace(2.0, 0.0, 100)
TAIL = tail_of(RELEASE, head_share=0.5)


def listed(breadth, genres=None, k=10):
    return ROWS[rerank(RELEASE, ROWS, SCORES, k, breadth=breadth, genres=genres or {}, tail=TAIL)]


def closeness(rows):
    directions = RELEASE.vectors[rows] / RELEASE.norms[rows][:, None]
    return float((directions @ directions.T).sum() - len(rows))


def test_nothing_asked_keeps_the_order():
    assert listed(RerankWeights()).tolist() == list(range(10))


def test_mmr_takes_the_item_that_its_formula_names():
    chosen = listed(RerankWeights(diversity=0.4), k=3)
    directions = RELEASE.vectors[ROWS] / RELEASE.norms[ROWS][:, None]
    relevance, expected = SCORES / 2.0, [0]
    for _ in range(2):
        nearest = np.maximum(0.0, (directions @ directions[expected].T).max(axis=1))
        gain = 0.6 * relevance - 0.4 * nearest
        gain[expected] = -np.inf
        expected.append(int(gain.argmax()))
    assert chosen.tolist() == expected
    assert closeness(listed(RerankWeights(diversity=0.6))) < closeness(listed(RerankWeights()))


def test_calibration_follows_the_users_genres():
    genres = {"Horror": 0.8, "Comedy": 0.2}

    def share(rows):
        return genre_profile(RELEASE, rows, np.ones(len(rows))).get("Horror", 0.0)

    assert share(listed(RerankWeights(calibration=0.9), genres)) > 1.5 * share(listed(RerankWeights()))
    assert listed(RerankWeights(calibration=0.9)).tolist() == list(range(10))  # nobody known, nothing to follow


def test_a_share_outside_the_head_is_met_and_no_more_is_given_up():
    plain = TAIL[listed(RerankWeights())].sum()
    for share in (0.0, 0.7, 1.0):
        rows = listed(RerankWeights(group_share=share))
        assert TAIL[rows].sum() >= max(np.ceil(10 * share), 0)
        assert len(set(rows.tolist())) == 10
    assert TAIL[listed(RerankWeights(group_share=plain / 10))].sum() == plain


def test_groups_of_users_and_items():
    groups = np.array(["a", "b", "a"], dtype=object)
    assert by_user_group(np.array([0.2, 0.9, 0.4]), groups) == {"a": 0.30000000000000004, "b": 0.9, "gap": 0.6}
    kinds = np.array(["head", "tail", "tail"], dtype=object)
    assert exposure(np.array([[0, 1], [2, -1]]), kinds) == {"head": 1 / 3, "tail": 2 / 3}
