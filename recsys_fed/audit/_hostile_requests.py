"""Hostile requests: what a server that lies can send, to silos that differ by one user.

Rules make requests from those of an honest training: any scalar changed, heads that repeat or leave the catalogue,
tables of other shapes, types and sizes, grids and clip norms of any scale, sampling that costs nothing, stages and
rounds in another order, prices and names of other trainings, and requests that are valid but for what is in their
tables. Some are refused, some are answered; nothing may tell the two silos apart (see `neighbouring_silos`).

Broken copies of a silo make three mistakes that a lying server turns into what users have. They are classes of the
ClientApp's own silos, so they exist once the apps are loaded.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from scipy import sparse

from recsys_fed.audit._mechanism import quiet
from recsys_fed.audit._neighbouring_silos import NeighbouringSilos, UserMore
from recsys_fed.audit.checks._noise import maximal_users, silo_of
from recsys_fed.catalogue.items import Catalogue
from recsys_fed.config import FederationConfig
from recsys_fed.federation.messages import Greeting, Request, Update
from recsys_fed.federation.plan import derive_plan
from recsys_fed.federation.release import OnFailure, Randomness, noisy_integers, raise_it
from recsys_fed.federation.schedule import advance_by_sum, begin, request
from recsys_fed.federation.wire import Invitation, invitation_to_records, request_to_records
from recsys_fed.privacy.noise import SeededNoise
from recsys_fed.simulation.flower_engine import load_apps

if TYPE_CHECKING:
    from client.state import SimulatedSilo
NAME = "hostile-requests"
# Requests to one pair of silos before there is a new one.
_A_PAIR = 10
_REPORTED = 5
_FLOATS = (0.0, -0.0, -1.0, 1e-300, 5e-324, 2.0**-998, 2.0**-11, 0.5, 1.0, 2.0, 1e300, math.nan, math.inf, -math.inf)
_INTEGERS = (-(2**31), -1, 0, 1, 2, 3, 100_000, 2**31, 2**62)
_TEXTS = (
    "", "item counts", "co-occurrence", "subspace", "gradient", "local steps", "metrics", "spectral", "dp-sgd",
    "x" * 300,
)  # fmt: skip
_SIZES = (0.0, 1e-45, 1e-38, 1e-20, 1e-3, 1.0, 1e10, 1e20, 3e38)
Rule = Callable[[np.random.Generator, Sequence[Request]], RecordDict]


def _broken_silos() -> "dict[str, type[SimulatedSilo]]":
    """The broken copies by name."""
    load_apps()
    from client.state import SimulatedSilo  # noqa: PLC0415  (there once the apps are loaded)

    class Unvalidated(SimulatedSilo):
        """Any request is answered, whatever it asks for."""

        def check_request(self, request: Request, *, run: str) -> None:
            """Accept it."""

    class ComputesBeforeCharging(SimulatedSilo):
        """What fails is not charged, and says so."""

        def release(self, request: Request, *, run: str, on_failure: OnFailure) -> Update:
            """Look at the users first."""
            self.check_request(request, run=run)
            self.users(run)
            return super().release(request, run=run, on_failure=raise_it)

    class AnyGrid(SimulatedSilo):
        """The grid and the unit of the sum are the server's to choose."""

        def check_request(self, request: Request, *, run: str) -> None:
            """Check all but these two."""
            planned = derive_plan(self.config, self.catalogue, with_features=self._server_has_features()).requests
            if request.round < len(planned):
                known = planned[request.round]
                request = replace(request, grid_step=known.grid_step, l2_clip_norm=known.l2_clip_norm)
            super().check_request(request, run=run)

    return {
        "validation off": Unvalidated,
        "charge after computing": ComputesBeforeCharging,
        "unbounded grid": AnyGrid,
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class _HostileServer:
    """Makes hostile requests from the requests of an honest training."""

    honest: Sequence[Request]

    def make(self, rng: np.random.Generator) -> tuple[str, RecordDict]:
        """One request by a rule that chance chooses, and the rule's name."""
        name = str(rng.choice(sorted(RULES)))
        return name, RULES[name](rng, self.honest)


def hostile_requests(
    config: FederationConfig,
    catalogue: Catalogue,
    ordinary: sparse.csr_matrix,
    *,
    count: int,
    seed: int,
    silo: "Callable[..., SimulatedSilo] | None" = None,
    until_found: bool = False,
) -> dict[str, Any]:
    """Send `count` hostile requests to pairs of neighbouring silos; the record of what was tried and found.

    Args:
        config: what the silos agreed to, settled.
        catalogue: public.
        ordinary: csr [n_users, n_items], the users whom both silos of a pair have.
        count: of requests; each goes to both silos.
        seed: of the rules' choices.
        silo: makes a silo; the deployed kind by default.
        until_found: stop at the first breach, as to show that a broken copy is caught.
    """
    rng = np.random.default_rng([seed, 105])
    server, rules = _HostileServer(honest=_honest_requests(config, catalogue, ordinary)), Counter[str]()
    pairs: list[NeighbouringSilos] = []
    more, made = (
        _neighbours(ordinary),
        partial(
            NeighbouringSilos, config=config, catalogue=catalogue, ordinary=ordinary, silo=silo or _deployed_kind()
        ),
    )
    with TemporaryDirectory() as folder:
        for number in range(count):
            if number % _A_PAIR == 0:
                pairs.append(made(more=more[len(pairs) % len(more)], folder=Path(folder) / f"{len(pairs)}"))
                pairs[-1].ask("query", invitation_to_records(Invitation()))
            name, records = server.make(rng)
            rules[name] += 1
            # Where the plan has masked rounds, two requests in three come within one.
            pairs[-1].ask("train", records, run=_run(rng), masked=bool(rng.random() < 2 / 3))
            if until_found and pairs[-1].breaches:
                break
    return _record(pairs, rules)


def _deployed_kind() -> "type[SimulatedSilo]":
    load_apps()
    from client.state import SimulatedSilo  # noqa: PLC0415  (there once the apps are loaded)

    return SimulatedSilo


def _record(pairs: Sequence[NeighbouringSilos], rules: Counter[str]) -> dict[str, Any]:
    breaches = [breach for pair in pairs for breach in pair.breaches]
    return {
        "name": NAME,
        "tried": rules.total(),
        "pairs_of_silos": len(pairs),
        "users_more": sorted({pair.more.name for pair in pairs}),
        "rules": dict(sorted(rules.items())),
        "answered": sum(pair.answered for pair in pairs),
        "refused": sum(pair.refused for pair in pairs),
        "largest_move": max(pair.largest for pair in pairs),
        "breached": len(breaches),
        "breaches": breaches[:_REPORTED],
        "found": _sentence(rules.total(), len(breaches)),
    }


def _sentence(tried: int, breached: int) -> str:
    if not breached:
        return f"Two silos that differ by one user were asked {tried} hostile requests; nothing told them apart."
    return f"Two silos that differ by one user were told apart in {breached} ways by {tried} hostile requests."


def broken_copies_caught(
    config: FederationConfig, catalogue: Catalogue, ordinary: sparse.csr_matrix, *, count: int, seed: int
) -> dict[str, bool]:
    """Whether each broken copy of a silo is told from one that is right."""
    found = {}
    for name, kind in _broken_silos().items():
        record = hostile_requests(config, catalogue, ordinary, count=count, seed=seed, silo=kind, until_found=True)
        found[name] = bool(record["breached"])
    return found


def _honest_requests(
    config: FederationConfig, catalogue: Catalogue, ordinary: sparse.csr_matrix
) -> tuple[Request, ...]:
    """The requests of a training on these users, with the tables that follow from their sums."""
    greeting = Greeting(silo="server", catalogue_hash=catalogue.content_hash, n_items=catalogue.n_items)
    schedule = begin(config, greeting, catalogue if config.catalogue else None)
    randomness = Randomness(noise=SeededNoise(106), sampling=SeededNoise(107))
    asked = []
    while schedule.round < len(schedule.stages):
        asked.append(request(schedule))
        integers = noisy_integers(
            quiet(asked[-1]), schedule.trainer, lambda: silo_of(ordinary), randomness=randomness
        )
        schedule = advance_by_sum(schedule, asked[-1], integers, n_silos=config.silos)
    return tuple(asked)


def _neighbours(ordinary: sparse.csr_matrix) -> tuple[UserMore, ...]:
    """Users of whom one more is in the second silo."""
    found = [UserMore(name=name, history=history) for name, history in maximal_users(ordinary).items()]
    n_items = ordinary.shape[1]
    seen = np.asarray(ordinary.sum(axis=0)).ravel()
    rare = sparse.csr_matrix(([1.0], ([0], [int(np.argmin(seen))])), shape=(1, n_items), dtype=np.float32)
    nothing = sparse.csr_matrix((1, n_items), dtype=np.float32)
    found += [UserMore(name="who alone has an item", history=rare), UserMore(name="without items", history=nothing)]
    return (UserMore(name="who cannot be read", history=rare, readable=False), *reversed(found))


def _run(rng: np.random.Generator) -> str:
    """Mostly a training of its own, so that no earlier round is in the way; also one that goes on, or no name."""
    return str(rng.choice([f"training-{rng.integers(1000)}", "training", "../x"], p=[0.6, 0.35, 0.05]))


def _choose(rng: np.random.Generator, requests: Sequence[Request]) -> Request:
    return requests[int(rng.integers(len(requests)))]


def _honest(rng: np.random.Generator, requests: Sequence[Request]) -> RecordDict:
    return request_to_records(_choose(rng, requests))


def _scalar(rng: np.random.Generator, requests: Sequence[Request]) -> RecordDict:
    """One value of the message changed, to one of the same type or of another."""
    records = _honest(rng, requests)
    config = _config(records)
    for _ in range(int(rng.integers(1, 3))):
        key = str(rng.choice(sorted(config)))
        config[key] = _other(rng, config[key])
    return _with_config(records, config)


def _other(rng: np.random.Generator, value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    pool: Sequence[Any] = _INTEGERS if isinstance(value, int) else _FLOATS if isinstance(value, float) else _TEXTS
    if rng.random() < 0.3 and isinstance(value, float):
        return value * float(rng.choice([0.5, 1 - 1e-4, 1 + 1e-4, 2.0, 1e-6]))
    if rng.random() < 0.1:
        pool = (*_INTEGERS, *_TEXTS, b"\0", True)
    return pool[int(rng.integers(len(pool)))]


def _scales(rng: np.random.Generator, requests: Sequence[Request]) -> RecordDict:
    """Clip norm and grid step moved together, so that the noise looks as it should: mostly to where floats end."""
    records = _honest(rng, requests)
    config = _config(records)
    kind = int(rng.integers(3))
    if kind == 0:
        # One over the grid step is infinite: whoever has an item moves its entry to the end of the integers.
        norm, step = 2.0**-998, 2.0**-1009
    elif kind == 1:
        # Sums overflow from so many users on.
        norm = 1.79e308 / float(rng.choice([1.5, 3.0, 4.5, 20.0]))
        step = 2.0 ** math.floor(math.log2(norm / 2048))
    else:
        scale = 2.0 ** int(rng.integers(-900, 900))
        norm, step = config["l2_clip_norm"] * scale, config["grid_step"] * scale
    return _with_config(records, config | {"l2_clip_norm": norm, "grid_step": step})


def _sampling(rng: np.random.Generator, requests: Sequence[Request]) -> RecordDict:
    """Samples so small that they seem to cost nothing."""
    records = _honest(rng, requests)
    config = _config(records)
    config |= {
        "sampling_probability": float(rng.choice([1e-12, 1e-9, 1e-3])),
        "steps": int(rng.choice([1, 20, 100_000])),
        "noise_multiplier": float(rng.choice([0.05, 0.5, config["noise_multiplier"]])),
    }
    return _with_config(records, config)


def _order(rng: np.random.Generator, requests: Sequence[Request]) -> RecordDict:
    """The tables and the stage of one round under the number of another."""
    return request_to_records(replace(_choose(rng, requests), round=int(rng.integers(0, len(requests) + 2))))


def _price(rng: np.random.Generator, requests: Sequence[Request]) -> RecordDict:
    """Another epsilon for the same noise."""
    records = _honest(rng, requests)
    config = _config(records)
    factor = float(rng.choice([0.0, 0.5, 1.0001, 2.0, math.inf, math.nan, -1.0]))
    return _with_config(records, config | {"epsilon": config["epsilon"] * factor})


def _head(rng: np.random.Generator, requests: Sequence[Request]) -> RecordDict:
    """A head that is not what it should be."""
    records = _honest(rng, requests)
    arrays = _arrays(records)
    if "head" not in arrays:
        return records
    head, n_items = arrays["head"].copy(), int(rng.integers(1, 2**31))
    changes: list[Callable[[], np.ndarray]] = [
        lambda: np.full_like(head, head[0]),
        lambda: np.repeat(head, 4)[: len(head)],
        lambda: head - len(head) - n_items,
        head[::-1].copy,
        lambda: head + n_items,
        lambda: head.astype(np.float32),
        lambda: np.concatenate([head, head]),
        lambda: head[:-1],
        lambda: rng.permutation(head),
    ]
    return _with_arrays(records, arrays | {"head": changes[int(rng.integers(len(changes)))]()})


def _shapes(rng: np.random.Generator, requests: Sequence[Request]) -> RecordDict:
    """Tables with rows too many or too few, more tables, fewer tables; the shape of the answer as well."""
    records = _honest(rng, requests)
    arrays = _arrays(records)
    config = _config(records)
    if rng.random() < 0.3:
        config["rows"], config["columns"] = config["columns"], config["rows"]
    if arrays:
        name = str(rng.choice(sorted(arrays)))
        table = arrays[name]
        changes: list[Callable[[], dict[str, np.ndarray]]] = [
            lambda: {**arrays, name: np.concatenate([table, table[-1:]])},
            lambda: {**arrays, name: table[:-1]},
            lambda: {**arrays, name: table[:0]},
            lambda: {**arrays, name: np.ascontiguousarray(table.T)},
            lambda: {**arrays, name: table[None]},
            lambda: {**arrays, "more": table},
            lambda: {other: arrays[other] for other in arrays if other != name},
        ]
        arrays = changes[int(rng.integers(len(changes)))]()
    return _with_config(_with_arrays(records, arrays), config)


def _values(rng: np.random.Generator, requests: Sequence[Request]) -> RecordDict:
    """Tables with values that no server's arithmetic gives: not finite, or of a type that holds more."""
    records = _honest(rng, requests)
    arrays = _arrays(records)
    names = [name for name, table in arrays.items() if table.dtype == np.float32]
    if not names:
        return records
    name = str(rng.choice(sorted(names)))
    table = arrays[name].copy()
    if rng.random() < 0.4:
        return _with_arrays(records, arrays | {name: np.full(table.shape, 1e300)})
    table.flat[int(rng.integers(table.size))] = rng.choice([np.nan, np.inf, -np.inf])
    return _with_arrays(records, arrays | {name: table})


def _tables(rng: np.random.Generator, requests: Sequence[Request]) -> RecordDict:
    """A valid request whose tables are made to make sums, norms and scores fail: sizes, signs, cancellation."""
    records = _honest(rng, requests)
    arrays = _arrays(records)
    for name, table in arrays.items():
        if table.dtype == np.float32 and table.size and rng.random() < 0.8:
            arrays[name] = _extreme(rng, table)
    return _with_arrays(records, arrays)


def _extreme(rng: np.random.Generator, table: np.ndarray) -> np.ndarray:
    made = table.copy()
    kind = int(rng.integers(6))
    if kind == 0:
        made[...] = rng.choice(_SIZES) * rng.choice([-1.0, 1.0])
    elif kind == 1:
        made[: int(rng.integers(1, len(made) + 1))] *= np.float32(rng.choice(_SIZES))
    elif kind == 2:
        made[...] = made[:1] * (1 + 1e-7 * rng.standard_normal(made.shape))
    elif kind == 3:
        made[...] = np.sign(rng.standard_normal(made.shape)) * 10.0 ** rng.uniform(-44, 38, made.shape)
    elif kind == 4:
        # Scores of the history far above, or below, all others.
        some = int(rng.integers(1, len(made) + 1))
        made[...] = 0
        made.reshape(len(made), -1)[:some, 0] = np.exp(rng.normal())
        made.reshape(len(made), -1)[some:, 0] = -np.exp(rng.normal()) * rng.uniform(0, 12)
    else:
        made[...] = 0
        made.flat[int(rng.integers(made.size))] = rng.choice(_SIZES)
    return np.asarray(np.clip(made, -3.4e38, 3.4e38), dtype=np.float32)


def _config(records: RecordDict) -> dict[str, Any]:
    return dict(records.config_records["request"])


def _arrays(records: RecordDict) -> dict[str, np.ndarray]:
    return {name: array.numpy() for name, array in records.array_records["tables"].items()}


def _with_arrays(records: RecordDict, arrays: dict[str, np.ndarray]) -> RecordDict:
    tables = ArrayRecord({name: Array(np.ascontiguousarray(table)) for name, table in arrays.items()})
    return RecordDict({"tables": tables, "request": records["request"]})


def _with_config(records: RecordDict, config: dict[str, Any]) -> RecordDict:
    return RecordDict({"tables": records["tables"], "request": ConfigRecord(config)})


RULES: dict[str, Rule] = {
    "an honest request": _honest,
    "any scalar": _scalar,
    "clip norm and grid": _scales,
    "sampling that costs nothing": _sampling,
    "another order": _order,
    "another price": _price,
    "a head that repeats, leaves the catalogue or is out of order": _head,
    "other shapes": _shapes,
    "values that are not finite": _values,
    "valid tables of hostile values": _tables,
}
