"""Who takes part, and what becomes of silos that do not answer at once."""

import json
from dataclasses import replace

import pytest
from flwr.app import Error, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode

from recsys_fed.config import FederationConfig
from recsys_fed.errors import DataNotFoundError, ProtocolError
from recsys_fed.federation.admission import sign_greeting
from recsys_fed.federation.inprocess import task_identity
from recsys_fed.federation.messages import Greeting
from recsys_fed.federation.wire import greeting_to_records
from recsys_fed.signing import SigningKey
from recsys_fed.simulation.flower_engine import load_apps

OWNERS = {f"silo-{index}": SigningKey.generate() for index in range(4)}
KEYS = {name: key.public_key for name, key in OWNERS.items()}
RUN = "a-training"


class Nodes:
    """A Grid whose nodes answer by a table: node -> reply, or a list of replies of which None is silence."""

    def __init__(self, answers):
        self.answers, self.asked, self._waiting = answers, [], {}

    def get_node_ids(self):
        return list(self.answers)

    def push_messages(self, messages):
        numbers = []
        for message in messages:
            node = message.metadata.dst_node_id
            self.asked.append(node)
            number = f"{len(self.asked)}"
            message.metadata.__dict__["_message_id"] = number
            numbers.append(number)
            answers = self.answers[node]
            answer = answers.pop(0) if isinstance(answers, list) else answers
            if answer is not None:
                self._waiting[number] = Message(answer, reply_to=message)
            if isinstance(answer, Error) and answer.code == ErrorCode.NODE_UNAVAILABLE:
                # SuperLink says this in its own name.
                self._waiting[number].metadata.__dict__["_src_node_id"] = SUPERLINK_NODE_ID
        return numbers

    def pull_messages(self, numbers):
        return [self._waiting.pop(number) for number in list(numbers) if number in self._waiting]

    def send_and_receive(self, messages, *, timeout=None):
        return self.pull_messages(self.push_messages(messages))


def greeting(silo: str, node: int = 0, /, *, key: SigningKey | None = None, run: str = RUN, **changes) -> RecordDict:
    """What a silo says from a node; `changes` are made after it was signed."""
    made = Greeting(silo=silo, catalogue_hash="c0ffee", n_items=3)
    signed = sign_greeting(made, OWNERS[silo] if key is None else key, run=run, node=node)
    return greeting_to_records(replace(signed, **changes))


@pytest.fixture
def apps():
    """The server's own modules, imported as Flower would."""
    main = load_apps()[0]._main.__globals__
    with task_identity(1):
        yield main


def gathered(apps, answers, tmp_path, **config):
    path = tmp_path / "roster.json"
    path.write_text(json.dumps(KEYS))
    config = FederationConfig(silos=len(answers), roster=str(path), **config)
    return apps["greet_silos"](Nodes(answers), config, run=RUN)


def test_only_silos_of_the_roster_take_part_and_the_others_are_counted(apps, tmp_path):
    answers = {
        10: greeting("silo-0", 10),
        11: greeting("silo-1", 11, key=SigningKey.generate()),
        12: Error(code=2, reason="no"),
        13: RecordDict(),
        14: greeting("silo-2", 14),
    }
    found = gathered(apps, answers, tmp_path, minimum_silos=2)
    assert {node: one.silo for node, one in found.greetings.items()} == {10: "silo-0", 14: "silo-2"}
    assert len(found.refused) == 3


def test_an_admitted_silo_cannot_greet_under_another_ones_name(apps, tmp_path):
    """silo-3 may connect, and knows all names and keys of the roster; silo-0 takes part all the same."""
    honest = greeting("silo-0", 10)
    claims = {
        "the name and key, signed with its own key": greeting("silo-3", 13, silo="silo-0", public_key=KEYS["silo-0"]),
        "the name under its own key": greeting("silo-0", 13, key=OWNERS["silo-3"]),
        "what silo-0 has said from its node": honest,
        "what silo-0 has said in another run": greeting("silo-0", 13, run="another"),
        "no signature": greeting("silo-0", 13, signature=""),
        "half a signature": greeting("silo-0", 13, signature="00" * 32),
        "another catalogue": greeting("silo-0", 13, catalogue_hash="beef"),
        "a silo of a simulation": greeting("silo-0", 13, simulated=False),
    }
    for claim, said in claims.items():
        found = gathered(apps, {10: honest, 13: said}, tmp_path, minimum_silos=1)
        assert {node: one.silo for node, one in found.greetings.items()} == {10: "silo-0"}, claim
        assert len(found.refused) == 1, claim


def test_two_nodes_with_the_key_of_one_silo_are_both_left_out(apps, tmp_path):
    answers = {10: greeting("silo-0", 10), 11: greeting("silo-0", 11), 12: greeting("silo-3", 12)}
    found = gathered(apps, answers, tmp_path)
    assert set(found.greetings) == {12}
    assert len(found.refused) == 2


def test_too_few_are_too_few(apps, tmp_path):
    with pytest.raises(ProtocolError, match="at least 2 silos, got 1"):
        gathered(apps, {10: greeting("silo-0", 10), 11: RecordDict()}, tmp_path, minimum_silos=2)
    config = FederationConfig(silos=1, roster=str(tmp_path / "none"))
    with pytest.raises(DataNotFoundError):
        apps["greet_silos"](Nodes({10: greeting("silo-0", 10)}), config, run=RUN)


def patient(apps, nodes, **how):
    return apps["RetryingGrid"](nodes, **{"timeout": 5.0, "first_wait": 0.05, **how})


def ask(grid, nodes):
    return grid.send_and_receive([Message(RecordDict(), node, "train") for node in nodes])


GONE = Error(code=ErrorCode.NODE_UNAVAILABLE, reason="gone")


def test_a_silo_that_was_away_is_asked_again(apps):
    nodes = Nodes({11: [greeting("silo-0")], 12: [None, greeting("silo-1")], 13: [GONE, GONE, greeting("silo-2")]})
    replies = ask(patient(apps, nodes), [11, 12, 13])
    assert sorted(reply.metadata.src_node_id for reply in replies) == [11, 12, 13]
    assert not any(reply.has_error() for reply in replies)
    assert sorted(nodes.asked) == [11, 12, 12, 13, 13, 13]


def test_a_silo_that_stays_away_is_named_by_its_own_node(apps):
    """Whoever reads replies looks up who they are from: an error of SuperLink's is from the node that was asked."""
    nodes = Nodes({11: [greeting("silo-0")], 13: [GONE] * 50})
    replies = {reply.metadata.src_node_id: reply for reply in ask(patient(apps, nodes, timeout=0.6), [11, 13])}
    assert set(replies) == {11, 13}
    assert replies[13].error.reason == "gone"


def test_a_silo_that_refuses_is_not_asked_again(apps):
    nodes = Nodes({1: [Error(code=1, reason="the budget")], 2: [greeting("silo-1")]})
    replies = {reply.metadata.src_node_id: reply for reply in ask(patient(apps, nodes), [1, 2])}
    assert replies[1].has_error()
    assert sorted(nodes.asked) == [1, 2]


def test_retries_end(apps):
    nodes = Nodes({1: [None] * 50, 2: [greeting("silo-1")]})
    replies = ask(patient(apps, nodes, timeout=0.6), [1, 2])
    assert [reply.metadata.src_node_id for reply in replies] == [2]
    assert 2 <= nodes.asked.count(1) <= 8
    # Steps of masked rounds are asked for once.
    nodes = Nodes({1: [None] * 50})
    assert ask(patient(apps, nodes, attempts=1), [1]) == []
    assert nodes.asked == [1]
