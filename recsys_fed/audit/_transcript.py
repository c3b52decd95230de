"""What the server of a real run got to see, round by round: the run's own messages, overheard.

Of masked rounds whoever sees all that the server sees can take the masks off the sum, and off no more. The server's
half of secure aggregation is pure functions over messages; the tap hands them the same messages.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import numpy.typing as npt
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from recsys_fed.audit._mechanism import SUM, only_the_sum
from recsys_fed.errors import ProtocolError
from recsys_fed.federation.messages import Request, Update, request_digest
from recsys_fed.federation.schedule import Schedule, advance, advance_by_sum
from recsys_fed.federation.schedule import request as asked_by
from recsys_fed.federation.secure_aggregation import server as protocol
from recsys_fed.federation.secure_aggregation.errors import SecureAggregationError
from recsys_fed.federation.secure_aggregation.server import unmasked_sum
from recsys_fed.federation.secure_aggregation.terms import RoundTerms
from recsys_fed.federation.wire import (
    blob_from_records,
    masked_from_records,
    masked_request_from_records,
    request_from_records,
    update_from_records,
)

# Blobs of the exchanges around the request: what is answered, by the action that asks.
_ANSWERS = {"advertise": "keys", "share": "shares", "confirm": "confirmation", "unmask": "unmasking"}


@dataclass(frozen=True, kw_only=True, eq=False)
class _UnmaskedRound:
    """A masked round that was completed: the request and the sum of how many silos' integers."""

    request: Request
    total: npt.NDArray[np.int64]
    survivors: int


@dataclass(kw_only=True)
class _Overheard:
    """The messages of one attempt."""

    terms: bytes
    request: Request | None = None
    inputs: list[bytes] = field(default_factory=list)
    answers: dict[str, list[bytes]] = field(default_factory=lambda: {name: [] for name in _ANSWERS})


class _MaskedTap:
    """Keeps the messages of masked rounds, attempt by attempt."""

    def __init__(self) -> None:
        self._attempts: list[_Overheard] = []

    def hear(self, message: Message, reply: Message) -> None:
        """Keep a message and its answer, if they belong to a masked round."""
        kind, _, action = message.metadata.message_type.partition(".")
        if kind == "query" and action in _ANSWERS:
            self._hear_exchange(action, message.content, reply)
        elif "delivery" in message.content:
            attempt = self._attempts[-1]
            attempt.request, _ = masked_request_from_records(message.content)
            if not reply.has_error():
                attempt.inputs.append(masked_from_records(reply.content).content)

    def _hear_exchange(self, action: str, asked: RecordDict, reply: Message) -> None:
        if action == "advertise":
            terms = blob_from_records("terms", asked)
            if not self._attempts or self._attempts[-1].terms != terms:
                self._attempts.append(_Overheard(terms=terms))
        if not reply.has_error():
            self._attempts[-1].answers[action].append(blob_from_records(_ANSWERS[action], reply.content))

    def rounds(self) -> Iterable[_UnmaskedRound]:
        """The rounds that came to a sum, in order; attempts that were given up are left out."""
        for attempt in self._attempts:
            found = _unmask(attempt)
            if found is not None:
                yield found


def _unmask(heard: _Overheard) -> _UnmaskedRound | None:
    """The server's half once more."""
    if heard.request is None:
        return None
    try:
        keys, _ = protocol.collect_keys(RoundTerms.from_bytes(heard.terms), heard.answers["advertise"])
        shares, _ = protocol.collect_shares(keys, heard.answers["share"])
        summed, _ = protocol.collect_inputs(shares, heard.inputs)
        confirmed, _ = protocol.collect_confirmations(summed, heard.answers["confirm"])
        total = unmasked_sum(confirmed, heard.answers["unmask"])
    except SecureAggregationError:
        return None
    return _UnmaskedRound(
        request=heard.request, total=total.reshape(heard.request.shape), survivors=len(summed.survivors)
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Round:
    """One round: the server's schedule when it asked, what it asked, and the integers that it got to see.

    `seen` is by silo, or the sum alone where the noise is split over silos, as the guarantee is about the sum.
    """

    schedule: Schedule
    request: Request
    seen: Mapping[str, npt.NDArray[np.int64]]


class Wiretap:
    """A ClientApp that keeps what goes in and what comes out of another one."""

    def __init__(self, app: ClientApp) -> None:
        self._app = app
        self._requests: dict[int, Request] = {}
        self._updates: dict[int, list[Update]] = {}
        self._masked = _MaskedTap()

    def __call__(self, message: Message, context: Context) -> Message:
        """Hand a message on, and keep requests and their answers."""
        reply = self._app(message, context)
        self._masked.hear(message, reply)
        open_request = message.metadata.message_type == "train" and "delivery" not in message.content
        if open_request and not reply.has_error():
            request = request_from_records(message.content)
            self._requests.setdefault(request.round, request)
            self._updates.setdefault(request.round, []).append(update_from_records(reply.content))
        return reply

    def as_client_app(self) -> ClientApp:
        """For engines, which only call it."""
        return cast(ClientApp, self)

    def rounds(self, schedule: Schedule) -> tuple[Round, ...]:
        """All rounds in order, with the server's half run again from its schedule before the first.

        Raises:
            ProtocolError: the server asked for something else than this schedule does.
        """
        found = []
        for number, request in sorted(self._requests.items()):
            _check(request, schedule)
            updates = self._updates[number]
            found.append(Round(schedule=schedule, request=request, seen=_visible_tables(request, updates)))
            schedule = advance(schedule, request, updates)
        for masked in self._masked.rounds():
            _check(masked.request, schedule)
            found.append(Round(schedule=schedule, request=masked.request, seen={SUM: masked.total}))
            schedule = advance_by_sum(schedule, masked.request, masked.total, n_silos=masked.survivors)
        return tuple(found)


def _check(request: Request, schedule: Schedule) -> None:
    expected = asked_by(schedule)
    if (request.round, request.stage) != (expected.round, expected.stage) or (
        not request.attempt and request_digest(request) != request_digest(expected)
    ):
        raise ProtocolError(f"Expected round {expected.round} to be asked as its schedule says, it was not.")


def _visible_tables(request: Request, updates: Sequence[Update]) -> Mapping[str, npt.NDArray[np.int64]]:
    if not only_the_sum(request):
        return {update.silo: update.total.astype(np.int64) for update in updates}
    total = np.zeros(request.shape, dtype=np.int64)
    for update in updates:
        total += update.total
    return {SUM: total}
