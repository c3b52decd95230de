"""kill -9 while feedback comes in: what was acknowledged is there once, and the service is back."""

import threading
import time

import httpx
import numpy as np
import pytest
import sqlalchemy as sa
from service_process import ServiceProcess
from serving_kit import add_version, made_release

from recsys_fed.serving._tables import events
from recsys_fed.serving.paths import ServicePaths, TokenFile
from recsys_fed.serving.store import FeedbackStore


class Reporter(threading.Thread):
    """Reports events, so many at a time; what got no answer is reported again under the same keys."""

    size = 1

    def __init__(self, service, token, number):
        super().__init__(daemon=True)
        self.service, self.number, self.stopped = service, number, threading.Event()
        self.headers = {"Authorization": f"Bearer {token}"}
        self.sent, self.acknowledged = [], set()

    def run(self):
        with httpx.Client(headers=self.headers, timeout=5.0) as client:
            while not self.stopped.is_set():
                keys = [f"{self.number}-{len(self.sent) + place}" for place in range(self.size)]
                self.sent += keys
                for _ in range(1_000):
                    if self._report(client, keys) or self.stopped.is_set():
                        break
                    time.sleep(0.01)

    def _report(self, client, keys):
        try:
            answer = self._post(client, keys)
        except httpx.HTTPError:
            return False
        # A store that the killed process still holds is busy.
        if answer.status_code == 503:
            return False
        assert answer.status_code == 200, answer.text
        self.acknowledged.update(keys)
        return True

    def _post(self, client, keys):
        return client.post(f"{self.service.url}/v1/feedback", json=self._event(keys[0]))

    def _event(self, key):
        return {"user": f"user-{self.number}", "item": f"i{hash(key) % 60}", "kind": "click", "event": key}


class BatchReporter(Reporter):
    """Reports batches, of which every answer is about all events or none."""

    size = 250

    def _post(self, client, keys):
        events_of_it = [self._event(key) for key in keys]
        answer = client.post(f"{self.service.url}/v1/feedback/batch", json={"events": events_of_it})
        if answer.status_code == 200:
            assert [one["event"] for one in answer.json()["events"]] == keys
        return answer


def killed_and_checked(folder, kills, seed, reporter_of=Reporter):
    folder.mkdir()
    place = ServicePaths(folder=folder)
    place.key()
    add_version(folder, made_release())
    (folder / "serving.toml").write_text("[feedback]\nburst-events = 1000000\ndaily-events = 1000000\n")
    token = TokenFile(place.tokens).create("app", ["feedback", "recommend"])
    service = ServiceProcess(folder, "--settings", folder / "serving.toml").start()
    rng, away = np.random.default_rng(seed), []
    try:
        service.wait_until_ready()
        reporters = [reporter_of(service, token, number) for number in range(3)]
        for reporter in reporters:
            reporter.start()
        for kill in range(kills):
            time.sleep(rng.uniform(0.2, 0.8))
            began = time.monotonic()
            if kill % 2:
                service.kill_worker()
            else:
                service.kill_all()
                service.start()
            service.wait_until_ready()
            away.append(time.monotonic() - began)
        time.sleep(0.3)
        for reporter in reporters:
            reporter.stopped.set()
        for reporter in reporters:
            reporter.join(timeout=30.0)
    finally:
        service.stop()
    store = FeedbackStore(place.address, key=place.key())
    with store.reading() as connection:
        kept = list(connection.execute(sa.select(events.c.event_key)).scalars())
    store.close()
    acknowledged = set.union(*(reporter.acknowledged for reporter in reporters))
    sent = {key for reporter in reporters for key in reporter.sent}
    assert len(kept) == len(set(kept))
    assert acknowledged <= set(kept) <= sent
    for reporter in reporters:
        # A batch is there as a whole or not at all.
        for first in range(0, len(reporter.sent), reporter.size):
            batch = set(reporter.sent[first : first + reporter.size])
            assert batch <= set(kept) or batch.isdisjoint(kept)
    assert len(acknowledged) > 10 * kills
    return away


def test_two_kills_lose_and_double_nothing(tmp_path):
    killed_and_checked(tmp_path / "service", kills=2, seed=1)


def test_two_kills_lose_no_part_of_a_batch(tmp_path):
    killed_and_checked(tmp_path / "service", kills=2, seed=3, reporter_of=BatchReporter)


@pytest.mark.soak
def test_ten_kills_lose_and_double_nothing(tmp_path, record_property):
    away = killed_and_checked(tmp_path / "service", kills=10, seed=2)
    record_property("seconds until ready", [round(seconds, 2) for seconds in away])
