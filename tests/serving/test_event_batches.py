"""A batch in one statement is what its events are one by one: numbers, repetitions, and who was forgotten."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from postgres_server import new_database

from recsys_fed.serving.history import Event
from recsys_fed.serving.store import OF_FORGOTTEN, FeedbackStore

made = st.builds(
    Event,
    user=st.sampled_from(["a", "b", "gone"]),
    item=st.sampled_from(["x", "y"]),
    kind=st.just("buy"),
    time=st.just(1.7e9),
    key=st.sampled_from(["1", "2", "3", "4"]) | st.none(),
    source=st.sampled_from(["app", "shop"]),
    received=st.just(1.7e9),
)


def opened(address):
    store = FeedbackStore(address, key=bytes(32))
    with store.writing() as connection:
        store.forget(connection, "gone", time=1.6e9)
    return store


def added(store, batch, *, together):
    with store.writing() as connection:
        if together:
            return store.append_all(connection, batch)
        return [store.append(connection, event) for event in batch]


def kinds_of(numbers):
    """Which were taken in, there already, or refused; what was taken in is numbered in its order."""
    taken = [number for number in numbers if number]
    assert taken == sorted(set(taken))
    return [bool(number) if number is not None else None for number in numbers]


@settings(max_examples=15, deadline=None)
@given(batches=st.lists(st.lists(made, max_size=8), max_size=3))
def test_a_batch_is_its_events_one_by_one(tmp_path_factory, batches):
    one, other = (opened(str(tmp_path_factory.mktemp("store") / "log.sqlite")) for _ in range(2))
    for batch in batches:
        assert kinds_of(added(one, batch, together=True)) == kinds_of(added(other, batch, together=False))
    for user in ("a", "b", "gone"):
        # A repetition may leave a number out.
        found, expected = ([event._replace(number=0) for event in store.of_user(user)] for store in (one, other))
        assert found == expected
    one.close()
    other.close()


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_thousand_are_numbered_in_their_order_and_found_again(tmp_path, database):
    store = opened(str(tmp_path / "log.sqlite") if database == "sqlite" else new_database())
    batch = [
        Event(user="gone" if place % 7 == 3 else "a", item="x", kind="buy", time=1.7e9, key=f"k{place}", source="app")
        for place in range(1_000)
    ]
    numbers = added(store, batch, together=True)
    counted = [number for number in numbers if number != OF_FORGOTTEN]
    assert numbers[3] == OF_FORGOTTEN and len(counted) == 857 and counted == sorted(set(counted))
    assert [event.number for event in store.of_user("a")] == counted
    again = added(store, [*batch[:2], batch[0]._replace(key="new"), batch[0]._replace(key="new")], together=True)
    assert again[:2] == [None, None] and again[2] > counted[-1] and again[3] is None
    store.close()
