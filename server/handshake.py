"""Who takes part: wait for the silos, ask each which catalogue it holds, leave out who does not answer as it should.

A deployed server has a roster, the admitted silos' names and ledger keys. Without one every connected silo counts.
"""

import time
from collections import Counter
from dataclasses import dataclass, field
from logging import WARNING
from pathlib import Path

from flwr.app import Message
from flwr.common.logger import log
from flwr.serverapp import Grid

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.config import FederationConfig
from recsys_fed.errors import ProtocolError
from recsys_fed.federation.admission import check_greeting, read_roster
from recsys_fed.federation.messages import PLAN, Greeting
from recsys_fed.federation.wire import Invitation, greeting_from_records, invitation_to_records
from recsys_fed.flower import scale_timeout

# Seconds to wait for all silos to be connected, on an idle machine.
CONNECT_TIMEOUT = 60.0
# Seconds between two looks, and without a newcomer before the silos count as complete.
_POLL, _SETTLE = 0.2, 2.0
# Seconds for the answers to a greeting, of a deployed federation.
_GREETING_TIMEOUT = 300.0


@dataclass(frozen=True, kw_only=True)
class Greeted:
    """Greetings by node, in the order of nodes, and why the others were left out."""

    greetings: dict[int, Greeting]
    refused: list[str] = field(default_factory=list)


def greet_silos(
    grid: Grid,
    config: FederationConfig,
    *,
    run: str,
    catalogue: Catalogue | None = None,
    earlier: tuple[bytes, ...] = (),
) -> Greeted:
    """Ask every connected silo which public catalogue it holds; the answer is signed for `run`.

    Silos are shown the certificates of the `earlier` trainings that this one builds on. Where `minimum_silos` will
    do, silos that hold another version of the `catalogue` than the server are left out until they are updated.

    Raises:
        ProtocolError: too few silos are connected or greet; without a roster also if one of them does not greet.
        DataError: the roster cannot be read.
    """
    roster = read_roster(Path(config.roster)) if config.roster else None
    nodes = _wait_for_silos(grid, config)
    records = invitation_to_records(Invitation(earlier=earlier))
    messages = [Message(records, node, "query") for node in nodes]
    found = Greeted(greetings={})
    timeout = _GREETING_TIMEOUT if roster is not None else None
    replies = sorted(grid.send_and_receive(messages, timeout=timeout), key=lambda reply: reply.metadata.src_node_id)
    for reply in replies:
        try:
            greeting = _read_greeting(reply, run=run)
            if roster is not None and roster.get(greeting.silo) != greeting.public_key:
                raise ProtocolError("Expected a silo of the roster with the ledger key it was admitted with.")
            found.greetings[reply.metadata.src_node_id] = greeting
        except ProtocolError as error:
            if roster is None:
                raise
            found.refused.append(f"node {reply.metadata.src_node_id}: {error}")
    if roster is not None:
        _leave_out_twins(found)
        if config.minimum_silos and catalogue is not None:
            _leave_out_outdated(found, catalogue)
    for line in found.refused:
        log(WARNING, "a silo is left out: %s", line)
    _check_enough(found, config)
    return found


def _leave_out_twins(found: Greeted) -> None:
    """Two nodes with the key of one silo: only its owner can tell which is right, so both are left out."""
    names = Counter(greeting.silo for greeting in found.greetings.values())
    for node in [node for node, greeting in found.greetings.items() if names[greeting.silo] > 1]:
        found.refused.append(f"node {node}: Expected a silo once, got {found.greetings.pop(node).silo!r} again.")


def _leave_out_outdated(found: Greeted, catalogue: Catalogue) -> None:
    """While a new version of the catalogue rolls out, those that have it go on."""
    for node, greeting in list(found.greetings.items()):
        if greeting.catalogue_hash != catalogue.content_hash:
            del found.greetings[node]
            found.refused.append(
                f"node {node}: {greeting.silo!r} holds another version of the catalogue. Its operator runs "
                "`recsys-fed silo update --agree`."
            )


def _check_enough(found: Greeted, config: FederationConfig) -> None:
    needed, there = max(config.minimum_silos, 1), len(found.greetings)
    if there < needed:
        why = f" {found.refused[0]}" if found.refused else ""
        raise ProtocolError(f"Expected greetings of at least {needed} silos, got {there}. See the silos' logs.{why}")


def _wait_for_silos(grid: Grid, config: FederationConfig) -> list[int]:
    """Wait for `silos` nodes; for 0, until no further one has come for a while.

    Where fewer will do, those that are there when the time is over.
    """
    silos, before = config.silos, list[int]()
    deadline = time.monotonic() + scale_timeout(CONNECT_TIMEOUT)
    while time.monotonic() < deadline:
        nodes = sorted(grid.get_node_ids())
        if nodes and (len(nodes) >= silos if silos else nodes == before):
            return nodes
        before = nodes
        time.sleep(_SETTLE if not silos else _POLL)
    if config.minimum_silos and len(before) >= config.minimum_silos:
        return before
    raise ProtocolError(f"Expected {silos or 'any'} connected silos, got {len(before)}. Start the others.")


def _read_greeting(reply: Message, *, run: str) -> Greeting:
    if reply.has_error():
        raise ProtocolError(f"A silo did not greet: {reply.error.reason}")
    greeting = greeting_from_records(reply.content)
    check_greeting(greeting, run=run, node=reply.metadata.src_node_id)
    if greeting.plan != PLAN:
        raise ProtocolError(
            f"Expected silos that compute plan {PLAN}, as this server does, got {greeting.silo!r:.80}, which "
            f"computes plan {greeting.plan!r:.40}. Install the same version of recsys-fed everywhere."
        )
    return greeting
