"""Messages that no honest peer sends: none ends a process or changes the model, and each is counted."""

import json
import random
from dataclasses import replace
from itertools import count

import pytest
from deployment_kit import CONFIG, deployed, train_in_process
from flwr.app import ConfigRecord, Context, Message, RecordDict
from mutations import mutated

from client.deployed import forget_silos, open_deployed_silo
from recsys_fed.federation.inprocess import task_identity
from recsys_fed.federation.run_files import EMBEDDINGS
from recsys_fed.silo.messages import message_counts
from recsys_fed.simulation.flower_engine import load_apps

PLAIN = replace(CONFIG, secure_aggregation="off", minimum_silos=2)
MUTATED = 1_000
OTHERS = ["query.conclude", "query.advertise", "query.unmask"]


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    forget_silos()
    yield deployed(tmp_path_factory.mktemp("federation"), config=PLAIN, simulated=True)
    forget_silos()


class Lying:
    """The ClientApp, but one silo's replies to `train` are changed; 0 is what the others see."""

    def __init__(self, app, seed):
        self.app, self.rng, self.changed = app, random.Random(seed), 0

    def __call__(self, message: Message, context: Context) -> Message:
        reply = self.app(message, context)
        if message.metadata.message_type != "train" or "silo-2" not in str(context.node_config["silo"]):
            return reply
        records = reply.content
        while records == reply.content:
            records = mutated(reply.content, self.rng, noticed=True)
        self.changed += 1
        return Message(records, reply_to=message)


def test_a_lying_silo_is_dropped_and_counted_and_the_model_is_that_of_the_others(there, tmp_path):
    client = load_apps()[1]

    def absent(message, context):
        if message.metadata.message_type == "train" and "silo-2" in str(context.node_config["silo"]):
            raise RuntimeError("not there")
        return client(message, context)

    train_in_process(there, tmp_path / "without", config=PLAIN, app=absent, training="without")
    expected = (tmp_path / "without" / EMBEDDINGS).read_bytes()
    for seed in range(4):
        forget_silos()
        for silo in there.silos:
            start_anew(silo)
        lying = Lying(client, seed)
        train_in_process(there, tmp_path / "lied", config=PLAIN, app=lying, training=f"lied-{seed}")
        totals = json.loads((tmp_path / "lied" / "federation.json").read_text())
        assert lying.changed == 3
        assert len(totals["refused"]) == lying.changed, totals["refused"]
        assert (tmp_path / "lied" / EMBEDDINGS).read_bytes() == expected


def test_no_silo_speaks_for_another(there, tmp_path):
    client = load_apps()[1]

    def impostor(message, context):
        reply = client(message, context)
        if message.metadata.message_type != "train" or "silo-2" not in str(context.node_config["silo"]):
            return reply
        update = ConfigRecord({**reply.content.config_records["update"], "silo": "silo-0"})
        return Message(RecordDict({**reply.content, "update": update}), reply_to=message)

    train_in_process(there, tmp_path / "posed", config=PLAIN, app=impostor, training="posed")
    totals = json.loads((tmp_path / "posed" / "federation.json").read_text())
    assert len(totals["refused"]) == 3
    assert all("greeted from there, got 'silo-0'" in line for line in totals["refused"])


def start_anew(silo):
    """A silo of a simulation keys its noise by the releases in its ledger: without them the run repeats."""
    from recsys_fed.certificates.terms import LedgerTerms
    from recsys_fed.ledger.ledger import Ledger
    from recsys_fed.signing import SigningKey

    for path in (*silo.glob("ledger.sqlite*"), silo / "ledger.witness"):
        key = SigningKey.load(silo / "keys" / "ledger.key")
        terms: LedgerTerms | None = Ledger.open(str(path)).terms() if path.name == "ledger.sqlite" else None
        path.unlink(missing_ok=True)
        if terms is not None:
            Ledger.create(str(path), key=key, terms=terms)


def test_a_thousand_changed_requests_crash_no_silo_and_charge_nothing_that_was_not_answered(there, tmp_path):
    """Refused or, where the change does not matter, answered and charged like any request; never anything else."""
    client, seen = load_apps()[1], []

    def recording(message, context):
        seen.append(message)
        return client(message, context)

    train_in_process(there, tmp_path / "recorded", config=PLAIN, app=recording, training="recorded")
    asked = [message for message in seen if message.metadata.message_type == "train"]
    silo, rng, refused, numbers = open_deployed_silo(there.silos[0]), random.Random(3), 0, count()
    context = Context(1, 2, {"silo": str(there.silos[0])}, RecordDict(), {"training": "hostile"})
    with task_identity(1):
        messages = [
            Message(mutated(rng.choice(asked).content, rng), 2, rng.choice([*["train"] * 3, *OTHERS]))
            for _ in range(MUTATED)
        ]
    for message in messages:
        kind = message.metadata.message_type
        before = silo.ledger.head().number
        with task_identity(1):
            reply = client(message, context)
        charged = silo.ledger.head().number - before
        if reply.has_error():
            refused += 1
            assert charged == 0
            assert str(there.silos[0]) not in reply.error.reason
        else:
            assert charged <= 1
            assert kind == "train", "no other message can be answered with these records"
        next(numbers)
    assert next(numbers) == MUTATED
    assert refused > 0.6 * MUTATED
    counts = message_counts(there.silos[0])
    assert counts.refused.total() + counts.failed.total() == refused
