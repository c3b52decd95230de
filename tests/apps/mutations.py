"""Records of messages with one thing changed, or bytes of chance in their place."""

import random
from collections import OrderedDict

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from recsys_fed.federation.messages import PROTOCOL


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
