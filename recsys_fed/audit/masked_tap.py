"""Masked rounds, overheard: whoever sees all that the server sees can take the masks off the sum, and off no more.

The server's half of secure aggregation is pure functions over messages; the tap hands them the same messages.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from flwr.app import Message, RecordDict

from recsys_fed.federation.messages import Request
from recsys_fed.federation.secure_aggregation import server as protocol
from recsys_fed.federation.secure_aggregation.errors import SecureAggregationError
from recsys_fed.federation.secure_aggregation.server import unmasked_sum
from recsys_fed.federation.secure_aggregation.terms import RoundTerms
from recsys_fed.federation.wire import blob_from_records, masked_from_records, masked_request_from_records

# Blobs of the exchanges around the request: what is answered, by the action that asks.
_ANSWERS = {"advertise": "keys", "share": "shares", "confirm": "confirmation", "unmask": "unmasking"}


@dataclass(frozen=True, kw_only=True, eq=False)
class UnmaskedRound:
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


class MaskedTap:
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

    def rounds(self) -> Iterable[UnmaskedRound]:
        """The rounds that came to a sum, in order; attempts that were given up are left out."""
        for attempt in self._attempts:
            found = _unmasked(attempt)
            if found is not None:
                yield found


def _unmasked(heard: _Overheard) -> UnmaskedRound | None:
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
    return UnmaskedRound(
        request=heard.request, total=total.reshape(heard.request.shape), survivors=len(summed.survivors)
    )
