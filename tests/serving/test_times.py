"""Ageing with a half-life: what came without time is not erased, keeps its order, and goes out without time."""

import os
import time

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from postgres_server import new_database
from serving_kit import made_application, made_release, made_service
from starlette.testclient import TestClient

from recsys_fed.data.interactions import MISSING_TIME, Interactions
from recsys_fed.serving import importing
from recsys_fed.serving._tables import TRAINING_VIEW
from recsys_fed.serving.fold_in import build_equations
from recsys_fed.serving.history import EARLIEST, UNTIMED, Event, _level_of, build_history, event_time
from recsys_fed.serving.importing import export_training, import_interactions
from recsys_fed.serving.settings import FeedbackSettings
from recsys_fed.serving.store import FeedbackStore
from recsys_fed.serving.versions import fingerprint_of

MONTH = FeedbackSettings(half_life_days=30.0)
NS = 10**9
THEN = 1_700_000_000


def made_interactions(times, *, clock=True, users=None):
    n = len(times)
    return Interactions(
        user=np.zeros(n, dtype=np.int32) if users is None else np.array(users, dtype=np.int32),
        item=np.arange(n, dtype=np.int32),
        user_ids=np.array(["a", "b"], dtype=object),
        item_ids=np.array([f"i{row}" for row in range(n)], dtype=object),
        time=None if times is None else np.array(times, dtype=np.int64),
        clock=clock,
    )


def imported(service, interactions, source="test"):
    service.store.replace_imported(importing._events(interactions), source=source)
    return service.store.of_user("a")


@pytest.fixture
def service(tmp_path):
    made = made_service(tmp_path / "service", feedback={"half-life-days": 30.0})
    yield made
    made.close()


def vector_of(events, settings, *, now):
    release = made_release()
    equations = build_equations(release, build_history(events, settings))
    return equations.solve(now=now / (settings.half_life_days * 86_400.0) if settings.half_life_days else 0.0)


@pytest.mark.parametrize(
    ("times", "clock"),
    [([MISSING_TIME] * 4, True), ([3, 1, 2, 0], False), ([5 * NS] * 4, True), ([0, 7, 2, 3], True)],
)
def test_without_times_a_half_life_changes_nothing_at_the_import(service, times, clock):
    events = imported(service, made_interactions(times, clock=clock))
    aged = vector_of(events, MONTH, now=time.time())
    np.testing.assert_allclose(aged, vector_of(events, FeedbackSettings(), now=0.0), rtol=1e-4)
    assert np.linalg.norm(aged) > 0.1
    # From then on they age as any other event.
    later = vector_of(events, MONTH, now=time.time() + 3 * 365 * 86_400.0)
    assert np.linalg.norm(later) < 1e-6


def test_a_table_without_times_gives_the_lists_of_a_service_without_half_life(tmp_path):
    path = tmp_path / "silo.csv"
    pd.DataFrame({"user": ["a"] * 5, "item": [f"i{n}" for n in (3, 8, 21, 40, 55)]}).to_csv(path, index=False)
    os.utime(path, (1e9, 1e9))  # a file may keep the time of an archive: it says nothing of the import
    answers = []
    for half_life in (0.0, 30.0):
        folder = tmp_path / f"service{half_life}"
        app, headers = made_application(folder, feedback={"half-life-days": half_life})
        import_interactions(path, FeedbackStore(str(folder / "feedback.sqlite"), key=b"k"))
        with TestClient(app) as client:
            answer = client.post("/v1/recommendations", json={"user": "a"}, headers=headers["all"]).json()
        assert answer["basis"] == "history"
        answers.append([(item["item"], pytest.approx(item["score"], rel=1e-4)) for item in answer["items"]])
    assert answers[0] == answers[1]


