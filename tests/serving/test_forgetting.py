"""Forgetting: no copy of a user in any file once it says done, and nothing of the user comes back."""

import asyncio
import contextlib
import sqlite3
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from postgres_server import new_database
from serving_kit import made_application, made_service
from starlette.testclient import TestClient

from recsys_fed.errors import ConfigurationError
from recsys_fed.serving import _forgetting
from recsys_fed.serving.history import IMPORTED, Event
from recsys_fed.serving.importing import export_training, import_interactions
from recsys_fed.serving.paths import ServicePaths
from recsys_fed.serving.store import OF_FORGOTTEN, FeedbackStore, open_store
from recsys_fed.silo.secret import Pseudonyms, SiloSecret

USERS, FORGOTTEN = 1_000, 100
EXPERIMENT = {"name": "e", "variants": [{"name": "a"}, {"name": "b"}]}


def names_of(rng):
    """Ids that are nowhere by chance."""
    return [f"person-{number:04d}-{rng.integers(1 << 40):010x}" for number in range(USERS)]


def items_of(user, rng):
    """Items of one user alone, so that any copy of the list tells; in between the common ones."""
    return [f"only-{user[-10:]}-{n}" if n % 2 else f"i{rng.integers(60)}" for n in range(rng.integers(4, 40))]


