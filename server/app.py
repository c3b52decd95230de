"""ServerApp: greet the silos, plan and calibrate, run the rounds, keep the result."""

import time
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.config import FederationConfig, parse
from recsys_fed.errors import ProtocolError
from recsys_fed.federation.outcome import FederationLog
from recsys_fed.federation.schedule import agree, begin, item_embeddings
from recsys_fed.federation.update import Greeting
from recsys_fed.federation.wire import greeting_from_records
from recsys_fed.models.device import use_threads
from server.strategy import TrainerStrategy

# Seconds to wait for all silos to be connected.
CONNECT_TIMEOUT = 60.0

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train one global model."""
    config = parse(FederationConfig, context.run_config)
    use_threads(config.threads)
    catalogue = Catalogue.load(config.catalogue) if config.catalogue else None
    agreed = agree(_greetings(grid, config.silos), catalogue)
    schedule = begin(config, agreed, catalogue)
    run_log = FederationLog(folder=Path(config.output) if config.output else None)
    run_log.started(schedule)
    strategy = TrainerStrategy(schedule, run_log)
    strategy.start(grid, ArrayRecord(), num_rounds=len(schedule.stages))
    model = item_embeddings(strategy.schedule)
    run_log.finished(model)
    vectors = Array(model.vectors.numpy())
    context.state["item-embeddings"] = ArrayRecord(OrderedDict(vectors=vectors))


def _greetings(grid: Grid, silos: int) -> list[Greeting]:
    """Ask every silo which public catalogue it holds.

    Raises:
        ProtocolError: too few silos are connected, or one does not answer.
    """
    nodes = _connected(grid, silos)
    messages = [Message(RecordDict(), node, "query") for node in nodes]
    return [_greeting_of(reply) for reply in _ordered(grid.send_and_receive(messages))]


def _connected(grid: Grid, silos: int) -> list[int]:
    deadline = time.monotonic() + CONNECT_TIMEOUT
    while True:
        nodes = sorted(grid.get_node_ids())
        if len(nodes) >= silos:
            return nodes
        if time.monotonic() > deadline:
            raise ProtocolError(f"Expected {silos} connected silos, got {len(nodes)}. Start the others.")
        time.sleep(0.2)


def _ordered(replies: Iterable[Message]) -> list[Message]:
    return sorted(replies, key=lambda reply: reply.metadata.src_node_id)


def _greeting_of(reply: Message) -> Greeting:
    if reply.has_error():
        raise ProtocolError(f"Expected a greeting of a silo, got an error: {reply.error.reason}")
    return greeting_from_records(reply.content)
