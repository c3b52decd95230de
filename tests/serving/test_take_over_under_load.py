"""Versions change while requests run: none fails, and no answer mixes two of them."""

import shutil
import threading
import time

import httpx
import numpy as np
import pytest
from service_process import ServiceProcess
from serving_kit import add_version, made_release

from recsys_fed.serving.paths import ServicePaths, TokenFile
from recsys_fed.serving.versions import DIGITS


class Asker(threading.Thread):
    """Asks for one user's list again and again."""

    def __init__(self, service, token, user):
        super().__init__(daemon=True)
        self.service, self.user, self.stopped = service, user, threading.Event()
        self.headers = {"Authorization": f"Bearer {token}"}
        self.answers, self.problems = [], []

    def hear(self, count):
        """Wait for so many more answers: the last of two was asked for after the wait began."""
        least, deadline = len(self.answers) + count, time.monotonic() + 30.0
        while len(self.answers) < least and time.monotonic() < deadline:
            time.sleep(0.01)

    def run(self):
        with httpx.Client(headers=self.headers, timeout=10.0) as client:
            while not self.stopped.is_set():
                try:
                    answer = client.post(
                        f"{self.service.url}/v1/recommendations", json={"user": self.user, "limit": 60}
                    )
                except httpx.HTTPError as error:
                    self.problems.append(repr(error))
                    continue
                if answer.status_code != 200:
                    self.problems.append(answer.text)
                    continue
                record = answer.json()
                scores = {item["item"]: item["score"] for item in record["items"]}
                self.answers.append((answer.headers["x-model-version"], record["model"], scores))


def expected_scores(release):
    """Scores for a user who bought i3, from the equations by hand."""
    v = release.vectors.astype(np.float64)
    w = float(release.weights[3])
    normal = w * np.outer(v[3], v[3]) + release.unobserved_weight * release.gramian + np.eye(release.dim)
    return v @ np.linalg.solve(normal, w * v[3]) + release.bias


def switch(client, names, number):
    if number % 3 == 2:
        client.post("/v1/models/roll-back").raise_for_status()
    else:
        client.post("/v1/models/activate", json={"version": names[(number + 1) % 2]}).raise_for_status()


def switched(folder, times):
    place = ServicePaths(folder=folder)
    place.key()
    releases = [made_release(seed=seed) for seed in (0, 1)]
    # Copies with dates apart, so that the list of versions has an order.
    names = [add_version(folder, release, use=not number) for number, release in enumerate(releases)]
    expected = {release.version[:DIGITS]: expected_scores(release) for release in releases}
    tokens = TokenFile(place.tokens)
    token = tokens.create("all", ["recommend", "feedback", "admin"])
    service = ServiceProcess(folder).start()
    askers = []
    try:
        service.wait_until_ready()
        client = httpx.Client(headers={"Authorization": f"Bearer {token}"}, timeout=10.0, base_url=service.url)
        for user in ("a", "b"):
            client.post("/v1/feedback", json={"user": user, "item": "i3", "kind": "buy"}).raise_for_status()
        askers = [Asker(service, token, user) for user in ("a", "b")]
        for asker in askers:
            asker.start()
        for number in range(times):
            switch(client, names, number)
            # Thirty switches may be over before a busy machine lets the askers ask: both versions must be heard.
            for asker in askers if number < 4 else []:
                asker.hear(2)
    finally:
        for asker in askers:
            asker.stopped.set()
        for asker in askers:
            asker.join(timeout=30.0)
        service.stop()
    for asker in askers:
        assert asker.problems == []
        assert {model for _, model, _ in asker.answers} == set(expected)
        for header, model, scores in asker.answers:
            assert header == model
            assert len(scores) == 59
            for item, score in scores.items():
                assert abs(score - expected[model][int(item[1:])]) < 1e-4


def test_thirty_switches_under_load(tmp_path):
    switched(tmp_path, 30)


@pytest.mark.soak
def test_a_thousand_switches_under_load(tmp_path):
    switched(tmp_path, 1_000)


def test_a_version_that_is_damaged_is_refused_and_the_old_one_goes_on(tmp_path):
    from serving_kit import made_application
    from starlette.testclient import TestClient

    gate, headers = made_application(tmp_path)
    name = add_version(tmp_path, made_release(seed=1), use=False)
    (tmp_path / "versions" / name / "bias.npy").write_bytes(b"broken")
    with TestClient(gate) as client:
        before = client.get("/v1/models", headers=headers["admin"]).json()["current"]
        answer = client.post("/v1/models/activate", headers=headers["admin"], json={"version": name})
        assert answer.status_code == 409 and str(tmp_path) not in answer.text
        shutil.rmtree(tmp_path / "versions" / name)
        assert client.get("/ready").json()["model"] == before
