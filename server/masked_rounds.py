"""Masked rounds over messages, each with a few attempts.

An attempt exchanges keys, shares, inputs, confirmations and what unmasks their sum. Silos that were lost are not
invited to the next one if others suffice; if they do not, the lost ones are waited for. Every attempt has fresh keys
and fresh noise, and silos charge each input that they send, so attempts that get to the inputs are few. After the
last one the round is abandoned with the error that names the cause.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from logging import INFO, WARNING

import numpy as np
import numpy.typing as npt
from flwr.app import Message, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid

from recsys_fed.errors import BudgetExceededError, ProtocolError
from recsys_fed.federation.messages import Greeting, Released, Request, check_answers, released_of
from recsys_fed.federation.noise_split import round_terms
from recsys_fed.federation.plan import MOST_ATTEMPTS as MOST_PLANNED
from recsys_fed.federation.secure_aggregation import server as protocol
from recsys_fed.federation.secure_aggregation.errors import SecureAggregationError, TooFewSurvivorsError, objection_of
from recsys_fed.federation.secure_aggregation.server import unmasked_sum
from recsys_fed.federation.wire import (
    blob_from_records,
    blob_to_records,
    masked_from_records,
    masked_request_to_records,
    payload_bytes,
)

MOST_ATTEMPTS = 3
# Seconds between two attempts for which lost silos are needed; it doubles from the first to the longest.
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0


@dataclass(frozen=True, kw_only=True)
class _Invited:
    """The silos of a masked round by identity key: their nodes and their public labels."""

    nodes: Mapping[str, int]
    labels: Mapping[str, str]

    def without(self, keys: Iterable[str]) -> "_Invited":
        """The others."""
        gone = set(keys)
        return _Invited(nodes={key: node for key, node in self.nodes.items() if key not in gone}, labels=self.labels)


@dataclass(kw_only=True)
class Account:
    """What a masked round brought and cost, over all its attempts.

    Attributes:
        released: every masked input that came, also of attempts that were given up: their silos have charged it.
        refused: why silos, or whole attempts, were left out.
        bytes_down, bytes_up: content of all messages.
    """

    released: list[Released] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    bytes_down: int = 0
    bytes_up: int = 0


@dataclass(frozen=True, kw_only=True)
class MaskedSum:
    """The unmasked sum of the survivors' integers, flat, and how many they are."""

    integers: npt.NDArray[np.int64]
    survivors: int


