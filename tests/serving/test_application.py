"""The application: answers, scopes, limits, filters, and what is never said."""

import json

import numpy as np
import pytest
from serving_kit import add_version, made_application, made_release
from starlette.testclient import TestClient

from recsys_fed.context import PackedEffects

RECOMMEND = "/v1/recommendations"


@pytest.fixture
def served(tmp_path):
    gate, headers = made_application(tmp_path)
    with TestClient(gate, raise_server_exceptions=False) as client:
        yield client, headers, tmp_path


def items_of(answer):
    return [item["item"] for item in answer.json()["items"]]


def report(client, headers, user, item, kind="buy", **more):
    answer = client.post(
        "/v1/feedback", headers=headers["all"], json={"user": user, "item": item, "kind": kind} | more
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def recommended(client, headers, user="u", **more):
    return client.post(RECOMMEND, headers=headers["all"], json={"user": user} | more)


def test_what_was_just_bought_is_not_recommended_and_changes_the_list(served):
    client, headers, _ = served
    before = items_of(recommended(client, headers))
    assert recommended(client, headers).json()["basis"] == "popularity"
    for item in before[:5]:
        report(client, headers, "u", item)
        answer = recommended(client, headers)
        assert item not in items_of(answer)
        assert answer.json()["basis"] == "history"
    assert items_of(recommended(client, headers, exclude_consumed=False)) != before


def test_pages_follow_each_other_without_gap_or_repetition(served):
    client, headers, _ = served
    report(client, headers, "u", "i3")
    whole = items_of(recommended(client, headers, limit=59))
    pages, offset = [], 0
    while offset is not None:
        answer = recommended(client, headers, limit=7, offset=offset)
        pages += items_of(answer)
        offset = answer.json()["next_offset"]
    assert pages == whole
    assert len(set(whole)) == 59


def test_filters(served):
    client, headers, _ = served
    first = items_of(recommended(client, headers))
    assert first[0] not in items_of(recommended(client, headers, blocked=[first[0]]))
    assert set(items_of(recommended(client, headers, allowed=["i4", "i9", "nothing"]))) == {"i4", "i9"}
    horror = items_of(recommended(client, headers, categories=["Horror"], limit=60))
    release = made_release()
    assert horror and all("Horror" in release.categories[int(item[1:])] for item in horror)
    assert items_of(recommended(client, headers, categories=["no such"])) == []


def test_anonymous_histories_titles_and_unknown_items_say_what_they_are(served):
    client, headers, _ = served
    ask = lambda **body: client.post(RECOMMEND, headers=headers["all"], json=body).json()  # noqa: E731
    raw = ask(history=["i1", "nothing"])
    assert raw["basis"] == "history" and raw["unknown"] == ["nothing"]
    assert "i1" not in [item["item"] for item in raw["items"]]
    text = ask(titles=["Title number 17"])
    assert text["basis"] == "text" and text["mapped"] == {"Title number 17": "i17"}
    assert ask(history=["nothing"])["basis"] == "popularity"
    get = lambda **query: client.get("/v1/similar", headers=headers["all"], params=query).json()  # noqa: E731
    assert get(item="i5")["basis"] == "item"
    assert get(item="nothing", title="number 9")["mapped"] == {"number 9": "i9"}
    assert get(item="nothing")["basis"] == "popularity"


@pytest.mark.parametrize("kind", ["ridge", "projection"])
def test_contributions_sum_to_the_score_of_the_list(tmp_path, kind):
    gate, headers = made_application(tmp_path, made_release(kind=kind))
    with TestClient(gate) as client:
        for item in ("i3", "i11", "i30"):
            report(client, headers, "u", item)
        place = recommended(client, headers).json()["items"][0]
        query = {"user": "u", "item": place["item"], "limit": 2}
        why = client.post("/v1/explanation", headers=headers["all"], json=query).json()
    parts = why["bias"] + why["rest"] + sum(part["contribution"] for part in why["contributions"])
    assert parts == pytest.approx(why["score"], abs=1e-9)
    assert why["score"] == pytest.approx(place["score"], abs=1e-4)
    assert len(why["contributions"]) == 2 and why["rest"] != 0


def test_a_repeated_event_counts_once(served):
    client, headers, _ = served
    assert not report(client, headers, "u", "i1", event="e1")["duplicate"]
    assert report(client, headers, "u", "i1", event="e1")["duplicate"]


def test_forgetting_leaves_nothing_and_says_what_models_hold(served):
    client, headers, folder = served
    for item in ("i1", "i2"):
        report(client, headers, "somebody-to-forget", item)
    recommended(client, headers, user="somebody-to-forget")
    answer = client.post("/v1/forget", headers=headers["admin"], json={"user": "somebody-to-forget"}).json()
    assert answer["removed"]["events"] == 2
    assert answer["released_models"][0]["guarantee"] == "a sentence" and answer["released_models"][0]["rounds"] == 3
    assert recommended(client, headers, user="somebody-to-forget").json()["basis"] == "popularity"
    kept = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"somebody-to-forget" not in kept


def test_tokens_open_their_scopes_only(served):
    client, headers, folder = served
    asks = {
        "recommend": lambda head: client.post(RECOMMEND, headers=head, json={"user": "u"}),
        "feedback": lambda head: client.post(
            "/v1/feedback", headers=head, json={"user": "u", "item": "i1", "kind": "buy"}
        ),
        "admin": lambda head: client.get("/v1/status", headers=head),
    }
    for scope, ask in asks.items():
        for holder in ("recommend", "feedback", "admin"):
            assert ask(headers[holder]).status_code == (200 if holder == scope else 403)
        assert ask({}).status_code == 401
        assert ask({"Authorization": "Bearer rf_wrong"}).status_code == 401
        assert ask({"Authorization": headers[scope]["Authorization"].replace("Bearer", "Basic")}).status_code == 401
    stored = (folder / "tokens.json").read_text()
    assert all(head["Authorization"].split()[1] not in stored for head in headers.values())
    assert (folder / "tokens.json").stat().st_mode & 0o077 == 0
    assert (folder / "feedback.sqlite").stat().st_mode & 0o077 == 0


def test_too_many_requests_and_too_long_bodies(tmp_path):
    gate, headers = made_application(
        tmp_path, api={"burst": 3, "requests-per-second": 0.001, "max-body-bytes": 500, "watch-seconds": 0.0}
    )
    with TestClient(gate) as client:
        long = {"user": "u", "blocked": ["x" * 100] * 8}
        assert client.post(RECOMMEND, headers=headers["all"], json=long).status_code == 413
        chunks = (json.dumps(long).encode()[start : start + 50] for start in range(0, 900, 50))
        assert client.post(RECOMMEND, headers=headers["all"], content=chunks).status_code == 413
        assert recommended(client, headers).status_code == 200
        answer = recommended(client, headers)
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) > 0
        # Another holder has a bucket of its own.
        assert client.post(RECOMMEND, headers=headers["recommend"], json={"user": "u"}).status_code == 200


