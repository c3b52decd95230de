"""A thin Flower Strategy: every round asks all silos for one contribution and hands the sum to the schedule."""

from collections.abc import Iterable
from logging import INFO, WARNING
from typing import Protocol

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from recsys_fed.errors import ProtocolError
from recsys_fed.federation.schedule import Schedule, advance, request
from recsys_fed.federation.update import Request, Update, check_update
from recsys_fed.federation.wire import payload_bytes, request_to_records, update_from_records


class RunLog(Protocol):
    """Takes what is worth keeping of a round."""

    def round_done(self, updates: list[Update], *, bytes_down: int, bytes_up: int, refused: list[str]) -> None:
        """One round is over: what came, what it weighed, and who did not answer as asked."""


class TrainerStrategy(Strategy):
    """Runs a schedule. A round's noise, sampling and sums are not its business."""

    def __init__(self, schedule: Schedule, run_log: RunLog) -> None:
        self.schedule = schedule
        self._log = run_log
        self._asked: Request | None = None
        self._bytes_down = 0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask every node for the contribution of the next stage."""
        self._asked = request(self.schedule)
        records = request_to_records(self._asked)
        nodes = sorted(grid.get_node_ids())
        self._bytes_down = payload_bytes(records) * len(nodes)
        return [Message(records, node, "train", group_id=str(server_round)) for node in nodes]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Sum the updates and step; a reply that is not a valid update is left out with its reason."""
        if self._asked is None:
            raise ProtocolError("Expected a request before its replies.")
        updates: list[Update] = []
        refused: list[str] = []
        bytes_up = 0
        for reply in replies:
            try:
                updates.append(_update_of(reply, self._asked))
                bytes_up += payload_bytes(reply.content)
            except ProtocolError as error:
                refused.append(str(error))
                log(WARNING, "round %s: a silo is left out: %s", server_round, error)
        if not updates:
            raise ProtocolError(f"Expected an update of at least one silo, got none: {'; '.join(refused)}")
        self.schedule = advance(self.schedule, self._asked, updates)
        self._log.round_done(updates, bytes_down=self._bytes_down, bytes_up=bytes_up, refused=refused)
        return None, None

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
        log(INFO, "%s: %s rounds, noise %s", config.trainer, len(self.schedule.stages), config.noise)
        log(INFO, "epsilon %s, delta %s, user level", config.epsilon, config.delta)


def _update_of(reply: Message, asked: Request) -> Update:
    if reply.has_error():
        raise ProtocolError(f"Expected an update, got an error: {reply.error.reason}")
    update = update_from_records(reply.content)
    check_update(update, asked)
    return update
