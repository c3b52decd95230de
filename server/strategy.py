"""A thin Flower Strategy: every round asks all silos for one contribution and hands the sum to the schedule."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from logging import INFO, WARNING
from typing import Protocol

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from recsys_fed.errors import ProtocolError
from recsys_fed.federation.aggregation import check_norm
from recsys_fed.federation.messages import Greeting, Released, Request, Update, check_update, released_of
from recsys_fed.federation.release import release_event
from recsys_fed.federation.schedule import Schedule, advance, advance_by_sum, request
from recsys_fed.federation.secure_aggregation.errors import SecureAggregationError
from recsys_fed.federation.wire import payload_bytes, request_to_records, update_from_records
from server.masked_rounds import MaskedRounds


class RunLog(Protocol):
    """Takes what is worth keeping of a round."""

    def round_begun(self, asked: Request) -> None:
        """Silos are about to be asked; until `round_done` the round is under way."""

    def round_done(self, released: list[Released], *, bytes_down: int, bytes_up: int, refused: list[str]) -> None:
        """One round is over: what came, what it weighed, and who did not answer as asked."""

    def round_abandoned(self, released: list[Released], *, refused: list[str]) -> None:
        """A masked round came to nothing; what silos sent for it is charged all the same."""


class TrainerStrategy(Strategy):
    """Runs a schedule. A round's noise, sampling and sums are not its business."""

    def __init__(
        self,
        schedule: Schedule,
        run_log: RunLog,
        greetings: Mapping[int, Greeting],
        *,
        masked: MaskedRounds | None = None,
        after_round: Callable[[Schedule], None],
    ) -> None:
        self.schedule = schedule
        self._log, self._masked = run_log, masked
        self._greetings, self._after_round = greetings, after_round
        self._asked: Request | None = None
        self._bytes_down = 0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask every silo that has greeted for the contribution of the next stage."""
        self._asked = request(self.schedule)
        self._log.round_begun(self._asked)
        if self._masked is not None:
            with self._keep_if_abandoned():
                return self._masked.requests(grid, self._asked)
        records = request_to_records(self._asked)
        nodes = sorted(self._greetings)
        self._bytes_down = payload_bytes(records) * len(nodes)
        return [Message(records, node, "train", group_id=str(server_round)) for node in nodes]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Sum the updates and step; a reply that is not a valid update is left out with its reason."""
        if self._asked is None:
            raise ProtocolError("Expected a request before its replies.")
        if self._masked is not None:
            self._add_masked(self._masked, self._asked, replies)
            return None, None
        updates: list[Update] = []
        refused: list[str] = []
        bytes_up = 0
        for reply in replies:
            try:
                updates.append(self._update_of(reply, self._asked))
                bytes_up += payload_bytes(reply.content)
            except ProtocolError as error:
                refused.append(str(error))
                log(WARNING, "round %s: a silo is left out: %s", server_round, error)
        least = max(self.schedule.config.minimum_silos, 1)
        if len(updates) < least:
            why = "; ".join(refused) or "no answer"
            raise ProtocolError(f"Expected updates of silos, at least {least}, got {len(updates)}: {why}")
        self.schedule = advance(self.schedule, self._asked, updates)
        released = [released_of(update) for update in updates]
        self._log.round_done(released, bytes_down=self._bytes_down, bytes_up=bytes_up, refused=refused)
        # Last: what is written of a round that is not in the checkpoint is dropped when the training goes on.
        self._after_round(self.schedule)
        return None, None

    def _add_masked(self, masked: MaskedRounds, asked: Request, replies: Iterable[Message]) -> None:
        with self._keep_if_abandoned():
            found = masked.total(replies)
        self.schedule = advance_by_sum(self.schedule, asked, found.integers, n_silos=found.survivors)
        account = masked.account
        self._log.round_done(
            account.released, bytes_down=account.bytes_down, bytes_up=account.bytes_up, refused=account.refused
        )
        self._after_round(self.schedule)

    @contextmanager
    def _keep_if_abandoned(self) -> Iterator[None]:
        try:
            yield
        except SecureAggregationError:
            if self._masked is not None:
                account = self._masked.account
                self._log.round_abandoned(account.released, refused=account.refused)
            raise

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask for nothing: a metric of a silo would be a release of its own."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing was asked."""
        return None

    def summary(self) -> None:
        """Log the plan."""
        config = self.schedule.config
        how = "on" if self._masked is not None else "off"
        rounds = len(self.schedule.stages)
        log(INFO, "%s: %s rounds, noise %s, secure aggregation %s", config.trainer, rounds, config.noise, how)
        log(INFO, "epsilon %s, delta %s, user level", config.epsilon, config.delta)

    def _update_of(self, reply: Message, asked: Request) -> Update:
        """A reply as an update of the silo that this node is, checked against the request.

        Raises:
            ProtocolError: it is an error, or no such update; says why.
        """
        if reply.has_error():
            raise ProtocolError(f"Expected an update, got an error: {reply.error.reason}")
        greeting = self._greetings.get(reply.metadata.src_node_id)
        expected = greeting.silo if greeting else "a silo that has greeted"
        update = update_from_records(reply.content)
        if update.silo != expected:
            raise ProtocolError(f"Expected an update of {expected}, which greeted from there, got {update.silo!r}.")
        check_update(update, asked)
        if update.event != release_event(asked, noise_source=update.event.noise_source):
            raise ProtocolError("Expected the event that the request costs, got another one.")
        check_norm(update, asked, declared_users=self.schedule.config.declared_users)
        return update
