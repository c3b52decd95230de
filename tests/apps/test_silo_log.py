"""A silo notes every message of the server in one line, and nothing that a server could smuggle into it."""

import json
from dataclasses import replace

import pytest
from deployment_kit import CONFIG, deployed, train_in_process
from flwr.app import ConfigRecord, Context, Message, RecordDict

from client.deployed import forget_silos
from recsys_fed.federation.inprocess import task_identity
from recsys_fed.silo.messages import FILE, message_counts
from recsys_fed.simulation.flower_engine import load_apps

PLAIN = replace(CONFIG, secure_aggregation="off")
SMUGGLED = "anything-that-a-server-writes"


@pytest.fixture
def there(tmp_path):
    forget_silos()
    yield deployed(tmp_path, config=PLAIN, simulated=True)
    forget_silos()


def ask(silo, records, *, kind="train", training="a-training"):
    context = Context(1, 2, {"silo": str(silo)}, RecordDict(), {"training": training})
    with task_identity(1):
        return load_apps()[1](Message(records, 2, kind), context)


def lines_of(silo):
    return [json.loads(line) for line in (silo / FILE).read_text().splitlines()]


def test_a_training_is_a_line_a_message(there, tmp_path):
    train_in_process(there, tmp_path / "training", config=PLAIN)
    for silo in there.silos:
        lines = lines_of(silo)
        assert [line["message"] for line in lines] == ["greet", "train", "train", "train", "conclude"]
        assert {(line["event"], line["training"]) for line in lines} == {("message answered", "a-training")}
        assert [line.get("round") for line in lines] == [None, 1, 2, 3, None]
        counts = message_counts(silo)
        assert counts.answered == {"greet": 1, "train": 3, "conclude": 1}
        assert (counts.refused.total(), counts.failed.total(), counts.last) == (0, 0, lines[-1]["time"])


def test_refusals_and_failures_are_told_apart_and_repeat_nothing(there):
    silo = there.silos[0]
    strange = RecordDict({"request": ConfigRecord({"round": SMUGGLED, "stage": SMUGGLED, SMUGGLED: 1})})
    assert ask(silo, strange).has_error()
    assert ask(silo, RecordDict(), training=f"../{SMUGGLED}").has_error()
    assert ask(
        silo, RecordDict({"conclusion": ConfigRecord({"protocol": 1, "content": b"x"})}), kind="query.conclude"
    )
    # The silo's own trouble: a ledger that is gone.
    forget_silos()
    (silo / "ledger.sqlite").rename(silo / "away")
    assert ask(silo, RecordDict(), kind="query").error.reason.endswith("in its own log")
    counts = message_counts(silo)
    assert counts.refused == {"ProtocolError": 3}
    assert counts.failed.total() == 1
    assert SMUGGLED not in (silo / FILE).read_text()
    assert str(silo) not in (silo / FILE).read_text()


def test_a_line_that_a_power_failure_cut_short_is_passed_over(there):
    silo = there.silos[0]
    ask(silo, RecordDict(), kind="query")
    whole = (silo / FILE).read_text()
    (silo / FILE).write_text(f"{whole}\x00\x00\n[1]\n" + whole[:20])
    assert message_counts(silo).answered == {"greet": 1}
    assert message_counts(there.silos[1]).last == ""


def test_a_silo_that_cannot_write_its_log_answers_all_the_same(there):
    silo = there.silos[0]
    (silo / FILE).mkdir()
    assert not ask(silo, RecordDict(), kind="query").has_error()
