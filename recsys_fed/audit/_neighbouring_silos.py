"""Two silos that differ by one user, asked the same by a server that may lie: every difference that leaves is noted.

The silos are the real ones behind the real ClientApp, each with a ledger of its own, and messages are Flower's. What
is compared of two answers is whether one came, the text of a refusal, the names, types and sizes of all that is in
it, and both ledgers, entry by entry. Of an answer that came the sums before the noise are compared as well.
"""

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
from flwr.app import Context, Message, RecordDict
from scipy import sparse

from recsys_fed.audit._mechanism import quiet
from recsys_fed.audit.checks._noise import silo_of
from recsys_fed.catalogue.items import Catalogue
from recsys_fed.certificates.terms import LedgerTerms
from recsys_fed.config import FederationConfig
from recsys_fed.errors import ProtocolError, RecsysFedError
from recsys_fed.federation.inprocess import task_identity
from recsys_fed.federation.messages import Request
from recsys_fed.federation.noise_split import masking_of, round_terms
from recsys_fed.federation.release import Randomness, SiloUsers, bounded_sum, noisy_integers
from recsys_fed.federation.secure_aggregation import server as masked_server
from recsys_fed.federation.secure_aggregation import silo as masked_silo
from recsys_fed.federation.secure_aggregation.terms import AcceptedTerms
from recsys_fed.federation.wire import blob_from_records, blob_to_records, payload_bytes, request_from_records
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.privacy.guarantee import guarantee_of
from recsys_fed.privacy.noise import SeededNoise
from recsys_fed.signing import SigningKey
from recsys_fed.simulation.flower_engine import load_apps
from recsys_fed.trainers.registry import configured_trainer

if TYPE_CHECKING:
    from client.state import SimulatedSilo
# Room for several trainings, so that it is not the limit that refuses.
_TRAININGS = 20
_NAME, _NODE = "silo-0", 2
_SPREAD = 1e-9
# Of an answer, what differs between any two silos and is compared by its length: keys, signatures, masked words.
_OWN = ("signature", "public_key", "content")


@dataclass(frozen=True, kw_only=True, eq=False)
class UserMore:
    """The one user that the second silo has besides; `readable` says whether reading that silo succeeds.

    Whether reading fails may not show in an answer. That it does not follow from one user's rows is not this
    check's business, but that of neighbouring files.
    """

    name: str
    history: sparse.csr_matrix
    readable: bool = True


