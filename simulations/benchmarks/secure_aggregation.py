"""Processor time of a round of secure aggregation, of one silo and of the server, without transport.

Process CPU time of the calls alone; silos run in turn. Signatures that one silo has checked are checked again by the
next one, as they are in silos of their own. Beside it the same work with the primitives of Flower's SecAgg+.
"""

import hashlib
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common import ndarray_to_bytes
from flwr.common.secure_aggregation.crypto.shamir import create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import decrypt, encrypt, generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import parameters_addition, parameters_mod
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen, share_keys_plaintext_concat

from recsys_fed.federation.secure_aggregation import envelope, server, silo
from recsys_fed.federation.secure_aggregation.server import unmasked_sum
from recsys_fed.federation.secure_aggregation.terms import AcceptedTerms, RoundTerms
from recsys_fed.signing import SigningKey
from simulations.benchmarks.line import Line

ITEMS, DIM, SILOS, BITS = 27_000, 32, 10, 33
REPETITIONS = 3
T = TypeVar("T")


@dataclass(kw_only=True)
class Stopwatch:
    """Adds up process CPU seconds by party."""

    seconds: dict[str, float] = field(default_factory=dict)

    def measure(self, party: str, work: Callable[..., T], *arguments: object) -> T:
        """Run and count."""
        envelope.forget_checked_signatures()
        start = time.process_time()
        result = work(*arguments)
        self.seconds[party] = self.seconds.get(party, 0.0) + time.process_time() - start
        return result


@dataclass(frozen=True, kw_only=True)
class Cost:
    """CPU seconds of a round: of the slowest silo and of the server; and bytes of a masked input over int32."""

    silo: float
    server: float
    bytes_ratio: float


def secure_aggregation_lines() -> list[Line]:
    """The round that the bars are for, growth with silos, items and dropouts, and Flower's primitives."""
    pairs = [(measure_cost(silos=SILOS, entries=ITEMS * DIM), flower_silo_seconds()) for _ in range(REPETITIONS)]
    base = median_of([cost for cost, _ in pairs])
    flower = statistics.median(seconds for _, seconds in pairs)
    lines = [
        Line(name=f"silo, {SILOS} silos, {ITEMS:,} items, d={DIM}", value=base.silo, unit="CPU s", bar=1.0),
        Line(name="server, the same round", value=base.server, unit="CPU s", bar=3.0),
        Line(name="bytes of a masked input over int32", value=base.bytes_ratio, unit="times", bar=1.25),
    ]
    for dropouts in (1, 3):
        cost = median_cost(silos=SILOS, entries=ITEMS * DIM, dropouts=dropouts)
        lines += _both(f"{dropouts} of {SILOS} silos drop out after sharing", cost)
    for silos in (5, 20, 50, 100):
        lines += _both(f"{silos} silos", measure_cost(silos=silos, entries=ITEMS * DIM))
    for items in (3_706, 100_000):
        lines += _both(f"{items:,} items", median_cost(silos=SILOS, entries=items * DIM))
    return [
        *lines,
        Line(name="a silo's work with Flower's SecAgg+ primitives", value=flower, unit="CPU s"),
        Line(
            name="our silo over Flower's primitives",
            value=statistics.median(cost.silo / seconds for cost, seconds in pairs),
            unit="times",
        ),
    ]


def median_cost(**size: int) -> Cost:
    """Medians of some rounds."""
    return median_of([measure_cost(**size) for _ in range(REPETITIONS)])


def median_of(costs: list[Cost]) -> Cost:
    """The median of each figure."""
    return Cost(
        silo=statistics.median(cost.silo for cost in costs),
        server=statistics.median(cost.server for cost in costs),
        bytes_ratio=costs[0].bytes_ratio,
    )