class _Attempt:
    """Runs once.

    Attributes:
        asked: for what; invited: of whom.
        lost: silos that did not answer, or not as they should. One that objects to what it was told is not lost.
        spent: those of the lost that have no budget left for the round, and will have none in a next attempt.
        paid: whether silos were asked for inputs, which they charge.
    """

    def __init__(
        self, grid: Grid, asked: Request, invited: _Invited, *, run: str, declared_users: int, account: Account
    ) -> None:
        self.lost: set[str] = set()
        self.spent: set[str] = set()
        self.paid = False
        self.asked, self.invited = asked, invited
        self._grid, self._account = grid, account
        self._keys = {node: key for key, node in invited.nodes.items()}
        self._terms = round_terms(asked, run=run, silos=invited.nodes, declared_users=declared_users)
        self._objections: list[SecureAggregationError] = []
        self._reasons: list[str] = []
        self._shares: protocol.SharesCollected | None = None

    def requests(self) -> list[Message]:
        """Collect keys and shares; return the requests, each with what other silos have sealed for its silo.

        Raises:
            SecureAggregationError: the attempt is over; nothing private was asked for yet.
        """
        keys = self._exchange("advertise", "terms", "keys", dict.fromkeys(self.invited.nodes, self._terms.to_bytes()))
        with self._objecting():
            collected, roster = protocol.collect_keys(self._terms, keys.values())
        shares = self._exchange("share", "roster", "shares", dict.fromkeys(keys, roster))
        with self._objecting():
            self._shares, deliveries = protocol.collect_shares(collected, shares.values())
        self.paid = True
        return self._messages(
            "train",
            {key: masked_request_to_records(self.asked, delivery) for key, delivery in deliveries.items()},
        )

    def total(self, replies: Iterable[Message]) -> MaskedSum:
        """Unmask the sum of the masked inputs that came.

        Raises:
            SecureAggregationError: the attempt is over; nothing is unmasked. What was sent stays charged.
        """
        if self._shares is None:
            raise ProtocolError("The shares of a masked round must come before its inputs.")
        inputs = self._read_answers(self._shares.sharers, replies, self._input)
        with self._objecting():
            summed, survivors = protocol.collect_inputs(self._shares, inputs.values())
        signed = self._exchange("confirm", "survivors", "confirmation", dict.fromkeys(summed.survivors, survivors))
        with self._objecting():
            confirmed, signatures = protocol.collect_confirmations(summed, signed.values())
        revealed = self._exchange("unmask", "confirmations", "unmasking", dict.fromkeys(signed, signatures))
        with self._objecting():
            integers = unmasked_sum(confirmed, revealed.values())
        return MaskedSum(integers=integers, survivors=len(summed.survivors))

    def _input(self, key: str, records: RecordDict) -> bytes:
        update = masked_from_records(records)
        check_answers(update, self.asked)
        if update.silo != self.invited.labels[key]:
            raise ProtocolError(f"Expected an input of {self.invited.labels[key]}, got one of {update.silo}.")
        self._account.released.append(released_of(update))
        return update.content

    def _exchange(self, action: str, asked: str, answered: str, contents: Mapping[str, bytes]) -> dict[str, bytes]:
        """Ask these silos for one blob each."""
        records = {key: blob_to_records(asked, content) for key, content in contents.items()}
        replies = self._grid.send_and_receive(self._messages(f"query.{action}", records))
        return self._read_answers(contents, replies, lambda _, content: blob_from_records(answered, content))

    def _messages(self, kind: str, records: Mapping[str, RecordDict]) -> list[Message]:
        self._account.bytes_down += sum(payload_bytes(content) for content in records.values())
        group = f"{self.asked.round + 1}"
        return [
            Message(content, self.invited.nodes[key], kind, group_id=group)
            for key, content in sorted(records.items())
        ]

    def _read_answers(
        self, asked: Collection[str], replies: Iterable[Message], read: Callable[[str, RecordDict], bytes]
    ) -> dict[str, bytes]:
        """What the silos answered, in the order of their keys; those that did not are lost, or object."""
        found: dict[str, bytes] = {}
        objecting: set[str] = set()
        for reply in replies:
            key = self._keys[reply.metadata.src_node_id]
            try:
                found[key] = read(key, _content_of(reply))
                self._account.bytes_up += payload_bytes(reply.content)
            except SecureAggregationError as error:
                objecting.add(key)
                self._objections.append(error)
                self._note(key, error)
            except _OutOfBudgetError as error:
                self.spent.add(key)
                self._note(key, error)
            except ProtocolError as error:
                self._note(key, error)
        self.lost |= set(asked) - found.keys() - objecting
        return dict(sorted(found.items()))

    def _note(self, key: str, error: ProtocolError) -> None:
        line = f"{self.invited.labels[key]}: {error}"
        self._account.refused.append(line)
        self._reasons.append(line)
        log(WARNING, "round %s: a silo is left out: %s", self.asked.round + 1, line)

    @contextmanager
    def _objecting(self) -> Iterator[None]:
        """Where too few silos are left, the cause is the first objection, or what the first of the lost has said."""
        try:
            yield
        except TooFewSurvivorsError as error:
            if self._objections:
                raise self._objections[0] from error
            if self._reasons:
                raise TooFewSurvivorsError(f"{error} {self._reasons[0]}") from error
            raise


class _OutOfBudgetError(ProtocolError):
    """The silo has no budget left for what it was asked. That follows from its charges, which are public."""


def _content_of(reply: Message) -> RecordDict:
    """The content of a reply.

    Raises:
        SecureAggregationError: the silo objects to what it was told, by the type that it names.
        ProtocolError: the silo could not answer.
    """
    if not reply.has_error():
        return reply.content
    reason = reply.error.reason or "no reason"
    if reason.startswith(BudgetExceededError.__name__):
        raise _OutOfBudgetError(f"Expected an answer, got an error: {reason}")
    raise objection_of(reason) or ProtocolError(f"Expected an answer, got an error: {reason}")