def test_clock_times_are_seconds_and_age(service):
    events = imported(service, made_interactions([THEN * NS + 500_000_000, (THEN - 30 * 86_400) * NS]))
    assert [event.time for event in events] == [THEN - 30 * 86_400, THEN + 0.5]
    assert _level_of(events[1], MONTH) - _level_of(events[0], MONTH) == pytest.approx(1.0, abs=1e-5)


def test_the_order_is_untimed_as_in_the_source_then_by_time(service):
    events = imported(service, made_interactions([THEN * NS, MISSING_TIME, (THEN - 1) * NS, MISSING_TIME]))
    assert [event.item for event in events] == ["i1", "i3", "i2", "i0"]
    assert [event.time for event in events] == [UNTIMED, UNTIMED, THEN - 1, THEN]
    events = imported(service, made_interactions([9, MISSING_TIME, 4], clock=False))
    assert [(event.item, event.time) for event in events] == [("i1", UNTIMED), ("i2", 4.0), ("i0", 9.0)]


def test_large_positions_are_never_taken_for_seconds(service):
    events = imported(service, made_interactions([THEN + 2, THEN, MISSING_TIME, THEN + 2], clock=False))
    assert [event.item for event in events] == ["i2", "i1", "i0", "i3"]
    assert all(event.time < EARLIEST and event_time(event) == event.received for event in events)


def test_a_time_after_the_import_counts_as_of_the_import(service):
    events = imported(service, made_interactions([4_000_000_000 * NS, THEN * NS]))
    assert event_time(events[1]) == events[1].received
    assert event_time(events[0]) == THEN


@pytest.mark.parametrize("store", ["", "postgresql"])
def test_an_import_again_makes_nothing_younger(tmp_path, store, monkeypatch):
    made = made_service(tmp_path / "service", store=new_database() if store else "")
    first = imported(made, made_interactions([MISSING_TIME, 5, MISSING_TIME], users=[0, 0, 1]))
    soon = time.time() + 1e6
    monkeypatch.setattr("recsys_fed.serving.store.time.time", lambda: soon)
    again = imported(made, made_interactions([MISSING_TIME, 5, MISSING_TIME, MISSING_TIME, 6], users=[0, 0, 1, 0, 1]))
    received = {event.item: event.received for event in again}
    assert received == {**{event.item: event.received for event in first}, "i3": soon}
    assert {event.item: event.received for event in made.store.of_user("b")}["i4"] == soon
    made.close()


def test_an_unchanged_file_is_known_again(tmp_path):
    path = tmp_path / "silo.csv"
    path.write_text("user,item\na,i1\n")
    known = fingerprint_of(path)
    assert fingerprint_of(path) == known
    path.write_text("user,item\na,i1\na,i2\n")
    assert fingerprint_of(path) != known


def before(tmp_path, rows):
    """A service's database as the version before left it."""
    made_service(tmp_path / "service").close()
    engine = sa.create_engine(f"sqlite:///{tmp_path}/service/feedback.sqlite")
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM settings WHERE name IN ('opened', 'view')")
        connection.exec_driver_sql(f"DROP VIEW {TRAINING_VIEW}")
        connection.exec_driver_sql(
            f'CREATE VIEW {TRAINING_VIEW} AS SELECT "user", item, COALESCE(value, 1.0) AS value, time FROM events'
        )
        insert = 'INSERT INTO events ("user", item, kind, time, received, accepted) VALUES (?, ?, ?, ?, ?, 1)'
        for row in rows:
            connection.exec_driver_sql(insert, row)
    engine.dispose()


