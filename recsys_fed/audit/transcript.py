"""What the server of a real run got to see, round by round: the run's own messages, overheard."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from recsys_fed.audit.masked_tap import MaskedTap
from recsys_fed.audit.mechanisms.mechanism import SUM, only_the_sum
from recsys_fed.errors import ProtocolError
from recsys_fed.federation.messages import Request, Update, request_digest
from recsys_fed.federation.schedule import Schedule, advance, advance_by_sum
from recsys_fed.federation.schedule import request as asked_by
from recsys_fed.federation.wire import request_from_records, update_from_records


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
        self._masked = MaskedTap()

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
            found.append(Round(schedule=schedule, request=request, seen=_seen(request, updates)))
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


def _seen(request: Request, updates: Sequence[Update]) -> Mapping[str, npt.NDArray[np.int64]]:
    if not only_the_sum(request):
        return {update.silo: update.total.astype(np.int64) for update in updates}
    total = np.zeros(request.shape, dtype=np.int64)
    for update in updates:
        total += update.total
    return {SUM: total}
