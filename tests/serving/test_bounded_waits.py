"""Nobody waits for ever: half-sent requests, a locked store, batches of others; and work in the background."""

import asyncio
import json
import re
import socket
import sqlite3
import threading
import time

import httpx
import pytest
from service_process import ServiceProcess
from serving_kit import add_version, made_application, made_release, made_service
from starlette.testclient import TestClient

from recsys_fed.errors import ConfigurationError, StoreBusyError
from recsys_fed.serving._background import BackgroundWork
from recsys_fed.serving.history import Event
from recsys_fed.serving.paths import ServicePaths, TokenFile
from recsys_fed.serving.reload import ModelReloader, ModelSource

EVENT = {"user": "u", "item": "i1", "kind": "buy"}


def started(folder, settings):
    place = ServicePaths(folder=folder)
    place.key()
    add_version(folder, made_release())
    token = TokenFile(place.tokens).create("shop", ["recommend", "feedback", "admin"])
    (folder / "serving.toml").write_text(settings)
    return ServiceProcess(folder, "--settings", folder / "serving.toml").start(), {"Authorization": f"Bearer {token}"}


def test_half_sent_requests_hold_nobody_up_and_end(tmp_path):
    service, headers = started(tmp_path / "service", "[api]\nmax-connections = 60\nrequest-seconds = 2.0\n")
    try:
        service.wait_until_ready()
        kinds = [
            b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nhost: x\r\nx-slow: ",
            b"POST /v1/feedback HTTP/1.1\r\nhost: x\r\ncontent-length: 900\r\n\r\n{",
        ]  # fmt: skip
        held = []
        for number in range(200):
            half = socket.create_connection(("127.0.0.1", service.port), timeout=30)
            half.sendall(kinds[number % len(kinds)])
            held.append(half)
        with httpx.Client(headers=headers, timeout=10.0) as client:
            for _ in range(20):
                assert client.get(f"{service.url}/health").status_code == 200
                assert client.post(f"{service.url}/v1/recommendations", json={"user": "u"}).status_code == 200
        # A byte now and then moves no deadline: all of them are closed.
        deadline = time.monotonic() + 30
        open_ = held
        while open_:
            assert time.monotonic() < deadline, f"{len(open_)} are open"
            still = []
            for half in open_:
                half.settimeout(0.01)
                try:
                    half.send(b"a")
                    if half.recv(1_000):
                        still.append(half)
                except TimeoutError:
                    still.append(half)
                except OSError:
                    continue
            open_ = still
    finally:
        service.stop()


def test_a_request_in_pieces_is_answered_and_pipelined_ones_too(tmp_path):
    service, headers = started(tmp_path / "service", "[api]\nmax-connections = 4\nrequest-seconds = 20.0\n")
    try:
        service.wait_until_ready()
        body = json.dumps({"user": "u"})
        head = (
            f"POST /v1/recommendations HTTP/1.1\r\nhost: x\r\nauthorization: {headers['Authorization']}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", service.port), timeout=30) as slow:
            for piece in re.findall(".{1,40}", head + body, re.DOTALL):
                slow.sendall(piece.encode())
                time.sleep(0.01)
            assert slow.recv(12) == b"HTTP/1.1 200"
        with socket.create_connection(("127.0.0.1", service.port), timeout=30) as many:
            many.sendall((head + body).encode() * 5)
            received = b""
            while received.count(b"HTTP/1.1 200") < 5:
                received += many.recv(65_536)
    finally:
        service.stop()


