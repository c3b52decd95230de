"""What is held of a user is right whenever events, loads and versions meet."""

import asyncio
import threading
import time

import numpy as np
from serving_kit import made_release, made_service

from recsys_fed.serving._users import Users
from recsys_fed.serving.history import Event
from recsys_fed.serving.settings import FeedbackSettings


class SlowStore:
    """Reads the log, then waits: what it returns may be old by then."""

    def __init__(self):
        self.log, self.reading, self.go_on, self.reads = [], threading.Event(), threading.Event(), 0

    def of_user(self, user):
        self.reads += 1
        found = [event for event in self.log if event.user == user]
        self.reading.set()
        assert self.go_on.wait(30)
        return found


def bought(number, item="i3", user="u"):
    return Event(user=user, item=item, kind="buy", time=float(number), number=number)


def test_an_event_that_arrives_while_the_log_is_read_is_not_lost():
    store = SlowStore()
    users = Users(store, FeedbackSettings(), cached=10)

    async def scenario():
        loading = asyncio.create_task(users.get("u"))
        await asyncio.to_thread(store.reading.wait, 30)
        store.log.append(bought(1))
        users.apply(bought(1))
        store.go_on.set()
        return await loading

    assert asyncio.run(scenario()).history.consumed == {"i3": None}
    assert store.reads == 2


def test_many_who_ask_at_once_read_the_log_once():
    store = SlowStore()
    store.log.append(bought(1))
    store.go_on.set()
    users = Users(store, FeedbackSettings(), cached=10)

    async def scenario():
        return await asyncio.gather(*(users.get("u") for _ in range(50)))

    assert len({id(user) for user in asyncio.run(scenario())}) == 1
    assert store.reads == 1


def test_an_event_that_the_read_has_seen_counts_once():
    store = SlowStore()
    store.log += [
        bought(1),
        Event(user="u", item="i3", kind="dislike", time=2.0, number=2),
        bought(3),
    ]
    store.go_on.set()
    users = Users(store, FeedbackSettings(), cached=10)
    user = asyncio.run(users.get("u"))
    users.apply(store.log[1])  # its turn comes only now, after the later one was read
    assert "i3" in user.history.levels


def test_vectors_follow_events_under_every_version_and_the_cache_is_bounded(tmp_path):
    store = SlowStore()
    store.go_on.set()
    users, releases = Users(store, FeedbackSettings(), cached=5), [made_release(seed=seed) for seed in range(6)]
    user = asyncio.run(users.get("u"))
    for number in range(1, 4):
        for release in releases:
            users.vector("u", user, release)
        users.apply(bought(number, f"i{number}"))
        for release in releases:
            rows = release.rows({f"i{n}" for n in range(1, number + 1)})
            weights = release.weights[rows].astype(float)
            v = release.vectors[rows].astype(float)
            normal = (v * weights[:, None]).T @ v + 0.3 * release.gramian + np.eye(8)
            expected = np.linalg.solve(normal, weights @ v)
            np.testing.assert_allclose(users.vector("u", user, release), expected, rtol=1e-4, atol=1e-6)
    for number in range(50):
        asyncio.run(users.get(f"other-{number}"))
    assert len(users) == 5


def test_a_vector_ages_with_its_history():
    store = SlowStore()
    store.go_on.set()
    users, release = Users(store, FeedbackSettings(half_life_days=1.0), cached=5), made_release()
    now = time.time()
    store.log.append(Event(user="u", item="i3", kind="buy", time=now, number=1))
    user = asyncio.run(users.get("u"))
    fresh = np.linalg.norm(users.vector("u", user, release, now=now))
    old = np.linalg.norm(users.vector("u", user, release, now=now + 10 * 86_400.0))
    assert old < 0.2 * fresh


def test_feedback_is_durable_when_it_is_acknowledged(tmp_path):
    service = made_service(tmp_path)
    seen = []
    append = service.store.append

    def watched(connection, event):
        number = append(connection, event)
        seen.append(service.store.of_user(event.user))  # another connection: it sees what is committed only
        return number

    service.store.append = watched
    stored = asyncio.run(service.feedback(Event(user="u", item="i1", kind="buy", time=1.0, key="k")))
    assert seen == [[]] and stored.number == 1
    assert [event.item for event in service.store.of_user("u")] == ["i1"]
    service.close()