def test_versions_are_taken_over_and_rolled_back(served):
    client, headers, folder = served
    first = client.get("/v1/models", headers=headers["admin"]).json()["current"]
    assert client.post("/v1/models/roll-back", headers=headers["admin"]).status_code == 409
    second = add_version(folder, made_release(seed=1), use=False)
    report(client, headers, "u", "i3")
    old = items_of(recommended(client, headers))
    took = client.post("/v1/models/activate", headers=headers["admin"], json={"version": second}).json()
    assert (took["current"], took["previous"]) == (second, first)
    answer = recommended(client, headers)
    assert answer.headers["x-model-version"] == answer.json()["model"] == second
    assert items_of(answer) != old
    assert client.post("/v1/models/roll-back", headers=headers["admin"]).json()["current"] == first
    assert items_of(recommended(client, headers)) == old
    assert json.loads((folder / "current.json").read_text())["current"] == first
    assert client.post("/v1/models/activate", headers=headers["admin"], json={"version": "ffff"}).status_code == 409


def test_robots_are_put_aside_and_reported(tmp_path):
    gate, headers = made_application(tmp_path, feedback={"burst-events": 20, "burst-seconds": 60.0})
    with TestClient(gate) as client:
        before = items_of(recommended(client, headers, user="robot"))
        for place in range(30):
            report(client, headers, "robot", f"i{place}")
        report(client, headers, "person", "i1")
        found = client.get("/v1/quarantine", headers=headers["admin"]).json()["users"]
        assert [(one["user"], one["events"]) for one in found] == [("robot", 30)]
        # What the robot did does not count, what the person did does.
        assert items_of(recommended(client, headers, user="robot")) == before
        assert recommended(client, headers, user="person").json()["basis"] == "history"


