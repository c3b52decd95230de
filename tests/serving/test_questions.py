"""/v1/questions: greedy D-optimal design by its formula, and answers that are not asked for again."""

import numpy as np
import pytest
from serving_kit import made_application, made_release
from starlette.testclient import TestClient

from recsys_fed.serving.history import UserHistory
from recsys_fed.serving.questions import _MOST_KNOWN, propose_questions


def plain(release, known, limit):
    """With the determinants themselves."""
    x = release.vectors.astype(float) * release.weights[:, None]
    chances = np.maximum(release.bias.astype(float), 0)
    chances = _MOST_KNOWN * chances / chances.max()
    precision = (x**2).sum() / len(x) * np.eye(x.shape[1]) + x[known].T @ x[known]
    asked = []
    for _ in range(limit):

        def gain(row, precision=precision):
            more = precision + chances[row] * np.outer(x[row], x[row])
            return np.linalg.slogdet(more)[1] - np.linalg.slogdet(precision)[1]

        row = max((row for row in range(len(x)) if row not in [*known, *asked]), key=gain)
        asked.append(row)
        precision = precision + chances[row] * np.outer(x[row], x[row])
    return asked


@pytest.mark.parametrize("kind", ["ridge", "projection"])
@pytest.mark.parametrize("known", [[], [3, 17, 40]])
def test_questions_are_those_of_the_determinants(kind, known):
    release = made_release(kind=kind)
    history = UserHistory(levels={f"i{row}": 0.0 for row in known})
    rows, gains = propose_questions(release, history.answered_rows(release), 6)
    assert rows.tolist() == plain(release, known, 6)
    assert (np.diff(gains) <= 1e-6).all() and (gains >= 0).all()


def test_everything_known_or_nothing_popular_is_no_error():
    release = made_release(n_items=5)
    everything = UserHistory(consumed={f"i{row}": None for row in range(5)})
    assert propose_questions(release, everything.answered_rows(release), 3)[0].tolist() == []
    level = made_release(n_items=5, bias=np.zeros(5, dtype=np.float32))
    assert len(propose_questions(level, UserHistory().answered_rows(level), 9)[0]) == 5


def test_answers_fold_in_and_are_not_asked_for_again(tmp_path):
    application, headers = made_application(tmp_path)
    with TestClient(application) as client:

        def asked(limit=4):
            answer = client.post("/v1/questions", json={"user": "new", "limit": limit}, headers=headers["all"])
            assert answer.status_code == 200, answer.text
            return [one["item"] for one in answer.json()["items"]]

        first = asked()
        assert len(set(first)) == 4
        for item, kind in zip(first, ("like", "dislike", "like", "dislike"), strict=True):
            body = {"user": "new", "item": item, "kind": kind}
            assert client.post("/v1/feedback", json=body, headers=headers["all"]).status_code == 200
        assert not set(asked()) & set(first)
        found = client.post("/v1/recommendations", json={"user": "new"}, headers=headers["all"]).json()
        assert found["basis"] == "history" and not {one["item"] for one in found["items"]} & set(first)
        wrong = client.post("/v1/questions", json={"user": "new", "limit": 51}, headers=headers["all"])
        assert wrong.status_code == 422