def test_a_locked_store_is_a_503_within_seconds_and_what_was_not_acknowledged_is_not_there(tmp_path):
    gate, headers = made_application(tmp_path / "service")
    with TestClient(gate) as client:
        held = sqlite3.connect(tmp_path / "service" / "feedback.sqlite", isolation_level=None)
        held.execute("BEGIN IMMEDIATE")
        answers = []

        def report(number):
            answers.append(client.post("/v1/feedback", headers=headers["all"], json=EVENT | {"event": f"e{number}"}))

        began = time.monotonic()
        threads = [threading.Thread(target=report, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert time.monotonic() - began < 20  # it was a minute for each
        assert {answer.status_code for answer in answers} == {503}
        assert all(answer.headers["retry-after"] == "1" for answer in answers)
        assert client.post("/v1/recommendations", headers=headers["all"], json={"user": "u"}).status_code == 200
        held.execute("ROLLBACK")
        held.close()
        assert client.post("/v1/feedback", headers=headers["all"], json=EVENT | {"event": "e0"}).status_code == 200
    service = made_service(tmp_path / "service")
    assert len(service.store.of_user("u")) == 1
    service.close()


def test_whoever_gives_up_waiting_is_not_written_later(tmp_path, monkeypatch):
    monkeypatch.setattr("recsys_fed.serving._forgetting._STORE_SECONDS", 0.2)
    service = made_service(tmp_path)
    begun, go_on = threading.Event(), threading.Event()

    def slow(_):
        begun.set()
        go_on.wait(30)

    async def scenario():
        first = service.writer._submit(slow)
        assert await asyncio.to_thread(begun.wait, 30)
        with pytest.raises(StoreBusyError):
            await service.feedback(Event(user="u", item="i1", kind="buy", time=1.7e9, key="k"))
        go_on.set()
        await asyncio.wrap_future(first)
        assert await service.feedback(Event(user="u", item="i2", kind="buy", time=1.7e9, key="k2"))

    asyncio.run(scenario())
    assert [event.item for event in service.store.of_user("u")] == ["i2"] and service.writer.alive
    service.close()


def test_an_event_whose_request_gave_up_counts_once_it_is_acknowledged(tmp_path, monkeypatch):
    service = made_service(tmp_path)
    event = Event(user="u", item="i1", kind="buy", time=1.7e9, key="k", source="shop")
    append, go_on = service.store.append, threading.Event()

    def slow(connection, one):
        go_on.wait(30)
        return append(connection, one)

    async def scenario():
        await service.users.get("u")
        monkeypatch.setattr(service.store, "append", slow)
        monkeypatch.setattr("recsys_fed.serving._forgetting._STORE_SECONDS", 0.2)
        with pytest.raises(StoreBusyError):
            await service.feedback(event)
        go_on.set()
        monkeypatch.setattr("recsys_fed.serving._forgetting._STORE_SECONDS", 20.0)
        assert await service.feedback(event) is None  # it was written after all
        assert "i1" in (await service.users.get("u")).history.consumed

    asyncio.run(scenario())
    service.close()


def test_a_batch_costs_what_it_takes(tmp_path):
    gate, headers = made_application(tmp_path, api={"burst": 100, "requests-per-second": 0.001})
    with TestClient(gate) as client:
        batch = {"users": [f"u{n}" for n in range(200)]}
        ask = lambda: client.post("/v1/recommendations/batch", headers=headers["all"], json=batch)  # noqa: E731
        found = ask()
        assert found.status_code == 200 and len(found.json()["lists"]) == 200
        answer = ask()
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) > 1
        # Another token pays for itself; one that asks for more than a bucket holds pays a whole bucket.
        more = {"events": [EVENT | {"event": f"e{n}"} for n in range(1_000)]}
        report = lambda: client.post("/v1/feedback/batch", headers=headers["feedback"], json=more)  # noqa: E731
        assert report().status_code == 429
        assert client.post("/v1/feedback", headers=headers["feedback"], json=EVENT).status_code == 200


def test_a_batch_answers_as_single_requests_do(tmp_path):
    gate, headers = made_application(tmp_path)
    with TestClient(gate) as client:
        events = [{"user": f"u{n % 7}", "item": f"i{n}", "kind": "buy", "event": f"e{n}"} for n in range(40)]
        answer = client.post("/v1/feedback/batch", headers=headers["all"], json={"events": events}).json()["events"]
        assert [one["duplicate"] for one in answer] == [False] * 40
        users = [f"u{n}" for n in range(9)]
        lists = client.post("/v1/recommendations/batch", headers=headers["all"], json={"users": users}).json()[
            "lists"
        ]
        for own in lists:
            single = client.post("/v1/recommendations", headers=headers["all"], json={"user": own["user"]}).json()
            assert [item["item"] for item in own["items"]] == [item["item"] for item in single["items"]]
            assert own["basis"] == single["basis"]


class Broken(ModelSource):
    """Fails in a way that nobody foresaw, until it is mended."""

    mended = False

    def stamp(self):
        if not Broken.mended:
            raise ZeroDivisionError("nobody knows")
        return super().stamp()


def test_a_watcher_survives_and_says_what_is_wrong(tmp_path):
    service = made_service(tmp_path / "service")
    source = ModelSource(place=tmp_path / "none", catalogue=tmp_path / "none")
    taking = ModelReloader(service, tmp_path / "service", source)
    taking._source = Broken(place=tmp_path / "none", catalogue=tmp_path / "none")

    async def scenario():
        work = BackgroundWork()
        work.start("watcher", taking.look, every=0.01)
        while work.state() == {"watcher": "ok"}:
            await asyncio.sleep(0.01)
        assert "ZeroDivisionError" in work.state()["watcher"] and taking.problem
        Broken.mended = True
        while work.state() != {"watcher": "ok"}:
            await asyncio.sleep(0.01)
        assert taking.problem == ""
        await work.stop()

    asyncio.run(asyncio.wait_for(scenario(), 60))
    service.close()


def test_health_shows_each_task(tmp_path):
    gate, _ = made_application(tmp_path / "service")
    with TestClient(gate) as client:
        state = client.get("/health").json()
        assert state["status"] == "ok"
        assert set(state["tasks"]) == {"model watcher", "opt-outs", "erasure", "feedback writer"}
        service = client.app._service
        service.writer.close()
        assert client.get("/health").json()["status"] == "degraded"
        service.writer = type(service.writer)(service.store)


def test_an_unknown_cursor_receipt_and_version_are_told_without_repeating_them(tmp_path):
    gate, headers = made_application(tmp_path)
    with TestClient(gate) as client:
        ask = lambda path, **body: client.post(path, headers=headers["all"], json=body)  # noqa: E731
        for path, body, word in (
            ("/v1/models/activate", {"version": "abcdef"}, "abcdef"),
            ("/v1/recommendations", {"user": "u", "cursor": "abcdef.QUJD"}, "QUJD"),
            ("/v1/recommendations", {"user": "u", "somebody-elses-name": 1}, "somebody-elses-name"),
            ("/v1/feedback", {"user": "u", "item": "i", "kind": "no-such-kind"}, "no-such-kind"),
            ("/v1/explanation", {"user": "u", "item": "no-such-item"}, "no-such-item"),
            ("/v1/forget/receipt", {"receipt": "abcdef"}, "abcdef"),
        ):
            answer = ask(path, **body)
            assert answer.status_code in (409, 422) and word not in answer.text, answer.text


def test_a_name_that_stands_twice_and_a_redirect_are_refused(tmp_path):
    gate, headers = made_application(tmp_path)
    with TestClient(gate, follow_redirects=False) as client:
        kind = headers["all"] | {"content-type": "application/json"}
        for body in (
            '{"user": "a", "user": "b"}',
            '{"user": "a", "limit": NaN}',
            '{"user": "a", "blocked": ["i1"], "blocked": []}',
        ):
            assert client.post("/v1/recommendations", headers=kind, content=body).status_code == 422
        nested = '{"events": [{"user": "a", "item": "i1", "item": "i2", "kind": "buy"}]}'
        assert client.post("/v1/feedback/batch", headers=kind, content=nested).status_code == 422
        for path in ("/health/", "/v1/recommendations/", "/docs/"):
            answer = client.get(path, headers=headers["all"] | {"host": "elsewhere.example"})
            assert answer.status_code in (404, 401, 405) and "location" not in answer.headers
        assert (
            client.get("/v1/explanation", headers=headers["all"], params={"user": "u", "item": "i"}).status_code
            == 405
        )
        # No address of any route has a place for a user's id.
        for path, verbs in client.get("/openapi.json").json()["paths"].items():
            asked = [one["name"] for verb in verbs.values() for one in verb.get("parameters", [])]
            assert "user" not in asked and "user" not in path


def test_ids_of_events_are_of_a_user_and_a_token(tmp_path):
    gate, headers = made_application(tmp_path)
    with TestClient(gate) as client:
        report = lambda who, user: client.post(  # noqa: E731
            "/v1/feedback", headers=headers[who], json=EVENT | {"user": user, "event": "same"}
        ).json()["duplicate"]
        assert [report("all", "alice"), report("all", "bob"), report("feedback", "alice")] == [False, False, False]
        assert [report("all", "alice"), report("all", "bob"), report("feedback", "alice")] == [True, True, True]
    service = made_service(tmp_path)
    assert len(service.store.of_user("alice")) == 2 and len(service.store.of_user("bob")) == 1
    service.close()


def test_what_is_sent_again_is_no_behaviour_and_takes_nothing_back(tmp_path):
    gate, headers = made_application(tmp_path, feedback={"burst-events": 10, "burst-seconds": 60.0})
    with TestClient(gate) as client:
        again = {"events": [EVENT | {"event": "e"}] * 50}
        for _ in range(60):
            answer = client.post("/v1/feedback", headers=headers["all"], json=EVENT | {"event": "e"})
            assert answer.status_code == 200
        client.post("/v1/feedback/batch", headers=headers["all"], json=again)
        # What happened before comes when it comes.
        late = [EVENT | {"event": f"l{n}", "item": f"i{n}", "time": 1.7e9 + n} for n in range(40)]
        client.post("/v1/feedback/batch", headers=headers["all"], json={"events": late})
        assert client.get("/v1/quarantine", headers=headers["all"]).json()["users"] == []
        # In a quarantine, too, a repetition is none: it does not extend it.
        for n in range(11):
            client.post("/v1/feedback", headers=headers["all"], json=EVENT | {"event": f"n{n}"})
        assert client.get("/v1/quarantine", headers=headers["all"]).json()["users"][0]["events"] > 10
        guard = client.app._service.guard
        until = guard._users["u"].until
        client.post("/v1/feedback", headers=headers["all"], json=EVENT | {"event": "n1"})
        assert guard._users["u"].until == until
        client.post("/v1/feedback", headers=headers["all"], json=EVENT | {"event": "really new"})
        assert guard._users["u"].until > until


def test_settings_of_connections(tmp_path):
    from recsys_fed.serving.settings import serving_settings

    for table in ({"max-connections": 0}, {"request-seconds": 0.0}):
        with pytest.raises(ConfigurationError):
            serving_settings({"api": table})
