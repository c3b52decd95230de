"""A silo in masked rounds against a server that does not keep to the protocol: refused, typed, and not charged."""

import copy
import json
import math
from dataclasses import replace

import pytest
from flwr.app import Message
from masked_federation import MASKED, SILOS, masked_run

from recsys_fed.federation.secure_aggregation import errors as e
from recsys_fed.federation.secure_aggregation.encoding import silos_to_bytes
from recsys_fed.federation.secure_aggregation.roster import survivors_from_bytes
from recsys_fed.federation.secure_aggregation.terms import RoundTerms
from recsys_fed.federation.wire import (
    blob_from_records,
    blob_to_records,
    masked_request_from_records,
    masked_request_to_records,
    request_to_records,
)
from recsys_fed.signing import SigningKey

# Without noise, which these tests do not look at, nobody has to account for it.
ALL_NEEDED = replace(MASKED, secure_aggregation_threshold=SILOS, epsilon=math.inf)
VICTIM = 0


def told(silo_message: Message, content) -> Message:
    """The same message with other content, as a server would send it."""
    return Message(content, silo_message.metadata.dst_node_id, silo_message.metadata.message_type)


def attacked(tmp_path, kind, attack):
    """What `attack(message, answer, context)` returns when the first silo is asked this kind of message."""
    seen = []

    def between(silo, time, message, answer):
        if silo == VICTIM and message.metadata.message_type == kind and not seen:
            seen.append(attack(message, answer, answer.__defaults__[1]))
        return answer()

    try:
        outcome = masked_run(tmp_path, between, config=ALL_NEEDED)
    except e.SecureAggregationError as error:
        outcome = error.outcome
    return seen[0], outcome


def reason(reply: Message) -> str:
    assert reply.has_error()
    return reply.error.reason


def terms_changed(**changes):
    def attack(message, answer, _context):
        terms = RoundTerms.from_bytes(blob_from_records("terms", message.content))
        other = replace(terms, **{name: value(terms) for name, value in changes.items()})
        return answer(told(message, blob_to_records("terms", other.to_bytes())))

    return attack


def with_stranger(terms):
    stranger = SigningKey.generate().public_key
    return tuple(sorted((*terms.silos[1:], stranger)))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"threshold": lambda _: 3}, "TermsError: Expected at least 3 silos whose noise counts, got 2"),
        ({"silos": with_stranger}, "NotAdmittedError: "),
        ({"run": lambda _: "another"}, "TermsError: Expected terms of run"),
    ],
)
def test_terms_that_the_silo_does_not_accept_are_refused(changes, says, tmp_path):
    reply, outcome = attacked(tmp_path, "query.advertise", terms_changed(**changes))
    assert reason(reply).startswith(says)
    assert len(outcome.charged(VICTIM)) == 2


def request_changed(**changes):
    def attack(message, answer, _context):
        asked, delivery = masked_request_from_records(message.content)
        return answer(told(message, masked_request_to_records(replace(asked, **changes), delivery)))

    return attack


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"attempt": 1}, "TermsError: Expected the request"),
        ({"settings": {"more": 1.0}}, "ProtocolError: Expected settings"),
        ({"noise_share": 0.2}, "ProtocolError: Expected noise_share"),
        ({"threshold": 0, "noise_share": 1.0}, "ProtocolError: Expected noise_share"),
    ],
)
def test_another_request_than_all_silos_agreed_to_is_refused_and_not_charged(changes, says, tmp_path):
    reply, outcome = attacked(tmp_path, "train", request_changed(**changes))
    assert reason(reply).startswith(says)
    # What is refused before the round's state is looked at may be asked again in the right way. Otherwise the attempt
    # is over; the others had sent their inputs, so they pay for it.
    more = 1 if says.startswith("TermsError") else 0
    assert [len(outcome.charged(silo)) for silo in range(SILOS)] == [2, *(SILOS - 1) * [2 + more]]
    assert outcome.sums.keys() == {0, 1}