def test_what_the_version_before_imported_is_not_erased(tmp_path):
    rows = [("a", f"i{n}", "imported", float(n), 0.0) for n in range(4)]
    rows += [("a", "i9", "imported", float(THEN), 0.0), ("a", "i8", "buy", 5.0, THEN + 10.0)]
    before(tmp_path, rows)
    now = time.time()
    service = made_service(tmp_path / "service")
    events = service.store.of_user("a")
    since = [event_time(event) for event in events]
    assert all(now - 1 <= moment <= time.time() for moment in since[:4])
    assert since[4:] == [THEN, THEN + 10.0]
    assert [event.item for event in events] == ["i0", "i1", "i2", "i3", "i9", "i8"]
    service.close()
    # As of the first opening, not of each.
    service = made_service(tmp_path / "service")
    assert [event_time(event) for event in service.store.of_user("a")] == since
    # An import again keeps that, too.
    again = imported(service, made_interactions([MISSING_TIME] * 5))
    assert [event_time(event) for event in again if event.kind == "imported"][:4] == since[:4]
    service.close()


def exported(service, tmp_path, suffix=".csv"):
    path = tmp_path / f"next{suffix}"
    export_training(service.store, path)
    return pd.read_csv(path) if suffix == ".csv" else pd.read_parquet(path)


def test_an_export_of_what_has_no_time_has_none(service, tmp_path):
    imported(service, made_interactions([MISSING_TIME] * 3))
    table = exported(service, tmp_path)
    assert list(table.columns) == ["user", "item", "value"]
    assert table["item"].tolist() == ["i0", "i1", "i2"]


def test_an_export_of_positions_has_positions(service, tmp_path):
    imported(service, made_interactions([8, 5, MISSING_TIME], clock=False))
    table = exported(service, tmp_path)
    assert table["item"].tolist() == ["i2", "i1", "i0"]
    assert table["time_rank"].tolist()[1:] == [5, 8] and np.isnan(table["time_rank"][0])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_export_invents_no_time_and_the_latest_row_of_a_pair_stays(service, tmp_path, suffix):
    imported(service, made_interactions([MISSING_TIME, 7 * NS, THEN * NS]))
    for item, moment in (("i0", THEN + 5.7), ("i5", THEN - 5.0)):
        event = Event(user="a", item=item, kind="buy", time=moment, key=item, received=moment)
        service.writer.append(event).result()
    table = exported(service, tmp_path, suffix)
    assert table["item"].tolist() == ["i1", "i5", "i2", "i0"]
    assert table["time"].tolist() == [7, THEN - 5, THEN, THEN + 5.7]
    imported(service, made_interactions([THEN * NS, MISSING_TIME]))
    table = exported(service, tmp_path, suffix)
    assert table["item"].tolist() == ["i1", "i5", "i0"]
    assert pd.isna(table["time"][0]) and table["time"].tolist()[1:] == [THEN - 5, THEN + 5.7]


def test_the_view_has_no_time_for_what_has_none(service):
    imported(service, made_interactions([MISSING_TIME, 7 * NS, THEN * NS]))
    with service.store.reading() as connection:
        found = connection.exec_driver_sql(f"SELECT item, time FROM {TRAINING_VIEW} ORDER BY number").all()
    assert [tuple(row) for row in found] == [("i0", None), ("i1", 7.0), ("i2", float(THEN))]


def test_the_view_of_a_database_of_the_version_before_is_renewed(tmp_path):
    before(tmp_path, [("a", "i0", "imported", 0.0, 0.0), ("a", "i1", "imported", 3.0, 0.0)])
    service = made_service(tmp_path / "service")
    assert list(service.store.training()) == [("a", "i0", 1.0, None), ("a", "i1", 1.0, 3.0)]
    service.close()


@pytest.mark.parametrize("moment", [0, 5, EARLIEST - 1, -1, THEN * 1_000, THEN * NS])
def test_feedback_with_an_absurd_time_is_refused(tmp_path, moment):
    app, headers = made_application(tmp_path / "service")
    with TestClient(app) as client:
        body = {"user": "u", "item": "i1", "kind": "buy", "time": moment}
        assert client.post("/v1/feedback", json=body, headers=headers["all"]).status_code == 422
        body["time"] = THEN
        assert client.post("/v1/feedback", json=body, headers=headers["all"]).status_code == 200
