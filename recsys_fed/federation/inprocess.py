"""The in-process engine: Flower's Grid over ClientApps in this process, without Ray, sockets or serialisation.

The same ServerApp and ClientApp run here and under Flower's own engines. A message costs well under a
millisecond beside the silo's work; silos run in turn, or in threads.
"""

import secrets
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from recsys_fed.checks import at_least
from recsys_fed.settings_file import Value

_SERVER_NODE = 1
# What Flower's engines report for an exception in a ClientApp.
_CLIENT_APP_RAISED = 1

OnReply = Callable[[Message], None]


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """The contexts of all silos by node id; they live as long as the run."""

    contexts: dict[int, Context]


class InProcessGrid(Grid):
    """A Grid that hands each message to the ClientApp and keeps the reply until it is pulled."""

    def __init__(
        self, client_app: ClientApp, nodes: Nodes, *, parallel_silos: int = 1, on_reply: OnReply | None = None
    ) -> None:
        at_least(1, parallel_silos=parallel_silos)
        self._app, self._nodes, self._parallel, self._on_reply = client_app, nodes, parallel_silos, on_reply
        self._run = Run.create_empty(next(iter(nodes.contexts.values())).run_id)
        self._replies: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        """Set the run that messages belong to."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that messages belong to."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message from the server to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Ids of all silos."""
        return list(self._nodes.contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Deliver messages and compute the replies, in turn or in threads; return the messages' ids."""
        sent = list(messages)
        for message in sent:
            message.metadata.__dict__["_message_id"] = str(uuid4())
        with ThreadPoolExecutor(self._parallel) if self._parallel > 1 else nullcontext() as pool:
            replies = list(pool.map(self._deliver, sent) if pool else map(self._deliver, sent))
        self._replies |= {m.metadata.message_id: reply for m, reply in zip(sent, replies, strict=True)}
        return [message.metadata.message_id for message in sent]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that are there and forget them."""
        return [self._replies.pop(number) for number in list(message_ids) if number in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Push messages and pull the replies; computing a reply is never cut short by `timeout`."""
        return self.pull_messages(self.push_messages(messages))

    def _deliver(self, message: Message) -> Message:
        context = self._nodes.contexts[message.metadata.dst_node_id]
        try:
            reply = self._app(message, context)
        except Exception as error:  # noqa: BLE001  (as Flower's engines do: an app's failure is a reply)
            reason = f"{type(error).__name__}: {error}"
            reply = Message(Error(code=_CLIENT_APP_RAISED, reason=reason), reply_to=message)
        reply.metadata.__dict__["_message_id"] = str(uuid4())
        if self._on_reply is not None:
            self._on_reply(reply)
        return reply


def run_in_process(
    server_app: ServerApp,
    client_app: ClientApp,
    *,
    run_config: dict[str, Value],
    n_silos: int,
    parallel_silos: int = 1,
    on_reply: OnReply | None = None,
) -> Context:
    """Run both apps to the end with `n_silos` simulated silos and return the server's context.

    Errors of a silo reach the ServerApp as error replies; errors of the ServerApp are raised.
    """
    at_least(1, n_silos=n_silos)
    # As Flower's: 63 random bits, so that ledgers tell runs apart.
    run = secrets.randbits(63)
    contexts = {
        _SERVER_NODE + 1 + silo: _context(
            run, _SERVER_NODE + 1 + silo, {"partition-id": silo, "num-partitions": n_silos}, run_config
        )
        for silo in range(n_silos)
    }
    grid = InProcessGrid(client_app, Nodes(contexts=contexts), parallel_silos=parallel_silos, on_reply=on_reply)
    server_context = _context(run, _SERVER_NODE, {}, run_config)
    with task_identity(run):
        server_app(grid, server_context)
    return server_context


def _context(run: int, node_id: int, node_config: dict[str, Value], run_config: dict[str, Value]) -> Context:
    return Context(run, node_id, dict(node_config), RecordDict(), dict(run_config))


@contextmanager
def task_identity(run: int) -> Iterator[None]:
    """Outside Flower's own processes nobody has said which task this is; messages cannot be made without."""
    before = TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run, _SERVER_NODE
    try:
        yield
    finally:
        TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before
