"""Feedback flows into the next training through the validated path; imports leave forgotten users out."""

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from command_line import run_command
from postgres_server import new_database
from serving_kit import made_service

from recsys_fed.data.sources import Request, read
from recsys_fed.errors import DataError
from recsys_fed.serving._tables import TRAINING_VIEW
from recsys_fed.serving.history import Event
from recsys_fed.serving.importing import export_training, import_interactions


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "silo.csv"
    frame = pd.DataFrame({"user": ["a", "a", "b", "c"], "item": ["i1", "i2", "i2", "i9"], "time": [5, 6, 7, 8]})
    frame.to_csv(path, index=False)
    return path


def append(service, *rows):
    for number, (user, item, kind, accepted) in enumerate(rows):
        event = Event(user=user, item=item, kind=kind, time=1e9 + number, key=f"k{number}", accepted=accepted)
        service.writer.append(event).result()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_what_training_reads_is_the_interactions_and_the_accepted_feedback(tmp_path, table, suffix):
    service = made_service(tmp_path / "service")
    assert import_interactions(table, service.store) == 4
    append(
        service,
        ("a", "i5", "buy", True), ("a", "i5", "view", True), ("b", "i6", "view", True), ("c", "i7", "click", False),
        ("b", "i2", "dislike", True), ("d", "i8", "like", True), ("d", "i9", "cart", True),
    )  # fmt: skip
    path = tmp_path / f"next{suffix}"
    export_training(service.store, path)
    service.close()
    again = tmp_path / f"again{suffix}"
    code, out, _ = run_command("silo", "feedback-export", again, "--state", tmp_path / "service")
    assert code == 0 and out.startswith("6 ")
    found = read(Request(path=path)).interactions
    pairs = {(found.user_ids[user], found.item_ids[item]) for user, item in zip(found.user, found.item, strict=True)}
    assert pairs == {("a", "i1"), ("a", "i2"), ("c", "i9"), ("a", "i5"), ("d", "i8"), ("d", "i9")}
    with sa.create_engine(f"sqlite:///{tmp_path}/service/feedback.sqlite").connect() as connection:
        # The same through the view that a silo's own data query may name.
        assert connection.exec_driver_sql(f"SELECT COUNT(*) FROM {TRAINING_VIEW}").scalar() == 6


def test_an_import_replaces_the_one_before_and_leaves_forgotten_users_out(tmp_path, table):
    service = made_service(tmp_path / "service")
    import_interactions(table, service.store)
    append(service, ("a", "i5", "buy", True))
    service.writer.forget("a").result()
    assert import_interactions(table, service.store) == 2
    assert service.store.of_user("a") == []
    assert [event.item for event in service.store.of_user("b")] == ["i2"]
    append(service, ("a", "i8", "buy", True))
    assert service.store.of_user("a") == []
    service.close()


def test_a_bad_file_changes_nothing(tmp_path, table):
    service = made_service(tmp_path / "service")
    import_interactions(table, service.store)
    table.write_text("nothing,known\n1,2\n")
    with pytest.raises(DataError):
        import_interactions(table, service.store)
    assert len(list(service.store.training())) == 4
    service.close()


def test_an_export_is_for_its_owner_has_no_formula_and_known_items_only(tmp_path):
    service = made_service(tmp_path / "service", feedback={"rating-minimum": 3.0})
    odd = ["=1+1", "+4", "-5", "@sum", "'=1", "''@", "-cmd|calc", "anna"]
    events = [(user, "i1", "buy", True) for user in odd]
    append(service, *events, ("u", "no such item", "buy", True), ("u", "i7", "buy", True))
    for number, (item, value) in enumerate((("i3", 2.0), ("i4", 4.0), ("i7", 1.0))):
        # A rating below the limit is a dislike: no interaction, and the end of the one before.
        event = Event(user="u", item=item, kind="rating", value=value, time=1.7e9, key=f"r{number}")
        service.writer.append(event).result()
    service.close()
    path = tmp_path / "next.csv"
    path.touch(mode=0o644)
    code, out, _ = run_command("silo", "feedback-export", path, "--state", tmp_path / "service")
    assert code == 0 and out.startswith("9 ") and path.stat().st_mode & 0o077 == 0
    cells = {cell for line in path.read_text().splitlines()[1:] for cell in (line.split(",")[0], line.split(",")[1])}
    assert not any(cell[0] in "=@\t\r" for cell in cells) and {"'=1+1", "-5", "+4", "anna"} <= cells
    assert {"i4"} == {line.split(",")[1] for line in path.read_text().splitlines() if line.startswith("u,")}
    # It comes in again under the names that they had.
    again = made_service(tmp_path / "again")
    assert import_interactions(path, again.store) == 9
    assert [user for user in odd if again.store.of_user(user)] == odd
    again.close()


def test_one_event_that_cannot_be_written_fails_alone(tmp_path):
    service = made_service(tmp_path / "service")
    event = Event(user="u", item="i1", kind="buy", time=1.0, key="good")
    bad = Event(user="u", item=None, kind="buy", time=1.0, key="bad")
    futures = [service.writer.append(one) for one in (event, bad, Event(user="u", item="i2", kind="buy", time=2.0))]
    assert futures[0].result() and futures[2].result()
    with pytest.raises(DataError) as error:
        futures[1].result()
    assert "i1" not in str(error.value)
    assert [one.item for one in service.store.of_user("u")] == ["i1", "i2"]
    service.close()


def test_forgetting_takes_what_waits_in_the_queue_along(tmp_path):
    service = made_service(tmp_path / "service")
    futures = [
        service.writer.append(Event(user="u", item=f"i{n}", kind="buy", time=1.0, key=f"k{n}")) for n in range(200)
    ]
    removed, _ = service.writer.forget("u").result()
    assert all(future.done() for future in futures)
    assert removed["events"] == 200 and service.store.of_user("u") == []
    service.close()


def test_times_of_an_import_are_seconds_and_their_order_is_the_logs(tmp_path):
    path = tmp_path / "silo.csv"
    frame = pd.DataFrame({"user": ["a"] * 3, "item": ["i1", "i2", "i3"], "time": [3e12, 1e12, 2e12]})
    frame.to_csv(path, index=False)
    service = made_service(tmp_path / "service")
    import_interactions(path, service.store)
    found = service.store.of_user("a")
    assert [event.item for event in found] == ["i2", "i3", "i1"]
    assert np.diff([event.time for event in found]).tolist() == [1e9, 1e9]
    service.close()


def test_postgresql_keeps_the_same_log(tmp_path, table):
    service = made_service(tmp_path / "service", store=new_database())
    assert import_interactions(table, service.store) == 4
    append(service, ("a", "i5", "buy", True), ("a", "i6", "click", True))
    again = Event(user="a", item="i5", kind="buy", time=1.0, key="k0")
    assert service.writer.append(again).result() is None
    assert [event.item for event in service.store.of_user("a")] == ["i1", "i2", "i5", "i6"]
    assert service.writer.put_aside("a", since=0.0).result() == 2
    assert service.store.quarantined() == [("a", 2)]
    assert len(list(service.store.training())) == 4
    assert service.writer.forget("a").result()[0]["events"] == 4
    assert import_interactions(table, service.store) == 2
    service.close()
