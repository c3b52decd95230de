"""A Grid that asks again: a silo that was restarted has forgotten the message, and answers it from its ledger.

A silo gives the same bytes for the same request and charges them once, so to ask twice costs nothing but the message.
"""

import time
from collections.abc import Iterable
from logging import INFO

from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.supercore.run import Run

# Seconds until silos that have not answered are asked again, at first; the wait doubles each time.
FIRST_WAIT, MOST_ATTEMPTS = 20.0, 9
_POLL = 0.25
# Flower's codes for messages that came to nothing: it, its reply or its node is gone, or the ClientApp crashed.
_LOST = {
    ErrorCode.MESSAGE_UNAVAILABLE,
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
    ErrorCode.NODE_UNAVAILABLE,
    ErrorCode.CLIENT_APP_CRASHED,
}


class RetryingGrid(Grid):
    """Another Grid's messages, sent again to who does not answer."""

    def __init__(
        self, grid: Grid, *, timeout: float, first_wait: float = FIRST_WAIT, attempts: int = MOST_ATTEMPTS
    ) -> None:
        self._grid, self._timeout = grid, timeout
        self._first_wait, self._attempts = first_wait, attempts

    def set_run(self, run: Run) -> None:
        """Set the run that messages belong to."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run that messages belong to."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Create a message from the server to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Ids of the nodes that are connected."""
        return list(self._grid.get_node_ids())

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages once."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """One reply of each node, or none of those that have not answered in time; an error counts as an answer
        once the silo is known to be there.
        """
        asked = {message.metadata.dst_node_id: message for message in messages}
        replies: dict[int, Message] = {}
        deadline = time.monotonic() + min(self._timeout, timeout or self._timeout)
        wait = self._first_wait
        for attempt in range(self._attempts):
            missing = [node for node in asked if node not in replies or _is_lost(replies[node])]
            left = deadline - time.monotonic()
            if not missing or left <= 0:
                break
            if attempt:
                log(INFO, "%s silos have not answered and are asked again", len(missing))
                self._wait_until_connected(missing, deadline)
            again = [_copy(asked[node]) if attempt else asked[node] for node in missing]
            for reply in self._receive(again, min(time.monotonic() + wait, deadline)):
                replies[reply.metadata.src_node_id] = reply
            wait *= 2
        return list(replies.values())

    def _receive(self, messages: list[Message], until: float) -> list[Message]:
        # Flower has no number for a message that it did not take, and none at all where all are too large for it.
        pushed = zip(self._grid.push_messages(messages), messages, strict=False)
        waiting = {number: message for number, message in pushed if number}
        found: list[Message] = []
        while waiting and time.monotonic() < until:
            for reply in list(self._grid.pull_messages(set(waiting))):
                found.append(_of_its_node(reply, waiting.pop(reply.metadata.reply_to_message_id)))
            if waiting:
                time.sleep(_POLL)
        return found

    def _wait_until_connected(self, nodes: list[int], deadline: float) -> None:
        """Wait for one of the nodes to be there again, for a while."""
        until = min(deadline, time.monotonic() + self._first_wait)
        while time.monotonic() < until and not set(nodes) & set(self._grid.get_node_ids()):
            time.sleep(_POLL)


def _of_its_node(reply: Message, asked: Message) -> Message:
    """The reply as one of the node that was asked: errors that SuperLink itself makes come from no node at all."""
    if reply.metadata.src_node_id == asked.metadata.dst_node_id or not reply.has_error():
        return reply
    return Message(reply.error, reply_to=asked)


def _is_lost(reply: Message) -> bool:
    """Whether an error says that the message came to nothing, rather than what the silo thinks of it."""
    return reply.has_error() and reply.error.code in _LOST


def _copy(message: Message) -> Message:
    metadata = message.metadata
    return Message(message.content, metadata.dst_node_id, metadata.message_type, group_id=metadata.group_id)
