"""Users who leave: no byte of a later release is of them, nothing is kept of them, a receipt says what remains."""

import json
import stat

import numpy as np
import pandas as pd
import pytest
from deployment_kit import USER, deployed, train_in_process

from client.deployed import forget_silos, open_deployed_silo
from recsys_fed.certificates.erasure import read_receipt, sign_receipt
from recsys_fed.deployment.leaving import leave
from recsys_fed.errors import ConfigurationError, DataFormatError, LedgerIntegrityError
from recsys_fed.federation.run_files import EMBEDDINGS, EVENTS
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.records import check_receipt
from recsys_fed.models import stored_histories
from recsys_fed.serving.history import Event
from recsys_fed.serving.paths import ServicePaths
from recsys_fed.serving.store import open_store
from recsys_fed.signing import SigningKey
from recsys_fed.silo.opt_out import OptOuts, Participants
from recsys_fed.silo.recommendations import open_recommender, recommend_user
from recsys_fed.silo.secret import NOBODY, Pseudonyms, SiloSecret
from recsys_fed.silo.settings import read_silo_settings
from recsys_fed.silo.state import StateFolder
from recsys_fed.silo.user_export import user_record


@pytest.fixture(autouse=True)
def _opened_anew():
    forget_silos()
    yield
    forget_silos()


def opened(silo):
    settings = read_silo_settings(silo)
    return settings, SiloSecret.load(silo / "keys" / "secret.key")


def users_of(there, tmp_path, silo=0):
    return pd.read_csv(there.silos[silo].parent / f"silo-{silo}.csv")["customer"].unique().tolist()


def add(path, text):
    path.write_text(path.read_text() + text)


@pytest.mark.parametrize("blocks", ["", 'blocks = "blocks"\nblock-rows = 100\n'])
def test_who_opted_out_changes_no_byte_of_any_later_release(blocks, tmp_path, monkeypatch):
    """Two federations, equal but for the rows of two users, who have opted out where they are: equal bytes."""
    monkeypatch.setattr(stored_histories, "block_size", lambda n_items: 200)
    released = []
    for name in ("with", "without", "counted"):
        there = deployed(tmp_path / name, simulated=True)
        gone = users_of(there, tmp_path)[3:5]
        add(there.silos[0] / "silo.toml", blocks)
        if name == "without":
            table = pd.read_csv(tmp_path / name / "silo-0.csv")
            table[~table["customer"].isin(gone)].to_csv(tmp_path / name / "silo-0.csv", index=False)
        if name == "with":
            settings, secret = opened(there.silos[0])
            assert len(list(leave(settings, secret, gone, receipts=tmp_path / "receipts"))) >= 3
        found = []
        for training in ("first", "second"):
            output = tmp_path / name / training
            train_in_process(there, output, training=training)
            events = [json.loads(line) for line in (output / EVENTS).read_text().splitlines()]
            found += [(output / EMBEDDINGS).read_bytes(), [event["noise_multiplier"] for event in events]]
        released.append(found)
    assert released[0] == released[1]
    # Without the opt-out these users do count: the comparison can fail.
    assert released[2][0] != released[0][0]


def test_a_silo_that_serves_leaves_them_out_from_the_next_training_on(tmp_path):
    there = deployed(tmp_path, simulated=True)
    user = users_of(there, tmp_path)[0]
    settings, secret = opened(there.silos[0])
    name = Pseudonyms(secret).of(user)
    train_in_process(there, tmp_path / "first", training="first")
    silo = open_deployed_silo(there.silos[0])
    assert name in silo.data.users
    assert name in silo.state.users().users
    list(leave(settings, secret, [user], receipts=tmp_path / "receipts"))
    # At once in what is kept; in the next message in what is trained on.
    assert name not in silo.state.users().users
    assert silo.outdated
    again = open_deployed_silo(there.silos[0])
    assert again is not silo
    assert name not in again.data.users
    train_in_process(there, tmp_path / "second", training="second")
    assert name not in again.state.users().users
    assert len(again.state.users().users) == len(silo.data.users) - 1
    # Who comes back takes part again.
    OptOuts(settings, Pseudonyms(secret)).remove(user)
    assert name in open_deployed_silo(there.silos[0]).data.users
    with pytest.raises(ConfigurationError, match="has opted out"):
        OptOuts(settings, Pseudonyms(secret)).remove(user)


