"""Messages that no honest peer sends: none ends a process or changes the model, and each is counted."""

import json
import random
from collections import OrderedDict
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from deployment_kit import CONFIG, deployed, train_in_process
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from client.deployed import forget_silos, open_deployed_silo
from recsys_fed.federation.inprocess import _task_identity
from recsys_fed.federation.outcome import EMBEDDINGS
from recsys_fed.federation.update import PROTOCOL
from recsys_fed.simulation.apps import load_apps

PLAIN = replace(CONFIG, secure_aggregation="off", minimum_silos=2)
MUTATED = 1_000
OTHERS = ["query.conclude", "query.advertise", "query.unmask"]


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    forget_silos()
    yield deployed(tmp_path_factory.mktemp("federation"), config=PLAIN, simulated=True)
    forget_silos()


def mutated(records: RecordDict, rng: random.Random, *, noticed: bool = False) -> RecordDict:
    """Records with one thing changed, or bytes of chance; `noticed`: not one number within the noise, nor a nonce."""
    kind = rng.randrange(7)
    if kind == 0:
        return RecordDict()
    if kind == 1:
        return RecordDict({**records, "more": MetricRecord({"users": rng.randrange(1000)})})
    if kind == 2:
        return RecordDict({"conclusion": ConfigRecord({"protocol": PROTOCOL, "content": rng.randbytes(200)})})
    changed = dict(records.items())
    name = rng.choice(sorted(changed))
    if name in records.array_records:
        changed[name] = _mutated_arrays(records.array_records[name], rng, noticed=noticed)
    else:
        changed[name] = _mutated_config(records.config_records[name], rng, noticed=noticed)
    return RecordDict(changed)


def _mutated_arrays(record: ArrayRecord, rng: random.Random, *, noticed: bool) -> ArrayRecord:
    name = rng.choice(sorted(record)) if record else "total"
    found = record[name] if record else Array(np.zeros((1, 1), dtype=np.int32))
    data = bytearray(found.data)
    choice = rng.randrange(int(noticed), 6)
    if choice == 0:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif choice == 1:
        data = data[: rng.randrange(len(data))]
    elif choice == 2:
        data = bytearray(rng.randbytes(rng.randrange(300)))
    values = found.numpy()
    arrays = {
        3: lambda: Array(values.astype(np.float64)),
        4: lambda: Array(np.full_like(values, np.iinfo(np.int32).max if values.dtype == np.int32 else np.nan)),
        5: lambda: Array(np.concatenate([values, values])),
    }
    made = arrays[choice]() if choice in arrays else Array(found.dtype, found.shape, found.stype, bytes(data))
    return ArrayRecord(OrderedDict({**{n: record[n] for n in record}, name: made}))


def _mutated_config(record: ConfigRecord, rng: random.Random, *, noticed: bool) -> ConfigRecord:
    config = dict(record)
    key = rng.choice(sorted(set(config) - ({"nonce"} if noticed else set())))
    choice = rng.randrange(5)
    if choice == 0:
        del config[key]
    elif choice == 1:
        config[key] = rng.choice([-1, 0, 10**9, float("nan"), float("inf"), "", "x" * 5000, b"\0", True, [1, 2]])
    elif choice == 2:
        config["another"] = rng.randrange(10)
    elif choice == 3:
        config["protocol"] = rng.choice([0, PROTOCOL + 1, "1", PROTOCOL + 0.5])
    else:
        config[key] = f"{config[key]}x" if isinstance(config[key], str) else "text"
    return ConfigRecord(config)


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
    for seed in range(8):
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
    from recsys_fed.certificates.terms import Terms
    from recsys_fed.ledger.ledger import Ledger
    from recsys_fed.signing.keys import SigningKey

    for path in (*silo.glob("ledger.sqlite*"), silo / "ledger.witness"):
        key = SigningKey.load(silo / "keys" / "ledger.key")
        terms: Terms | None = Ledger.open(str(path)).terms() if path.name == "ledger.sqlite" else None
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
    with _task_identity(1):
        messages = [
            Message(mutated(rng.choice(asked).content, rng), 2, rng.choice([*["train"] * 3, *OTHERS]))
            for _ in range(MUTATED)
        ]
    for message in messages:
        kind = message.metadata.message_type
        before = silo.ledger.head().number
        with _task_identity(1):
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
