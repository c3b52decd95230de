"""Every message of a masked run: known kinds only, no integers of a silo in the open, and few bytes."""

import numpy as np
import pytest
from masked_federation import MASKED, PHASES, SILOS, masked_run
from scipy import stats

from recsys_fed.federation.messages import PROTOCOL
from recsys_fed.federation.secure_aggregation.envelope import OVERHEAD
from recsys_fed.privacy.events import ReleaseEvent

RECORDS = {
    "query.advertise": ({"terms"}, {"keys"}),
    "query.share": ({"roster"}, {"shares"}),
    "train": ({"tables", "request", "delivery"}, {"masked"}),
    "query.confirm": ({"survivors"}, {"confirmation"}),
    "query.unmask": ({"confirmations"}, {"unmasking"}),
}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return masked_run(tmp_path_factory.mktemp("run"), config=MASKED)


def of(outcome, phase):
    return [entry for entry in outcome.messages if entry[1].metadata.message_type == phase]


@pytest.mark.parametrize("phase", PHASES)
def test_each_exchange_has_its_records_and_one_message_a_silo_and_round(outcome, phase):
    asked, answered = RECORDS[phase]
    found = of(outcome, phase)
    assert len(found) == 2 * SILOS
    for _, message, reply in found:
        assert set(message.content) == asked
        assert set(reply.content) == answered
        if phase != "train":
            (name,) = answered
            assert set(reply.content.config_records[name]) == {"protocol", "content"}


def masked_inputs(outcome):
    for silo, message, reply in of(outcome, "train"):
        number = message.content.config_records["request"]["round"]
        yield silo, number, reply.content.config_records["masked"]


def test_a_silos_answer_holds_its_event_and_bytes_that_are_not_its_integers(outcome):
    for silo, number, record in masked_inputs(outcome):
        assert set(record) == {*ReleaseEvent.from_dict(event_of(record)).to_dict(), "protocol", "content", "silo"} | {
            "catalogue_hash",
            "nonce",
        }
        assert record["protocol"] == PROTOCOL
        integers = outcome.inputs[number][silo, 0]
        for kind in ("<i4", "<i8"):
            assert integers.astype(kind).tobytes() not in record["content"]
        assert len(record["content"]) - OVERHEAD <= 1.25 * 4 * integers.size + 1


def event_of(record):
    return {name: value for name, value in dict(record).items() if name in ReleaseEvent.__dataclass_fields__}


def test_masked_bytes_look_random_all_together(outcome):
    """Chi-square on the bytes of all inputs; of the plain integers the same test fails by far."""
    bodies = [record["content"][OVERHEAD - 64 : -64] for _, _, record in masked_inputs(outcome)]
    plain = [integers.astype("<i4").tobytes() for inputs in outcome.inputs.values() for integers in inputs.values()]
    assert chi_square(b"".join(body[: len(body) * 3 // 4] for body in bodies)) > 1e-4
    assert chi_square(b"".join(plain)) < 1e-9


def chi_square(content: bytes) -> float:
    counts = np.bincount(np.frombuffer(content, np.uint8), minlength=256)
    return float(stats.chisquare(counts).pvalue)