def test_a_masked_request_without_keys_and_shares_is_refused(tmp_path):
    def attack(message, answer, context):
        asked, delivery = masked_request_from_records(message.content)
        fresh = copy.deepcopy(context)
        fresh.state.clear()
        return (
            answer(told(message, request_to_records(asked)), fresh),
            answer(told(message, masked_request_to_records(asked, delivery)), fresh),
        )

    (open_, masked), outcome = attacked(tmp_path, "train", attack)
    assert "came before its keys and shares" in reason(open_)
    assert reason(masked).startswith("ReplayedMessageError: ")
    assert len(outcome.charged(VICTIM)) == 2


def test_two_sets_of_survivors_sent_at_once_are_answered_once(tmp_path):
    """Two processes of the silo start from copies of one state: the database lets one of them answer."""

    def attack(message, answer, context):
        survivors = survivors_from_bytes(blob_from_records("survivors", message.content))
        first, second = copy.deepcopy(context), copy.deepcopy(context)
        other = told(message, blob_to_records("survivors", silos_to_bytes(survivors)))
        return answer(message, first), answer(other, second), first, second

    (once, again, first, second), _ = attacked(tmp_path, "query.confirm", attack)
    assert not once.has_error()
    assert "was taken already" in reason(again)
    assert first.state
    assert not second.state


@pytest.mark.parametrize("kind", ["query.share", "train", "query.unmask"])
def test_no_other_exchange_is_answered_twice_from_one_state_either(kind, tmp_path):
    def attack(message, answer, context):
        first, second = copy.deepcopy(context), copy.deepcopy(context)
        return answer(message, first), answer(message, second)

    (once, again), outcome = attacked(tmp_path, kind, attack)
    assert not once.has_error()
    assert "was taken already" in reason(again)
    if kind == "train":
        assert [body.event.round for body in outcome.charged(VICTIM)] == [0, 0, 1]
        assert {attempt for silo, attempt in outcome.inputs[0] if silo == VICTIM} == {0, 1}


def test_after_an_error_nothing_of_the_round_is_left(tmp_path):
    def attack(message, answer, context):
        reply = answer(told(message, blob_to_records("survivors", silos_to_bytes(()))))
        return reply, dict(context.state)

    (reply, left), _ = attacked(tmp_path, "query.confirm", attack)
    assert reason(reply).startswith("TooFewSurvivorsError: ")
    assert left == {}


def test_the_error_of_the_silos_is_that_of_the_run(tmp_path):
    """A server in the middle swaps two silos' deliveries; the run ends in the error that the silos found."""
    deliveries = {}

    def between(silo, _time, message, answer):
        if message.metadata.message_type != "train":
            return answer()
        asked, delivery = masked_request_from_records(message.content)
        other = deliveries.setdefault("first", delivery)
        return answer(told(message, masked_request_to_records(asked, other)))

    with pytest.raises(e.ForgedShareError) as caught:
        masked_run(tmp_path, between, config=ALL_NEEDED)
    assert caught.value.outcome.sums == {}


def test_what_a_silo_leaves_on_its_disk_opens_no_mask(tmp_path):
    """Neither the secrets of a round nor the integers before the masks are in the folder of its ledger."""
    secrets = set()

    def between(silo, _time, _message, answer):
        reply = answer()
        context = answer.__defaults__[1]
        if silo == VICTIM and context.state:
            content = context.state.config_records["masked-round"]["state"]
            secrets.add(content)
        return reply

    outcome = masked_run(tmp_path, between, config=ALL_NEEDED)
    assert len(secrets) >= 4
    on_disk = b"".join(path.read_bytes() for path in (outcome.ledgers / "silo-0").iterdir())
    words = set()
    for content in secrets:
        record = json.loads(content)
        words |= set(record.get("secrets", {}).values()) | {
            text for pair in record.get("held", {}).values() for text in pair
        }
    assert len(words) >= 3 + 2 * SILOS
    for word in words:
        assert bytes.fromhex(word) not in on_disk
        assert word.encode() not in on_disk
    for integers in outcome.inputs[0].values():
        assert integers.astype("<i8").tobytes() not in on_disk
        assert integers.astype("<i4").tobytes() not in on_disk
