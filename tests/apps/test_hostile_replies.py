"""A thousand replies that no honest silo sends: the server goes on as if that silo were silent, and counts each."""

import random
from dataclasses import replace

import numpy as np
import pytest
from deployment_kit import CONFIG, deployed, train_in_process
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from message_strategies import masked_updates, updates
from mutations import mutated
from recorded_rounds import recorded_rounds, same

from client.deployed import forget_silos
from recsys_fed.federation import wire
from recsys_fed.federation.inprocess import task_identity
from recsys_fed.simulation.flower_engine import load_apps

PLAIN = replace(CONFIG, secure_aggregation="off", minimum_silos=2)
# Of the silos 2, 3 and 4 by node, the last one lies.
LIAR, MUTATED, GENERATED = 4, 800, 300


@pytest.fixture(scope="module")
def rounds(tmp_path_factory):
    """The rounds of a training, and their states without the liar."""
    folder = tmp_path_factory.mktemp("federation")
    forget_silos()
    there = deployed(folder, config=PLAIN, simulated=True)
    with recorded_rounds() as found:
        train_in_process(there, folder / "training", config=PLAIN)
    forget_silos()
    with task_identity(1):
        yield [(one, one.answered(honest(one))[0]) for one in found]


def honest(one) -> list[Message]:
    return [reply for node, reply in sorted(one.replies.items()) if node != LIAR]


def reply_with(one, content: RecordDict | Error) -> Message:
    """A reply of the liar to what it was asked."""
    told = one.replies[LIAR].metadata
    asked = Message(RecordDict(), LIAR, told.message_type, group_id=told.group_id)
    asked.metadata.__dict__["_message_id"] = told.reply_to_message_id
    return Message(content, reply_to=asked)


def check_left_out(one, without, content: RecordDict | Error) -> None:
    state, refused = one.answered([*honest(one), reply_with(one, content)])
    assert len(refused) == 1, refused
    assert same(state, without), "the reply has changed the model"


def test_an_honest_reply_is_none_of_these(rounds):
    for one, without in rounds:
        state, refused = one.answered([*honest(one), reply_with(one, one.replies[LIAR].content)])
        assert not refused
        assert not same(state, without)


def test_mutated_replies_change_nothing_and_each_is_counted(rounds):
    rng = random.Random(11)
    for _ in range(MUTATED):
        one, without = rng.choice(rounds)
        records = told = one.replies[LIAR].content
        while records == told:
            records = mutated(told, rng, noticed=True)
        check_left_out(one, without, records)


plain = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=20), st.binary(max_size=40), st.booleans()
)
words = st.sampled_from(["protocol", "silo", "total", "update", "content", "nonce", "round"]) | st.text(max_size=8)
configs = st.dictionaries(words, plain | st.lists(st.integers(-5, 5), max_size=3), max_size=6).map(ConfigRecord)
dtypes = st.sampled_from(["int32", "float32", "object", "<i4", "V16", "U3", "complex128", ""])
shapes = st.lists(st.integers(0, 2**40), max_size=3).map(tuple)
headers = st.builds(
    lambda shape, kind, rest: b"\x93NUMPY\x01\x00v\x00" + f"{{'descr': '{kind}', 'fortran_order': False, "
    f"'shape': {shape}, }}".ljust(117).encode() + b"\n" + rest,
    shapes, st.sampled_from(["<i4", "<f8", "|O", "<U9"]), st.binary(max_size=64),
)  # fmt: skip
contents = st.binary(max_size=200) | st.binary(max_size=80).map(lambda rest: b"\x93NUMPY" + rest) | headers
arrays = st.builds(Array, dtypes, shapes, st.sampled_from(["numpy.ndarray", "torch", ""]), contents)
arrays |= st.builds(Array, st.just(np.zeros((2, 3), dtype=np.int32)))
tables = st.dictionaries(words, arrays, max_size=2).map(ArrayRecord)
metrics = st.dictionaries(words, st.floats(), max_size=2).map(MetricRecord)
anything = st.dictionaries(words, configs | tables | metrics, max_size=3).map(RecordDict)
update_like = st.builds(lambda config, table: RecordDict({"update": config, "total": table}), configs, tables)
errors = st.builds(Error, code=st.integers(0, 500), reason=st.text(max_size=30))
replies = st.one_of(
    anything,
    update_like,
    errors,
    updates.map(wire.update_to_records),
    masked_updates.map(wire.masked_to_records),
)


@settings(max_examples=GENERATED, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(reply=replies, number=st.integers(0, CONFIG.rounds - 1))
def test_generated_replies_change_nothing_and_each_is_counted(rounds, reply, number):
    check_left_out(*rounds[number], reply)


def test_greetings_and_certificates_that_were_changed_leave_the_others_in_place(tmp_path):
    """The same at both ends of a training, over whole messages of the silo."""
    forget_silos()
    there = deployed(tmp_path, config=PLAIN, simulated=True)
    client, seen = load_apps()[1], {}

    def recording(message, context):
        seen[message.metadata.message_type, context.node_id] = reply = client(message, context)
        return reply

    train_in_process(there, tmp_path / "training", config=PLAIN, app=recording)
    forget_silos()
    rng = random.Random(5)
    for kind, again in (("query", gathered_again), ("query.conclude", collected_again)):
        told = {node: reply.content for (asked, node), reply in seen.items() if asked == kind}
        assert again(there, tmp_path, told) == {2, 3, 4}
        for _ in range(100):
            records = told[LIAR]
            while records == told[LIAR]:
                records = mutated(told[LIAR], rng)
            assert again(there, tmp_path, told | {LIAR: records}) == {2, 3}


class Answering:
    """A Grid whose nodes say what they are told to."""

    def __init__(self, told):
        self.told = told

    def get_node_ids(self):
        return list(self.told)

    def send_and_receive(self, messages, *, timeout=None):
        return [Message(self.told[message.metadata.dst_node_id], reply_to=message) for message in messages]


def gathered_again(there, folder, told) -> set[int]:
    config = replace(PLAIN, roster=str(folder / "roster.json"))
    with task_identity(1):
        found = load_apps()[0]._main.__globals__["greet_silos"](Answering(told), config, run="a-training")
    assert len(found.refused) == len(told) - len(found.greetings)
    return set(found.greetings)


def collected_again(there, folder, told) -> set[int]:
    from recsys_fed.federation.admission import read_roster
    from recsys_fed.federation.kept_releases import RELEASES
    from recsys_fed.federation.messages import Greeting
    from recsys_fed.federation.run_files import EMBEDDINGS
    from recsys_fed.federation.wire import Conclusion
    from recsys_fed.signing import sha256

    keys = read_roster(folder / "roster.json")
    greetings = {
        2 + index: Greeting(silo=name, catalogue_hash="", n_items=0, public_key=key)
        for index, (name, key) in enumerate(sorted(keys.items()))
    }
    collect = load_apps()[0]._main.__globals__["collect_certificates"]
    model, releases = ((folder / "training" / name).read_bytes() for name in (EMBEDDINGS, RELEASES))
    concluded = Conclusion(model=model, tables=sha256(releases))
    with task_identity(1):
        found = collect(Answering(told), greetings, concluded, run="a-training")
    assert len(found.missing) == len(told) - len(found.certificates)
    return {node for node, greeting in greetings.items() if greeting.silo in found.certificates}