@dataclass(kw_only=True, eq=False)
class NeighbouringSilos:
    """Both silos, what was asked of them, and what was found.

    Attributes:
        config: what they agreed to, settled.
        catalogue: public.
        ordinary: csr, the users of both.
        more: who is in the second one only.
        folder: for the ledgers.
        silo: makes a silo; a broken copy's class in its place shows what is seen.
    """

    config: FederationConfig
    catalogue: Catalogue
    ordinary: sparse.csr_matrix
    more: UserMore
    folder: Path
    silo: "Callable[..., SimulatedSilo]"
    answered: int = 0
    refused: int = 0
    largest: float = 0.0
    breaches: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        load_apps()
        together = sparse.vstack([self.ordinary, self.more.history], format="csr")
        reading: list[Callable[[], SiloUsers]] = [partial(silo_of, self.ordinary), partial(silo_of, together)]
        if not self.more.readable:
            reading[1] = _unreadable
        masked = masking_of(self.config)
        self._helpers = [SigningKey.generate() for _ in range(masked.threshold - 1)] if masked else []
        self._pair = [self._open(number, read) for number, read in enumerate(reading)]
        self._contexts: dict[tuple[int, str], Context] = {}

    def ask(self, kind: str, records: RecordDict, *, run: str = "training", masked: bool = False) -> bool:
        """Send both the same message and note what differs; returns whether it was answered.

        With `masked`, a request of a masked round comes after keys and shares of that round: its other silos and its
        server do all that the request needs, lies included.
        """
        request = self._as_request(records) if kind == "train" else None
        sent: list[RecordDict | None] = [records, records]
        if masked and request is not None and request.masked:
            sent = [self._with_delivery(number, request, records, run=run) for number in (0, 1)]
            self._note("a masked round without keys or shares", *(one is None for one in sent))
        replies = [self._answer(number, kind, one, run=run) for number, one in enumerate(sent) if one is not None]
        good = len(replies) == len(self._pair) and not replies[0].has_error()
        self.answered, self.refused = self.answered + good, self.refused + (not good)
        if len(replies) == len(self._pair):
            self._note(f"answer to {kind}", *map(_visible_parts, replies))
        self._note("ledger", *(_charges(silo.ledger) for silo in self._pair))
        if good and request is not None and self.more.readable:
            self._compare_sums(request, run=run)
        return good

    def _open(self, number: int, read: Callable[[], SiloUsers]) -> "SimulatedSilo":
        key = SigningKey.generate()
        guarantee = replace(guarantee_of(self.config), epsilon=_TRAININGS * self.config.epsilon)
        terms = LedgerTerms(
            silo=_NAME,
            public_key=key.public_key,
            guarantee=guarantee,
            declared_users=self.config.declared_users,
            simulated=True,
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        ledger = Ledger.create(str(self.folder / f"{number}.sqlite"), key=key, terms=terms, durable=False)
        masking = masking_of(self.config)
        admitted = frozenset({key.public_key, *(helper.public_key for helper in self._helpers)})
        return self.silo(
            name=_NAME,
            index=0,
            config=self.config,
            catalogue=self.catalogue,
            read=read,
            ledger=ledger,
            key=key,
            accepted=AcceptedTerms(
                admitted=admitted, least_contributors=masking.contributors, least_colluding=masking.colluding
            )
            if masking
            else None,
        )

    def _answer(self, number: int, kind: str, records: RecordDict, *, run: str) -> Message:
        context = self._contexts.setdefault((number, run), Context(1, _NODE, {}, RecordDict(), {"training": run}))
        with _opening(self._pair[number]), task_identity(1):
            reply: Message = load_apps()[1](Message(records, _NODE, kind), context)
            return reply

    def _compare_sums(self, request: Request, *, run: str) -> None:
        """What two answers hold before the noise: as sums in clip norms, and as integers in sensitivities."""
        asked, trainer = quiet(request), configured_trainer(self.config)
        users = [partial(silo.users, run) for silo in self._pair]
        if not asked.noise_inside:
            sums = [_sum_of(asked, trainer, read) for read in users]
            # In clip norms before it is squared: they may be as large as floats are. What is not finite is a breach.
            with np.errstate(over="ignore", invalid="ignore"):
                self._distance("sum", float(np.linalg.norm((sums[1] - sums[0]) / request.l2_clip_norm)))
        integers = [
            noisy_integers(asked, trainer, read, randomness=_fix_streams(), on_failure=lambda _: None)
            for read in users
        ]
        moved = float(np.linalg.norm((integers[1] - integers[0]).astype(np.float64)))
        self._distance("rounded sum", moved / asked.mechanism.sensitivity)

    def _distance(self, what: str, distance: float) -> None:
        self.largest = max(self.largest, distance) if np.isfinite(distance) else float("inf")
        if not distance <= 1 + _SPREAD:
            self.breaches.append(f"{what}: one user moves it by {distance:.4g} of what the noise is scaled to")

    def _note(self, what: str, one: object, other: object) -> None:
        if one != other:
            self.breaches.append(f"{what} differs: {one!r:.200} and {other!r:.200}")

    def _as_request(self, records: RecordDict) -> Request | None:
        try:
            return request_from_records(RecordDict({name: records[name] for name in ("tables", "request")}))
        except (ProtocolError, KeyError):
            return None

    def _with_delivery(self, number: int, request: Request, records: RecordDict, *, run: str) -> RecordDict | None:
        """Keys and shares of an attempt at a masked round; None where the silo or the protocol refuses."""
        own = self._pair[number].key
        keys = [own.public_key, *(helper.public_key for helper in self._helpers)]
        try:
            terms = round_terms(request, run=run, silos=keys, declared_users=self.config.declared_users)
        except RecsysFedError:
            return None
        accepted = AcceptedTerms(admitted=frozenset(keys), least_contributors=1)
        others = {key: masked_silo.advertise(terms, key, accepted) for key in self._helpers}
        reply = self._answer(number, "query.advertise", blob_to_records("terms", terms.to_bytes()), run=run)
        if reply.has_error():
            return None
        advertised = [blob_from_records("keys", reply.content), *(message for _, message in others.values())]
        collected, roster = masked_server.collect_keys(terms, advertised)
        shared = [masked_silo.share(state, key, roster)[1] for key, (state, _) in others.items()]
        reply = self._answer(number, "query.share", blob_to_records("roster", roster), run=run)
        if reply.has_error():
            return None
        _, deliveries = masked_server.collect_shares(collected, [blob_from_records("shares", reply.content), *shared])
        return RecordDict({**records, **blob_to_records("delivery", deliveries[own.public_key])})


def _unreadable() -> SiloUsers:
    raise ValueError("a row that no reader understands")


def _sum_of(request: Request, trainer: Any, read: Callable[[], SiloUsers]) -> Any:
    """As a silo forms it: where it fails, that of nobody."""
    try:
        total = bounded_sum(request, trainer, read(), randomness=_fix_streams())
        return np.asarray(total.double().cpu())
    except Exception:  # noqa: BLE001  (a silo does the same, whatever it is)
        return np.zeros(request.shape)


def _fix_streams() -> Randomness:
    """The same streams for both silos: what differs then comes from the user."""
    return Randomness(noise=SeededNoise(103), sampling=SeededNoise(104))


def _visible_parts(reply: Message) -> Mapping[str, object]:
    """All of a reply that noise does not hide: whether it came, a refusal's text, what there is and how large."""
    if reply.has_error():
        return {"error": reply.error.code, "reason": reply.error.reason}
    records = reply.content
    arrays = {
        f"{name}.{inner}": (array.dtype, tuple(array.shape), array.stype, len(array.data))
        for name, record in records.array_records.items()
        for inner, array in record.items()
    }
    values = {
        f"{name}.{inner}": len(value) if inner in _OWN and isinstance(value, str | bytes) else value
        for name, record in records.config_records.items()
        for inner, value in record.items()
    }
    return {"names": sorted(records), "arrays": arrays, "values": values, "bytes": payload_bytes(records)}


def _charges(ledger: Ledger) -> list[object]:
    return [entry.body for entry in ledger.entries() if entry.kind == "release"]


@contextmanager
def _opening(silo: "SimulatedSilo") -> Iterator[None]:
    """Let the ClientApp open this silo, whatever the context names."""
    module, logger = sys.modules["client.app"], logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with mock.patch.object(module, "open_silo", lambda _: silo):
            yield
    finally:
        logger.setLevel(level)