def test_a_training_that_read_them_before_does_not_keep_them(tmp_path):
    there = deployed(tmp_path, simulated=True)
    train_in_process(there, tmp_path / "first", training="first")
    user = users_of(there, tmp_path)[0]
    settings, secret = opened(there.silos[0])
    silo = open_deployed_silo(there.silos[0])
    assert Pseudonyms(secret).of(user) in silo.data.users
    OptOuts(settings, Pseudonyms(secret)).add([user])
    silo.keep((tmp_path / "first" / EMBEDDINGS).read_bytes())
    assert Pseudonyms(secret).of(user) not in silo.state.users().users


def test_own_models_and_recommendations_are_without_them(tmp_path):
    there = deployed(tmp_path, simulated=True)
    train_in_process(there, tmp_path / "first", training="first")
    settings, secret = opened(there.silos[0])
    user, other = users_of(there, tmp_path)[:2]
    state = StateFolder(there.silos[0] / "state", secret)
    before = state.personal()
    state.write_residual()
    (own,), (residual,) = ((there.silos[0] / "state").glob(name) for name in ("personal-*", "residual-*"))
    list(leave(settings, secret, [user], receipts=tmp_path / "receipts"))
    assert not own.exists() and not residual.exists()
    after = state.personal()
    assert before.item_model is None or not np.array_equal(before.item_model.left, after.item_model.left)
    recommender = open_recommender(state, there.simulated.catalogue, Participants.of_silo(settings, secret))
    assert recommend_user(recommender, other, k=3)
    with pytest.raises(ConfigurationError, match="user of this silo"):
        recommend_user(recommender, user)
    # Again: nothing is left to do.
    assert state.remove_users(frozenset([Pseudonyms(secret).of(user)])) == 0


def test_a_receipt_says_which_trainings_may_hold_something_and_the_ledger_agrees(tmp_path):
    there = deployed(tmp_path, simulated=True)
    settings, secret = opened(there.silos[0])
    first, second = users_of(there, tmp_path)[:2]
    list(leave(settings, secret, [first], receipts=tmp_path / "receipts"))
    train_in_process(there, tmp_path / "first", training="first")
    list(leave(settings, secret, [second], receipts=tmp_path / "receipts"))
    texts = [(tmp_path / "receipts" / f"{Pseudonyms(secret).of(user)}.json").read_bytes() for user in (first, second)]
    early, late = map(read_receipt, texts)
    assert early.trainings == () and "No model" in early.statement()
    assert [training.run for training in late.trainings] == ["first"]
    assert late.trainings[0].releases == 3
    ledger = Ledger.open(settings.ledger)
    assert late.epsilon_in_all == pytest.approx(ledger.spending().epsilon)
    assert f"epsilon = {late.epsilon_in_all:g}" in late.statement()
    for receipt, text in zip((early, late), texts, strict=True):
        check_receipt(receipt, ledger)
        assert USER.encode() not in text
        with pytest.raises((LedgerIntegrityError, DataFormatError)):
            read_receipt(text.replace(b'"statement":"', b'"statement":"No worries. '))
    key = SigningKey.load(there.silos[0] / "keys" / "ledger.key")
    from dataclasses import replace

    for wrong in (
        replace(late, trainings=()),
        replace(late, epsilon_in_all=late.epsilon_in_all / 2),
        replace(late, trainings=(replace(late.trainings[0], epsilon=0.1),)),
    ):
        with pytest.raises(LedgerIntegrityError):
            check_receipt(read_receipt(sign_receipt(wrong, key)), ledger)
    with pytest.raises(LedgerIntegrityError, match="not signed"):
        read_receipt(sign_receipt(late, SigningKey.generate()))
    with pytest.raises(LedgerIntegrityError, match="another silo"):
        check_receipt(late, Ledger.open(read_silo_settings(there.silos[1]).ledger))


def test_the_list_holds_no_id_and_a_damaged_one_takes_nobody_in(tmp_path):
    there = deployed(tmp_path, simulated=True)
    settings, secret = opened(there.silos[0])
    user = users_of(there, tmp_path)[0]
    OptOuts(settings, Pseudonyms(secret)).add([user, user, "somebody else"])
    path = there.silos[0] / "opt-out.txt"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert USER not in path.read_text()
    assert [one.pseudonym for one in OptOuts(settings, Pseudonyms(secret)).listed()] == [
        Pseudonyms(secret).of(name) for name in (user, "somebody else")
    ]
    add(path, "half a li")
    with pytest.raises(DataFormatError, match=r"opt-out.txt"):
        _ = open_deployed_silo(there.silos[0]).data