class MaskedRounds:
    """The masked rounds of one run. `account` is that of the round under way.

    Args of its making:
        greetings: of the silos, by node. run: name of the run. declared_users: public.
        patience: seconds of a round in which lost silos are waited for, where the others do not suffice.
    """

    def __init__(
        self, greetings: Mapping[int, Greeting], *, run: str, declared_users: int, patience: float = 0.0
    ) -> None:
        self.account = Account()
        self._patience, self._waiting = patience, _Waiting(until=0.0)
        self._run, self._declared_users = run, declared_users
        self._everybody = _Invited(
            nodes={greeting.public_key: node for node, greeting in greetings.items()},
            labels={greeting.public_key: greeting.silo for greeting in greetings.values()},
        )
        self._begun: tuple[Grid, _Attempt] | None = None

    def requests(self, grid: Grid, asked: Request) -> list[Message]:
        """Begin a round: exchange keys and shares, and return the requests to send.

        Raises:
            SecureAggregationError: no attempt came so far; nothing was charged.
        """
        self.account = Account()
        self._waiting = _Waiting(until=time.monotonic() + self._patience)
        return self._begin_attempt(grid, asked, self._everybody)

    def total(self, replies: Iterable[Message]) -> MaskedSum:
        """The sum of what the silos answered to the requests, or in a later attempt.

        Raises:
            SecureAggregationError: the round is abandoned and nothing is unmasked. What silos sent stays charged.
        """
        while True:
            if self._begun is None:
                raise ProtocolError("The requests of a masked round must come before their replies.")
            grid, attempt = self._begun
            try:
                return attempt.total(replies)
            except SecureAggregationError as error:
                replies = grid.send_and_receive(self._begin_attempt(grid, *self._next(grid, attempt, error)))

    def _begin_attempt(self, grid: Grid, asked: Request, invited: _Invited) -> list[Message]:
        while True:
            attempt = _Attempt(
                grid, asked, invited, run=self._run, declared_users=self._declared_users, account=self.account
            )
            self._begun = grid, attempt
            try:
                return attempt.requests()
            except SecureAggregationError as error:
                asked, invited = self._next(grid, attempt, error)

    def _next(self, grid: Grid, attempt: _Attempt, error: SecureAggregationError) -> tuple[Request, _Invited]:
        """What to ask next and of whom, once they are there; raises the error if there is no next attempt."""
        self.account.refused.append(f"attempt {attempt.asked.attempt} is given up: {error}")
        log(WARNING, "round %s: %s", attempt.asked.round + 1, self.account.refused[-1])
        after = replace(attempt.asked, attempt=attempt.asked.attempt + 1)
        self._waiting.paid += attempt.paid
        if self._waiting.paid >= MOST_ATTEMPTS or after.attempt >= MOST_PLANNED:
            raise error
        lost = attempt.lost | {error.culprit}
        others = attempt.invited.without(lost)
        if len(others.nodes) >= after.threshold:
            there = after.attempt < MOST_ATTEMPTS
        else:
            # All that can pay are asked again: until their keys and shares are there, that costs nothing.
            others = self._everybody.without(attempt.spent)
            if len(others.nodes) < after.threshold:
                raise error
            needed = {others.nodes[key] for key in lost & others.nodes.keys()}
            there = self._waiting.wait_for(grid, needed) or after.attempt < MOST_ATTEMPTS
        if not there:
            raise error
        return after, others


@dataclass(kw_only=True)
class _Waiting:
    """How long a round waits for silos that it has lost, and how many of its attempts were paid for."""

    until: float
    paid: int = 0
    pause: float = _FIRST_PAUSE

    def wait_for(self, grid: Grid, nodes: set[int]) -> bool:
        """Wait until these are connected, at least for a pause that grows; False if the time is over."""
        if time.monotonic() >= self.until:
            return False
        log(INFO, "%s silos are needed and not there: they are waited for", len(nodes))
        time.sleep(min(self.pause, max(0.0, self.until - time.monotonic())))
        self.pause = min(2 * self.pause, _LONGEST_PAUSE)
        while not nodes <= set(grid.get_node_ids()):
            if time.monotonic() >= self.until:
                return False
            time.sleep(_FIRST_PAUSE)
        return True
