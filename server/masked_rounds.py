"""Masked rounds, each with a few attempts: silos that were lost are not invited to the next one if others suffice.

Every attempt has fresh keys and fresh noise, and silos charge each input that they send, so attempts are few. After
the last one the round is abandoned with the error that names the cause.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from logging import WARNING

from flwr.app import Message
from flwr.common.logger import log
from flwr.serverapp import Grid

from recsys_fed.errors import ProtocolError
from recsys_fed.federation.messages import Greeting, Request
from recsys_fed.federation.secure_aggregation.errors import SecureAggregationError
from server.masked_attempt import Account, Attempt, Invited, MaskedSum

MOST_ATTEMPTS = 3


class MaskedRounds:
    """The masked rounds of one run. `account` is that of the round under way."""

    def __init__(self, greetings: Mapping[int, Greeting], *, run: str, declared_users: int) -> None:
        self.account = Account()
        self._run, self._declared_users = run, declared_users
        self._everybody = Invited(
            nodes={greeting.public_key: node for node, greeting in greetings.items()},
            labels={greeting.public_key: greeting.silo for greeting in greetings.values()},
        )
        self._begun: tuple[Grid, Attempt] | None = None

    def requests(self, grid: Grid, asked: Request) -> list[Message]:
        """Begin a round: exchange keys and shares, and return the requests to send.

        Raises:
            SecureAggregationError: no attempt came so far; nothing was charged.
        """
        self.account = Account()
        return self._attempted(grid, asked, self._everybody)

    def total(self, replies: Iterable[Message]) -> MaskedSum:
        """The sum of what the silos answered to the requests, or in a later attempt.

        Raises:
            SecureAggregationError: the round is abandoned and nothing is unmasked. What silos sent stays charged.
        """
        while True:
            if self._begun is None:
                raise ProtocolError("Expected the requests of a masked round before their replies.")
            grid, attempt = self._begun
            try:
                return attempt.total(replies)
            except SecureAggregationError as error:
                replies = grid.send_and_receive(self._attempted(grid, *self._next(attempt, error)))

    def _attempted(self, grid: Grid, asked: Request, invited: Invited) -> list[Message]:
        while True:
            attempt = Attempt(
                grid, asked, invited, run=self._run, declared_users=self._declared_users, account=self.account
            )
            self._begun = grid, attempt
            try:
                return attempt.requests()
            except SecureAggregationError as error:
                asked, invited = self._next(attempt, error)

    def _next(self, attempt: Attempt, error: SecureAggregationError) -> tuple[Request, Invited]:
        """What to ask next and of whom; raises the error if there is no next attempt."""
        self.account.refused.append(f"attempt {attempt.asked.attempt} is given up: {error}")
        log(WARNING, "round %s: %s", attempt.asked.round + 1, self.account.refused[-1])
        after = replace(attempt.asked, attempt=attempt.asked.attempt + 1)
        if after.attempt >= MOST_ATTEMPTS:
            raise error
        others = attempt.invited.without(attempt.lost | {error.culprit})
        # Without enough others all are asked again: until their keys and shares are there, that costs nothing.
        return after, others if len(others.nodes) >= after.threshold else self._everybody