def fill(service, histories):
    imported = [
        Event(user=user, item=item, kind=IMPORTED, time=1.6e9 + n)
        for user, items in histories.items()
        for n, item in enumerate(dict.fromkeys(items[: len(items) // 2]))
    ]
    service.store.replace_imported(imported, source="test")
    rest = [(user, item) for user, items in histories.items() for item in items[len(items) // 2 :]]
    rest = [rest[place] for place in np.random.default_rng(2).permutation(len(rest))]
    for start in range(0, len(rest), 500):
        batch = [
            Event(user=user, item=item, kind="buy", time=1.7e9, key=f"{user}-{start + n}", source="shop")
            for n, (user, item) in enumerate(rest[start : start + 500])
        ]
        service.writer.append_all(batch).result()


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """How long a request waits for the store is not what is tested here, and a busy machine is slow."""
    monkeypatch.setattr(_forgetting, "_STORE_SECONDS", 120.0)


def all_bytes(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def traces(folder, users):
    """Files and what they have of the users: the last digits stand in an id and in the items of that user alone."""
    secret = Pseudonyms(SiloSecret.generate())
    words = {word.encode() for user in users for word in (user[-10:], secret.of(user))}
    return [(path, word) for path, content in all_bytes(folder).items() for word in words if word in content]


async def forget_under_fire(service, users, histories, reader):
    """Forget while somebody reads an older state and feedback of the same users arrives; returns the receipts."""

    async def report(user):
        for n in range(20):
            event = Event(user=user, item=histories[user][0], kind="buy", time=1.7e9, key=f"again-{n}", source="shop")
            with contextlib.suppress(ConfigurationError):
                await service.feedback(event)
            await service.recommend(user, service_page())
            await asyncio.sleep(0)

    reports = [asyncio.create_task(report(user)) for user in users[:30]]
    answers = await asyncio.gather(*(service.forget(user) for user in users))
    await asyncio.gather(*reports)
    assert all(answer["state"] == "pending" and answer["erased"] is None for answer in answers)
    reader.close()
    for _ in range(100):
        states = [(await service.forgetting.receipt(answer["receipt"]))["state"] for answer in answers]
        if states == ["done"] * len(users):
            break
        await service.forgetting.erase_pending()
    assert states == ["done"] * len(users)
    return answers


def service_page():
    from recsys_fed.serving._ranking import Page

    return Page()


def checked(service, place, folder, reader, backup):
    rng = np.random.default_rng(11)
    histories = {user: items_of(user, rng) for user in names_of(rng)}
    fill(service, histories)
    users = [list(histories)[n] for n in rng.choice(USERS, FORGOTTEN, replace=False)]
    opened = reader()
    answers = asyncio.run(forget_under_fire(service, users, histories, opened))
    assert all(answer["remains"] == [] for answer in answers)
    assert sum(answer["removed"]["events"] for answer in answers) >= sum(len(set(histories[user])) for user in users)
    # What is made of it afterwards: an export and a backup; then a re-sent event and the same import again.
    export_training(service.store, place.folder / "export.csv")
    export_training(service.store, place.folder / "export.parquet")
    backup(place.folder)
    fill(service, histories)
    service.close()
    found = traces(place.folder, users) + (traces(folder, users) if folder else [])
    assert found == []
    assert traces(place.folder, [user for user in histories if user not in users][:3])
    assert pd.read_parquet(place.folder / "export.parquet")["user"].nunique() == USERS - FORGOTTEN


def test_no_file_has_a_copy_once_it_is_done(tmp_path, caplog):
    service = made_service(tmp_path / "service", experiment=EXPERIMENT)
    path = tmp_path / "service" / "feedback.sqlite"

    def reader():
        held = sqlite3.connect(path, isolation_level=None)
        held.execute("BEGIN")
        held.execute("SELECT COUNT(*) FROM events").fetchone()
        return held

    def backup(folder):
        with sqlite3.connect(path) as source, sqlite3.connect(folder / "backup.sqlite") as target:
            source.backup(target)

    checked(service, ServicePaths(folder=tmp_path / "service"), None, reader, backup)
    assert "person-" not in caplog.text


def test_no_file_of_postgresql_has_a_copy_once_it_is_done(tmp_path):
    url = new_database()
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET wal_recycle = off")
        connection.execute("SELECT pg_reload_conf()")
        (folder,) = connection.execute("SHOW data_directory").fetchone()
    service = made_service(tmp_path / "service", store=url, experiment=EXPERIMENT)

    def reader():
        held = psycopg.connect(url)
        held.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        held.execute("SELECT COUNT(*) FROM events")
        with psycopg.connect(url, autocommit=True) as connection:
            # As autovacuum does: the planner's samples must hold nobody either.
            connection.execute("ANALYZE")
        return held

    def backup(folder):
        dump = subprocess.run(["pg_dump", url], capture_output=True, check=True).stdout
        (folder / "backup.sql").write_bytes(dump)

    checked(service, ServicePaths(folder=tmp_path / "service", store=url), folder, reader, backup)


@pytest.mark.parametrize("store", ["", "postgresql"])
def test_an_account_that_may_not_cut_the_servers_log_says_so(tmp_path, store):
    if not store:
        service = made_service(tmp_path / "service")
        assert service.store.remains() == []
        service.close()
        return
    import psycopg

    url = new_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS plain")
        connection.execute("CREATE ROLE plain LOGIN")
        connection.execute("GRANT ALL ON SCHEMA public TO plain")
    service = made_service(tmp_path / "service", store=url.replace("ledger:not-asked-for@", "plain@"))
    service.writer.append(Event(user="u", item="i1", kind="buy", time=1.7e9, key="k")).result()
    answer = asyncio.run(service.forget("u"))
    assert answer["state"] == "done" and "write-ahead log" in answer["remains"][0]
    service.close()


@pytest.mark.parametrize("store", ["", "postgresql"])
def test_nothing_of_a_forgotten_user_is_taken_in_until_readmitted(tmp_path, store):
    table = tmp_path / "silo.csv"
    pd.DataFrame({"user": ["u", "v"], "item": ["i1", "i2"]}).to_csv(table, index=False)
    service = made_service(tmp_path / "service", store=new_database() if store else "", experiment=EXPERIMENT)
    old = Event(user="u", item="i1", kind="buy", time=1.7e9, key="k", source="shop")

    async def scenario():
        await service.feedback(old)
        await service.forget("u")
        with pytest.raises(ConfigurationError, match="forgotten") as refused:
            await service.feedback(old)
        assert "'u'" not in str(refused.value)
        with pytest.raises(ConfigurationError):
            await service.feedback(old._replace(key="another", time=service.started))
        kept = await service.feedback_of_many([old, old._replace(user="v")])
        assert [event.number == OF_FORGOTTEN for event in kept] == [True, False]
        await service.recommend("u", service_page())
        assert await asyncio.to_thread(import_interactions, table, service.store) == 1
        assert service.store.of_user("u") == [] and service.store.first_variant("u", "e") is None
        assert await service.readmit("u") and not await service.readmit("nobody")
        with pytest.raises(ConfigurationError):
            await service.feedback(old)  # it happened before
        import time

        assert (await service.feedback(old._replace(key="new", time=time.time()))).number
        assert await asyncio.to_thread(import_interactions, table, service.store) == 1

    asyncio.run(scenario())
    service.close()


@pytest.mark.parametrize("store", ["", "postgresql"])
def test_an_older_copy_of_the_store_that_is_put_back_has_forgotten_them(tmp_path, store):
    place = ServicePaths(folder=tmp_path / "service", store=new_database() if store else "")
    service = made_service(place.folder, store=place.store)
    service.writer.append_all(
        [Event(user=user, item="i1", kind="buy", time=1.7e9, key="k") for user in ("u", "v")]
    ).result()
    asyncio.run(service.forget("u"))
    service.close()
    again = open_store(place)
    # As the copy of a day before has it.
    with again.writing() as connection:
        connection.exec_driver_sql("DELETE FROM forgotten")
        connection.exec_driver_sql(
            'INSERT INTO events ("user", item, kind, time, received, accepted) '
            "SELECT 'u', item, kind, time, received, accepted FROM events"
        )
    again.close()
    again = open_store(place)
    assert again.of_user("u") == [] and len(again.of_user("v")) == 1
    assert again.waiting_receipts() and again.erase_forgotten() and not again.waiting_receipts()
    again.close()


def before(name, tmp_path):
    """The address of a store that the first version of the schema wrote."""
    text = (Path(__file__).parent / f"store_schema_1_{name}.sql").read_text(encoding="utf-8")
    if name == "sqlite":
        path = tmp_path / "feedback.sqlite"
        with sqlite3.connect(path) as connection:
            connection.executescript(text)
        return str(path)
    url = new_database()
    import psycopg

    with psycopg.connect(url) as connection:
        connection.execute(text)
        connection.execute("CREATE ROLE trainer_of_migration")
        connection.execute("GRANT SELECT ON public.training_interactions TO trainer_of_migration")
    return url


@pytest.mark.parametrize("name", ["sqlite", "postgresql"])
def test_a_store_of_the_first_schema_opens_and_keeps_everything(tmp_path, name):
    address = before(name, tmp_path)
    store = FeedbackStore(address, key=bytes(range(32)), noted=tmp_path / "forgotten.txt")
    events = store.of_user("user-1")
    assert [(event.item, event.kind, event.number) for event in events] == [
        ("i0", "imported", 5), ("i1", "imported", 6), ("i2", "imported", 7), ("i3", "imported", 8),
        ("i10", "buy", 26), ("i11", "rating", 31),
    ]  # fmt: skip
    assert len(list(store.training())) == 26 and store.quarantined() == [("robot", 1)]
    assert store.first_variant("user-2", "e") == "new" and store.imported_from() == "file"
    with store.writing() as connection:
        # What was reported before is known again, from whatever source; a number is never given twice.
        again = Event(user="user-1", item="i10", kind="buy", time=1.7e9, key="key-1", source="shop")
        assert store.append(connection, again) is None
        assert store.append(connection, again._replace(user="user-2")) > 32
        assert store.append(connection, again._replace(user="user-5")) == OF_FORGOTTEN
    # What the version before left of the user whom it forgot goes now.
    assert store.waiting_receipts() and store.erase_forgotten()
    store.close()
    if name == "sqlite":
        assert b"user-5" not in Path(address).read_bytes()
    else:
        engine = sa.create_engine(address.replace("postgresql:", "postgresql+psycopg:"))
        with engine.connect() as connection:
            allowed = "SELECT has_table_privilege('trainer_of_migration', 'training_interactions', 'select')"
            assert connection.exec_driver_sql(allowed).scalar()
        engine.dispose()
    FeedbackStore(address, key=bytes(range(32)), noted=tmp_path / "forgotten.txt").close()


def test_a_migration_that_fails_changes_nothing(tmp_path, monkeypatch):
    address = before("sqlite", tmp_path)
    with sqlite3.connect(address) as connection:
        was = list(connection.iterdump())
    with monkeypatch.context() as broken:
        broken.setattr("recsys_fed.serving._tables._create_view", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            FeedbackStore(address, key=bytes(range(32)))
    with sqlite3.connect(address) as connection:
        assert list(connection.iterdump()) == was
    FeedbackStore(address, key=bytes(range(32))).close()


def test_a_newer_schema_is_refused(tmp_path):
    FeedbackStore(str(tmp_path / "s.sqlite"), key=b"k").close()
    with sqlite3.connect(tmp_path / "s.sqlite") as connection:
        connection.execute("UPDATE settings SET value = '9' WHERE name = 'schema'")
    with pytest.raises(ConfigurationError, match="Install the version"):
        FeedbackStore(str(tmp_path / "s.sqlite"), key=b"k")


def test_the_routes_of_forgetting(tmp_path):
    gate, headers = made_application(tmp_path / "service")
    with TestClient(gate) as client:
        ask = lambda path, **body: client.post(path, headers=headers["all"], json=body)  # noqa: E731
        ask("/v1/feedback", user="gone", item="i1", kind="buy", event="e")
        answer = ask("/v1/forget", user="gone").json()
        assert answer["state"] == "done" and answer["remains"] == []
        receipt = ask("/v1/forget/receipt", receipt=answer["receipt"]).json()
        assert receipt["state"] == "done" and receipt["erased"] >= receipt["forgotten"]
        assert ask("/v1/forget/receipt", receipt="abcd").status_code == 409
        refused = ask("/v1/feedback", user="gone", item="i1", kind="buy", event="e")
        assert refused.status_code == 409 and "gone" not in refused.text
        assert ask("/v1/forget/readmit", user="gone").json() == {"readmitted": True}
        assert ask("/v1/feedback", user="gone", item="i2", kind="buy", event="e2").status_code == 200
    assert (tmp_path / "service" / "forgotten.txt").stat().st_mode & 0o077 == 0
