"""The ServerApp goes on without a silo that fails, and stops where it must."""

import io
import json
import tempfile
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
from driven_silo import CONFIG, DATA
from flwr.app import Array, ArrayRecord, Message

from recsys_fed.config import flat
from recsys_fed.errors import PrivacyError, ProtocolError
from recsys_fed.federation.admission import sign_greeting
from recsys_fed.federation.inprocess import run_in_process
from recsys_fed.federation.run_files import EMBEDDINGS, EVENTS, FEDERATION
from recsys_fed.federation.wire import greeting_from_records, greeting_to_records
from recsys_fed.models.items import load_item_embeddings
from recsys_fed.signing import SigningKey
from recsys_fed.simulation.flower_engine import load_apps

SILOS = 3


def run(config, tmp_path, spoiled, *, silos=(1,), kind="train", first=0, n_silos=SILOS):
    """Run both apps with `spoiled(reply)` in place of the reply of some silos from a round on."""
    server, client = load_apps()
    asked = dict.fromkeys(range(SILOS), 0)

    def app(message, context):
        reply, silo = client(message, context), context.node_config["partition-id"]
        if message.metadata.message_type != kind:
            return reply
        asked[silo] += 1
        return spoiled(message, reply) if silo in silos and asked[silo] > first else reply

    config = replace(config, silos=SILOS, output=str(tmp_path))
    # Silos without a past: the ledgers are new ones in each run.
    data = replace(DATA, ledgers=tempfile.mkdtemp(dir=tmp_path))
    run_in_process(server, app, run_config=flat(config) | flat(data), n_silos=n_silos)
    totals = json.loads((tmp_path / FEDERATION).read_text())
    events = [json.loads(line) for line in (tmp_path / EVENTS).read_text().splitlines()]
    return totals, events


def fails(_message, _reply):
    raise RuntimeError("no connection")


def archive(message, reply):
    """An update whose table is an archive of arrays."""
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros((25, 1), np.int32))
    content = Array("int32", (25, 1), "numpy.ndarray", buffer.getvalue())
    reply.content["total"] = ArrayRecord(OrderedDict(total=content))
    return reply


def fewer_steps(message, reply):
    """An update about another release than the one asked for."""
    reply.content.config_records["update"]["steps"] = 10**9
    return reply


@pytest.mark.parametrize("spoiled", [fails, archive, fewer_steps])
def test_the_run_goes_on_without_a_silo_that_fails(spoiled, tmp_path):
    totals, events = run(CONFIG, tmp_path, spoiled, first=1)
    assert totals["rounds"] == 3
    silos = [[event["silo"] for event in events if event["round"] == number] for number in range(3)]
    # What the third had charged, and nobody heard of, is added at the end by its certificate.
    assert silos == [["silo-0", "silo-1", "silo-2"], *[["silo-0", "silo-2", "silo-1"]] * 2]
    assert [event["silo"] for event in events[-2:]] == ["silo-1"] * 2
    assert len(totals["refused"]) == 2
    assert load_item_embeddings(tmp_path / EMBEDDINGS).n_items == 25


def test_the_run_stops_where_no_silo_answers(tmp_path):
    with pytest.raises(ProtocolError, match=r"at least 1, got 0: .*no connection"):
        run(CONFIG, tmp_path, fails, silos=(0, 1, 2))
    assert not (tmp_path / EMBEDDINGS).exists()


def test_noise_that_is_split_needs_every_silo(tmp_path):
    with pytest.raises(PrivacyError, match="all 3 silos"):
        run(replace(CONFIG, noise="distributed"), tmp_path, fails)
    assert not (tmp_path / EMBEDDINGS).exists()


def test_a_silo_with_another_catalogue_stops_the_run(tmp_path):
    def other(message, reply):
        greeting = replace(greeting_from_records(reply.content), catalogue_hash="c0ffee")
        run, node = str(message.metadata.run_id), message.metadata.dst_node_id
        signed = sign_greeting(greeting, SigningKey.generate(), run=run, node=node)
        return Message(greeting_to_records(signed), reply_to=message)

    with pytest.raises(ProtocolError, match="silos silo-1 hold another than silo-0"):
        run(CONFIG, tmp_path, other, kind="query")


def test_a_greeting_that_was_changed_on_its_way_stops_the_run(tmp_path):
    def other(message, reply):
        greeting = replace(greeting_from_records(reply.content), catalogue_hash="c0ffee")
        return Message(greeting_to_records(greeting), reply_to=message)

    with pytest.raises(ProtocolError, match="signed by its ledger key"):
        run(CONFIG, tmp_path, other, kind="query")


def test_a_silo_that_does_not_greet_stops_the_run(tmp_path):
    with pytest.raises(ProtocolError, match="no connection"):
        run(CONFIG, tmp_path, fails, kind="query")


def test_too_few_silos_are_waited_for_and_then_named(tmp_path, monkeypatch):
    gather = load_apps()[0]._main.__globals__["greet_silos"]
    monkeypatch.setitem(gather.__globals__, "CONNECT_TIMEOUT", 0.5)
    with pytest.raises(ProtocolError, match="Expected 3 connected silos, got 2"):
        run(CONFIG, tmp_path, fails, n_silos=2)


def test_files_of_a_run_replace_those_of_an_earlier_one(tmp_path):
    def honest(_message, reply):
        return reply

    first = run(CONFIG, tmp_path, honest)
    assert run(CONFIG, tmp_path, honest) == first
    assert len(first[1]) == 3 * SILOS
