"""Walks through the pages of a list: nothing comes twice, nothing is left out, whatever happens in between."""

import numpy as np
import pytest
from serving_kit import add_version, made_application, made_release
from starlette.testclient import TestClient

from recsys_fed.errors import ConfigurationError
from recsys_fed.serving._walks import LONGEST_CURSOR, LONGEST_WALK, cursor_of, rows_shown


def walk(client, headers, *, limit, between=lambda page: None, **body):
    """Items of all pages, by cursor."""
    shown, cursor, page = [], None, 0
    while True:
        asked = body | {"limit": limit} | ({"cursor": cursor} if cursor else {})
        answer = client.post("/v1/recommendations", headers=headers["all"], json=asked)
        assert answer.status_code == 200, answer.text
        record = answer.json()
        assert [item["rank"] for item in record["items"]] == list(
            range(len(shown) + 1, len(shown) + 1 + len(record["items"]))
        )
        shown += [item["item"] for item in record["items"]]
        cursor, page = record["next_cursor"], page + 1
        if cursor is None:
            return shown
        between(page)


@pytest.mark.parametrize("method", ["thompson", "linucb"])
def test_walks_with_exploration_show_every_item_once(tmp_path, method):
    (tmp_path / "new.txt").write_text("i57\ni58\ni59\n")
    exploration = {"method": method, "position": 3, "floor": 0.5, "scale": 1.0, "pool": 20}
    exploration["new-items"] = str(tmp_path / "new.txt")
    settings = {"exploration": exploration, "api": {"burst": 10**6, "requests-per-second": 1e6, "watch-seconds": 0.0}}
    gate, headers = made_application(tmp_path / "service", **settings)
    rng, everything = np.random.default_rng(4), {f"i{row}" for row in range(60)}
    with TestClient(gate) as client:
        for number in range(100):
            user, limit = f"u{number}", int(rng.integers(3, 21))
            bought = [f"i{row}" for row in rng.choice(60, size=3, replace=False)]
            for item in bought:
                body = {"user": user, "item": item, "kind": "buy"}
                client.post("/v1/feedback", headers=headers["all"], json=body)
            shown = walk(client, headers, user=user, limit=limit)
            assert len(shown) == len(set(shown)) and set(shown) == everything - set(bought)


def test_nothing_is_repeated_or_lost_when_the_user_acts_in_between(tmp_path):
    settings = {"exploration": {"method": "thompson", "scale": 1.0}, "rerank": {"diversity": 0.3, "group-share": 0.4}}
    gate, headers = made_application(tmp_path, **settings)
    rng = np.random.default_rng(5)
    with TestClient(gate) as client:
        for number in range(20):
            user, bought = f"u{number}", set()

            def act(page, user=user, bought=bought):
                item = f"i{rng.integers(60)}"
                kind = ["buy", "view", "dislike"][page % 3]
                client.post("/v1/feedback", headers=headers["all"], json={"user": user, "item": item, "kind": kind})
                bought |= {item} if kind != "view" else set()

            shown = walk(client, headers, user=user, limit=7, between=act)
            # What was consumed in between and had not been shown is rightly left out.
            assert len(shown) == len(set(shown)) and {f"i{n}" for n in range(60)} - set(shown) <= bought


def test_a_visitor_walks_too_and_a_filter_holds_on_every_page(tmp_path):
    gate, headers = made_application(tmp_path, rerank={"diversity": 0.3})
    with TestClient(gate) as client:
        shown = walk(client, headers, history=["i1", "i2"], limit=8)
        assert len(shown) == len(set(shown)) == 58
        horror = walk(client, headers, history=["i1"], categories=["Horror"], blocked=["i3"], limit=4)
        release = made_release()
        wanted = {item for row, item in enumerate(release.item_ids) if "Horror" in release.categories[row]} - {
            "i1",
            "i3",
        }
        assert set(horror) == wanted and len(horror) == len(wanted)


def test_a_walk_stays_with_its_model_and_ends_with_it(tmp_path):
    gate, headers = made_application(tmp_path)
    second, third = (add_version(tmp_path, made_release(seed=seed), use=False) for seed in (1, 2))
    ask = lambda client, path, **body: client.post(path, headers=headers["all"], json=body)  # noqa: E731
    with TestClient(gate) as client:
        first = ask(client, "/v1/recommendations", user="u").json()
        ask(client, "/v1/models/activate", version=second)
        rest = ask(client, "/v1/recommendations", user="u", cursor=first["next_cursor"]).json()
        assert rest["model"] == first["model"] != second
        assert not {item["item"] for item in rest["items"]} & {item["item"] for item in first["items"]}
        ask(client, "/v1/models/activate", version=third)
        refused = ask(client, "/v1/recommendations", user="u", cursor=first["next_cursor"])
        assert refused.status_code == 409 and "Begin again" in refused.text


def test_pages_by_offset_are_refused_where_lists_are_explored(tmp_path):
    gate, headers = made_application(tmp_path, exploration={"method": "thompson"})
    ask = lambda client, **body: client.post("/v1/recommendations", headers=headers["all"], json=body)  # noqa: E731
    with TestClient(gate) as client:
        assert ask(client, user="u").json()["next_offset"] is None
        assert "cursor" in ask(client, user="u", offset=10).json()["detail"]
        assert ask(client, history=["i1"], offset=10).status_code == 200
        cursor = ask(client, user="u").json()["next_cursor"]
        assert ask(client, user="u", offset=10, cursor=cursor).status_code == 422


def test_cursors_are_what_they_were_made_of_or_refused():
    release = made_release()
    shown = tuple(np.random.default_rng(1).permutation(60).tolist())
    assert rows_shown(cursor_of(release, shown), release) == shown
    assert len(cursor_of(release, range(LONGEST_WALK))) <= LONGEST_CURSOR
    version = release.version[:16]
    wrong = ["", version, f"{version}.", f"{version}.AAA", f"{version}.AAAAA", f"{version}.{'A' * 12}", "x.AAAAAA"]
    wrong += [cursor_of(release, (60,)), cursor_of(made_release(seed=1), (1,)), cursor_of(release, range(10**4))]
    for cursor in wrong:
        with pytest.raises(ConfigurationError):
            rows_shown(cursor, release)