def measure_cost(*, silos: int, entries: int, dropouts: int = 0) -> Cost:
    """One round, in which the last silos drop out after they sent their shares.

    Raises:
        ArithmeticError: the sum is not right, so that there is nothing to measure.
    """
    keys = sorted((SigningKey.generate() for _ in range(silos)), key=lambda key: key.public_key)
    terms = RoundTerms(
        run="benchmark",
        round=0,
        request=hashlib.sha256().hexdigest(),
        silos=tuple(key.public_key for key in keys),
        threshold=max(silos * 7 // 10, silos // 2 + 1),
        colluding=0,
        entries=entries,
        bits=BITS,
    )
    inputs = np.random.default_rng(0).integers(-(2**20), 2**20, size=(silos, entries))
    watch, alive = Stopwatch(), range(silos - dropouts)
    total, size = _round(terms, keys, inputs, alive, watch)
    if not np.array_equal(total, inputs[: len(alive)].sum(0)):
        raise ArithmeticError("The unmasked sum is not the plain sum of the survivors' integers.")
    slowest = max(watch.seconds[f"silo {i}"] for i in alive)
    return Cost(silo=slowest, server=watch.seconds["server"], bytes_ratio=size / (4 * entries))


def _round(
    terms: RoundTerms, keys: list[SigningKey], inputs: np.ndarray, alive: Iterable[int], watch: Stopwatch
) -> tuple[np.ndarray, int]:
    """The sum, and the bytes of a masked input."""
    accepted = AcceptedTerms(admitted=frozenset(terms.silos), least_contributors=terms.contributors)
    everybody = range(len(keys))
    first = [watch.measure(f"silo {i}", silo.advertise, terms, keys[i], accepted) for i in everybody]
    collected, roster = watch.measure("server", server.collect_keys, terms, [message for _, message in first])
    second = [watch.measure(f"silo {i}", silo.share, first[i][0], keys[i], roster) for i in everybody]
    sorted_, deliveries = watch.measure("server", server.collect_shares, collected, [m for _, m in second])
    third = []
    for i in alive:
        ready = watch.measure(f"silo {i}", silo.receive, second[i][0], keys[i], deliveries[keys[i].public_key])
        third.append(watch.measure(f"silo {i}", silo.mask, ready, keys[i], inputs[i]))
    summed, survivors = watch.measure("server", server.collect_inputs, sorted_, [m for _, m in third])
    fourth = [watch.measure(f"silo {i}", silo.confirm, third[i][0], keys[i], survivors) for i in alive]
    confirmed, signed = watch.measure("server", server.collect_confirmations, summed, [m for _, m in fourth])
    fifth = [watch.measure(f"silo {i}", silo.unmask, fourth[i][0], keys[i], signed) for i in alive]
    return watch.measure("server", unmasked_sum, confirmed, fifth), len(third[0][1])


def flower_silo_seconds() -> float:
    """What a silo of the same round does in SecAgg+ with Flower's functions: keys, shares, masks, bytes."""
    peers = [ec.generate_private_key(ec.SECP384R1()) for _ in range(SILOS - 1)]
    vector = [np.zeros((ITEMS, DIM), dtype=np.int64)]
    start = time.process_time()
    sealing, masking = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    shares = [create_shares(bytes(size), SILOS * 7 // 10, SILOS) for size in (32, 306)]
    for number, peer in enumerate(peers):
        key = generate_shared_key(sealing, peer.public_key())
        plain = share_keys_plaintext_concat(0, number + 1, shares[0][number], shares[1][number])
        decrypt(key, encrypt(key, plain))
    seeds = [bytes(32), *(generate_shared_key(masking, peer.public_key()) for peer in peers)]
    for seed in seeds:
        vector = parameters_addition(vector, pseudo_rand_gen(seed, 2**BITS, [(ITEMS, DIM)]))
    for array in parameters_mod(vector, 2**BITS):
        ndarray_to_bytes(array)
    return time.process_time() - start


def _both(name: str, cost: Cost) -> list[Line]:
    return [
        Line(name=f"{name}: silo", value=cost.silo, unit="CPU s"),
        Line(name=f"{name}: server", value=cost.server, unit="CPU s"),
    ]