def test_the_privacy_mode_is_in_every_header_and_a_residual_needs_consent(tmp_path):
    residual = np.zeros((60, 60), dtype=np.float32)
    residual[3, 50] = 100.0
    release = made_release(residual=residual)
    from recsys_fed.errors import ConfigurationError

    with pytest.raises(ConfigurationError, match="silo-trusted"):
        made_application(tmp_path / "refused", release)
    gate, headers = made_application(tmp_path / "trusted", release, api={"personalisation": "silo-trusted"})
    with TestClient(gate) as client:
        report(client, headers, "u", "i3")
        answer = recommended(client, headers)
        assert answer.headers["x-privacy-mode"] == "silo-trusted"
        assert items_of(answer)[0] == "i50"
        why = client.post("/v1/explanation", headers=headers["all"], json={"user": "u", "item": "i50"}).json()
        assert why["score"] == pytest.approx(answer.json()["items"][0]["score"], rel=1e-5)
        assert client.get("/health").headers["x-privacy-mode"] == "silo-trusted"


def test_a_cart_counts_between_a_view_and_a_purchase_and_may_be_recommended(tmp_path):
    gate, headers = made_application(tmp_path, kinds={"view": 0.1, "cart": 0.4, "buy": 1.0})
    with TestClient(gate) as client:
        scores = {}
        for kind in ("view", "cart", "buy"):
            report(client, headers, kind, "i3", kind=kind)
            report(client, headers, kind, "i9", kind="like")
            scores[kind] = recommended(client, headers, user=kind, limit=60).json()["items"]
        own = {kind: {item["item"]: item["score"] for item in items} for kind, items in scores.items()}
        assert "i3" in own["view"] and "i3" in own["cart"] and "i3" not in own["buy"]
        assert own["view"]["i3"] < own["cart"]["i3"]


def test_a_request_may_tell_attributes_and_a_context(tmp_path):
    table = np.zeros((2, 60), dtype=np.float32)
    table[0, 51], table[1, 52] = 100.0, 100.0
    age = PackedEffects(values={"20 to 29": 0, "30 to 39": 1}, table=table)
    hour = PackedEffects(values={f"{h} to {h + 3}": h // 4 for h in range(0, 24, 4)},
                         table=np.eye(60, dtype=np.float32)[[40, 41, 42, 43, 44, 45]] * 300)  # fmt: skip
    release = made_release(residual=np.zeros((60, 60), dtype=np.float32), effects={"age": age, "hour": hour})
    gate, headers = made_application(tmp_path, release, api={"personalisation": "silo-trusted"})
    with TestClient(gate) as client:
        report(client, headers, "u", "i3")
        for attributes, context, best in (
            ({"age": "20 to 29"}, {"hour": "0 to 3"}, ["i40", "i51"]),
            ({"age": "25"}, {"hour": "13"}, ["i43", "i51"]),
            ({"age": "39"}, {"hour": "23"}, ["i45", "i52"]),
        ):
            told = {"attributes": attributes, "context": context}
            for who in ({"user": "u"}, {"history": ["i3"]}, {"history": []}):
                answer = client.post(RECOMMEND, headers=headers["all"], json=who | told)
                assert items_of(answer)[:2] == best, who
                assert answer.json()["used"] == ["age", "hour"]
        ask = {"user": "u", "item": "i52"} | told
        why = client.post("/v1/explanation", headers=headers["all"], json=ask).json()
        assert why["effects"] == 100.0
        parts = sum(one["contribution"] for one in why["contributions"]) + why["rest"]
        assert why["score"] == pytest.approx(why["bias"] + why["effects"] + parts)
        assert why["score"] == pytest.approx(
            recommended(client, headers, **told).json()["items"][1]["score"], rel=1e-5
        )
        for unheard in ({}, {"age": "40"}, {"age": "²"}, {"shoe size": "20"}):
            answer = recommended(client, headers, attributes=unheard)
            # The hour is that of now, where the request has none.
            assert answer.json()["used"] == ["hour"]
            assert items_of(answer)[0] in {f"i{row}" for row in range(40, 46)}
        for wrong in ({"age": 3}, {"": "x"}, {"age": "x" * 200}, {str(n): "x" for n in range(30)}, ["age"]):
            assert recommended(client, headers, attributes=wrong).status_code == 422


def test_no_page_asks_anybody_else_and_no_metric_names_anybody(served):
    client, headers, _ = served
    report(client, headers, "user-with-a-name", "i1")
    recommended(client, headers, user="user-with-a-name")
    client.get("/v1/unknown/user-with-a-name", headers=headers["all"])
    for path in ("/", "/docs"):
        page = client.get(path)
        assert page.status_code == 200 and "default-src 'none'" in page.headers["content-security-policy"]
        assert "http://" not in page.text and "https://" not in page.text and "//cdn" not in page.text
    text = client.get("/v1/metrics", headers=headers["admin"]).text
    assert 'route="/v1/feedback",status="200"} 1' in text
    assert "user-with-a-name" not in text and "i1" not in text.split()
