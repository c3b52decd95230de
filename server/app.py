"""ServerApp: greet the silos, plan and calibrate, run the rounds, keep the result."""

import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.config import FederationConfig, parse
from recsys_fed.errors import ProtocolError
from recsys_fed.federation.noise_split import masking_of, settled
from recsys_fed.federation.outcome import FederationLog
from recsys_fed.federation.schedule import agree, begin, item_embeddings
from recsys_fed.federation.update import Greeting
from recsys_fed.federation.wire import greeting_from_records
from recsys_fed.models.device import use_threads
from recsys_fed.privacy.guarantee import check_delta
from server.conclusion import collect_certificates
from server.masked_rounds import MaskedRounds
from server.strategy import TrainerStrategy

# Seconds to wait for all silos to be connected.
CONNECT_TIMEOUT = 60.0
# Seconds between two looks, and without a newcomer before the silos count as complete.
_POLL, _SETTLE = 0.2, 2.0

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train one global model."""
    config = parse(FederationConfig, context.run_config)
    use_threads(config.threads)
    # Silos look at it too, but may not say why they refuse.
    check_delta(config.delta, n_users=config.declared_users)
    if config.silos:
        masking_of(settled(config, simulated=True))
    catalogue = Catalogue.load(config.catalogue) if config.catalogue else None
    greetings = _greetings(grid, config.silos)
    simulated = any(greeting.simulated for greeting in greetings.values())
    config = settled(replace(config, silos=len(greetings)), simulated=simulated)
    agreed = agree(list(greetings.values()), catalogue)
    schedule = begin(config, agreed, catalogue)
    run_log = FederationLog(folder=Path(config.output) if config.output else None)
    run_log.started(schedule)
    masked = None
    if masking_of(config) is not None:
        masked = MaskedRounds(greetings, run=str(context.run_id), declared_users=config.declared_users)
    strategy = TrainerStrategy(schedule, run_log, masked=masked)
    strategy.start(grid, ArrayRecord(), num_rounds=len(schedule.stages))
    model = item_embeddings(strategy.schedule)
    collected = collect_certificates(grid, greetings, model, run=str(context.run_id))
    run_log.finished(model, collected.certificates, missing=collected.missing, metrics=strategy.schedule.metrics)
    vectors = Array(model.vectors.numpy())
    context.state["item-embeddings"] = ArrayRecord(OrderedDict(vectors=vectors))


def _greetings(grid: Grid, silos: int) -> dict[int, Greeting]:
    """Ask every silo which public catalogue it holds; by node.

    Raises:
        ProtocolError: too few silos are connected, or one does not answer.
    """
    nodes = _connected(grid, silos)
    messages = [Message(RecordDict(), node, "query") for node in nodes]
    replies = _ordered(grid.send_and_receive(messages))
    return {reply.metadata.src_node_id: _greeting_of(reply) for reply in replies}


def _connected(grid: Grid, silos: int) -> list[int]:
    """Wait for `silos` nodes; for 0, until no further one has come for a while."""
    deadline = time.monotonic() + CONNECT_TIMEOUT
    before: list[int] = []
    while time.monotonic() < deadline:
        nodes = sorted(grid.get_node_ids())
        if nodes and (len(nodes) >= silos if silos else nodes == before):
            return nodes
        before = nodes
        time.sleep(_SETTLE if not silos else _POLL)
    raise ProtocolError(f"Expected {silos or 'any'} connected silos, got {len(before)}. Start the others.")


def _ordered(replies: Iterable[Message]) -> list[Message]:
    return sorted(replies, key=lambda reply: reply.metadata.src_node_id)


def _greeting_of(reply: Message) -> Greeting:
    if reply.has_error():
        raise ProtocolError(f"Expected a greeting of a silo, got an error: {reply.error.reason}")
    return greeting_from_records(reply.content)