def test_who_opts_out_is_forgotten_by_the_service_and_the_reverse(tmp_path):
    there = deployed(tmp_path, simulated=True)
    gone, forgotten, stays = users_of(there, tmp_path)[:3]
    path = there.silos[0] / "silo.toml"
    path.write_text(path.read_text().replace("[silo]", '[silo]\nservice = "../service"'))
    with pytest.raises(ConfigurationError, match="service"):
        _ = open_deployed_silo(there.silos[0]).data
    place = ServicePaths(folder=tmp_path / "service")
    running = open_store(place)
    with running.writing() as connection:
        for user in (gone, forgotten, stays):
            running.append(connection, Event(user=user, item="i1", kind="buy", time=1.7e9))
    settings, secret = opened(there.silos[0])
    silo = open_deployed_silo(there.silos[0])
    assert Pseudonyms(secret).of(forgotten) in silo.data.users
    # The service forgets: the next training leaves the user out.
    with running.writing() as connection:
        running.forget(connection, forgotten, time=1.8e9)
    assert Pseudonyms(secret).of(forgotten) not in open_deployed_silo(there.silos[0]).data.users
    # The silo's list: gone from the log, also for a service that was running meanwhile.
    list(leave(settings, secret, [gone], receipts=tmp_path / "receipts"))
    assert running.of_user(gone) == [] and len(running.of_user(stays)) == 1
    assert running.take_noted() == {running.digest(gone)}
    assert running.take_noted() == frozenset()
    with running.writing() as connection:
        assert running.append(connection, Event(user=gone, item="i2", kind="buy", time=1.9e9)) == 0
        assert running.append(connection, Event(user=stays, item="i2", kind="buy", time=1.9e9))
        assert running.readmit(connection, forgotten, time=2e9)
    assert Pseudonyms(secret).of(forgotten) in open_deployed_silo(there.silos[0]).data.users
    # And back again, in both.
    OptOuts(settings, Pseudonyms(secret)).remove(gone)
    assert Participants.of_silo(settings, secret).of(gone) != NOBODY
    running.take_noted()
    with running.writing() as connection:
        assert running.append(connection, Event(user=gone, item="i3", kind="buy", time=4e9))
    running.close()


def test_an_export_has_all_that_is_held_of_a_user_and_of_nobody_else(tmp_path):
    there = deployed(tmp_path, simulated=True)
    train_in_process(there, tmp_path / "first", training="first")
    user, other = users_of(there, tmp_path)[:2]
    path = there.silos[0] / "silo.toml"
    path.write_text(
        path.read_text()
        .replace("[silo]", '[silo]\nservice = "../service"')
        .replace('item = "sku"', 'item = "sku"\ntime = "day"')
    )
    store = open_store(ServicePaths(folder=tmp_path / "service"))
    with store.writing() as connection:
        for name in (user, other):
            store.append(connection, Event(user=name, item="i1", kind="buy", time=1.7e9, source="shop"))
    store.close()
    settings, secret = opened(there.silos[0])
    record = json.loads(json.dumps(user_record(settings, secret, user), allow_nan=False))
    table = pd.read_csv(tmp_path / "silo-0.csv")
    mine = table[table["customer"] == user]
    assert [row["item"] for row in record["source"]] == mine["sku"].astype(str).tolist()
    assert [row["time"] for row in record["source"]] == mine["day"].astype(float).tolist()
    (state,) = record["state"]
    assert sorted(state["history"]) == sorted(mine["sku"].astype(str))
    kept = StateFolder(there.silos[0] / "state", secret).users()
    assert state["vector"] == kept.vectors[kept.row_of(Pseudonyms(secret).of(user))].tolist()
    assert [event["user"] for event in record["service"]["events"]] == [user]
    assert other not in json.dumps(record)
    assert record["takes_part"]
    nobody = user_record(settings, secret, "nobody")
    assert (nobody["source"], nobody["state"], nobody["service"]["events"]) == ([], [], [])
