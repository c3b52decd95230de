"""Tokens: nobody is admitted by a file that is gone or damaged, and changes made at once are all there."""

import json
import multiprocessing
import time

import pytest
from serving_kit import made_application
from starlette.testclient import TestClient

from recsys_fed.errors import ConfigurationError, DataFormatError
from recsys_fed.serving import paths
from recsys_fed.serving.paths import TokenFile


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(paths, "_LOOK_SECONDS", 0.0)


def test_a_file_that_is_gone_admits_nobody(tmp_path, at_once):
    gate, headers = made_application(tmp_path)
    with TestClient(gate) as client:
        status = lambda: client.get("/v1/status", headers=headers["admin"]).status_code  # noqa: E731
        assert status() == 200
        (tmp_path / "tokens.json").rename(tmp_path / "away.json")
        assert [status() for _ in range(50)] == [401] * 50
        (tmp_path / "away.json").rename(tmp_path / "tokens.json")
        assert status() == 200


def test_within_a_second_at_the_latest(tmp_path):
    tokens = TokenFile(tmp_path / "tokens.json")
    token = tokens.create("shop", ["recommend"])
    assert tokens.holder(token).name == "shop"
    (tmp_path / "tokens.json").unlink()
    time.sleep(1.1)
    assert [tokens.holder(token) for _ in range(5)] == [None] * 5


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", '{"a": 1}', '[{"name": 1, "digest": "d", "scopes": []}]', "\xff"]
)
def test_a_damaged_file_admits_nobody_and_is_a_typed_refusal(tmp_path, at_once, content):
    gate, headers = made_application(tmp_path)
    with TestClient(gate) as client:
        good = (tmp_path / "tokens.json").read_bytes()
        assert client.get("/v1/status", headers=headers["admin"]).status_code == 200
        (tmp_path / "tokens.json").write_bytes(content.encode("latin-1"))
        for _ in range(3):
            answer = client.get("/v1/status", headers=headers["admin"])
            assert answer.status_code == 503 and answer.headers["retry-after"] and "detail" in answer.json()
            assert str(tmp_path) not in answer.text
        assert client.get("/health").status_code == 200
        with pytest.raises(DataFormatError):
            TokenFile(tmp_path / "tokens.json").create("late", ["admin"])
        assert (tmp_path / "tokens.json").read_bytes() == content.encode("latin-1")
        (tmp_path / "tokens.json").write_bytes(good)
        assert client.get("/v1/status", headers=headers["admin"]).status_code == 200


def create(path, number):
    TokenFile(path).create(f"holder-{number}", ["feedback"])


def test_tokens_made_and_revoked_at_once_are_all_as_they_should_be(tmp_path):
    path = tmp_path / "tokens.json"
    TokenFile(path).create("first", ["admin"])
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=create, args=(path, number)) for number in range(20)]
    processes.append(context.Process(target=TokenFile(path).revoke, args=("first",)))
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 21
    assert {record["name"] for record in json.loads(path.read_text())} == {f"holder-{n}" for n in range(20)}
    assert path.stat().st_mode & 0o077 == 0
    assert [file.name for file in tmp_path.iterdir() if "part" in file.name] == []
    with pytest.raises(ConfigurationError):
        TokenFile(path).create("holder-3", ["admin"])
