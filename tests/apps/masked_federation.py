"""A federation whose rounds are masked, in process, with somebody between the silos and the server."""

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from driven_silo import CONFIG, DATA
from flwr.app import Context, Message

from client import state as silo_module
from recsys_fed.config import FederationConfig, flat
from recsys_fed.federation.inprocess import run_in_process
from recsys_fed.federation.run_files import EVENTS, FEDERATION
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.simulation.flower_engine import load_apps
from server import strategy as strategy_module

SILOS = 4
MASKED = replace(CONFIG, silos=SILOS, secure_aggregation="on", secure_aggregation_threshold=3, rounds=2)
# In the order in which they pass, as Flower calls them.
PHASES = ("query.advertise", "query.share", "train", "query.confirm", "query.unmask")
# Gets the silo, how often it was asked this kind of message (from 0), the message, and what answers honestly: with
# another message or context, if it is given one.
Between = Callable[[int, int, Message, Callable[..., Message]], Message]


@dataclass
class Outcome:
    """What a run left: the silos' own noisy integers by round, and the sums that the server stepped with."""

    folder: Path
    ledgers: Path
    inputs: dict[int, dict[tuple[int, int], np.ndarray]] = field(default_factory=lambda: defaultdict(dict))
    sums: dict[int, tuple[np.ndarray, int]] = field(default_factory=dict)
    contexts: dict[int, Context] = field(default_factory=dict)
    messages: list[tuple[int, Message, Message]] = field(default_factory=list)

    @property
    def totals(self) -> dict:
        return json.loads((self.folder / FEDERATION).read_text())

    @property
    def events(self) -> list[dict]:
        return [json.loads(line) for line in (self.folder / EVENTS).read_text().splitlines()]

    def charged(self, silo: int) -> list:
        """Bodies of the releases in a silo's ledger."""
        ledger = Ledger.open(str(self.ledgers / f"silo-{silo}" / "ledger.sqlite"))
        return [entry.body for entry in ledger.entries() if entry.kind == "release"]


def honest(_silo: int, _time: int, _message: Message, answer: Callable[..., Message]) -> Message:
    return answer()


def dropping(kind: str, *silos: int, first: int = 0, until: int = 10**9) -> Between:
    """These silos do not answer such messages."""

    def between(silo: int, time: int, message: Message, answer: Callable[..., Message]) -> Message:
        if message.metadata.message_type == kind and silo in silos and first <= time < until:
            raise RuntimeError("no connection")
        return answer()

    return between


def masked_run(
    folder: Path, between: Between = honest, *, config: FederationConfig = MASKED, limit: float = 0.0
) -> Outcome:
    """Run both apps; errors of the server are raised, with the outcome so far as their attribute `outcome`."""
    server, client = load_apps()
    config = replace(config, output=str(folder / "run"))
    data = replace(DATA, ledgers=tempfile.mkdtemp(dir=folder), epsilon_limit=limit)
    outcome = Outcome(folder=folder / "run", ledgers=Path(data.ledgers))
    asked: dict[tuple[int, str], int] = defaultdict(int)

    def app(message: Message, context: Context) -> Message:
        silo, kind = int(context.node_config["partition-id"]), message.metadata.message_type
        outcome.contexts[silo] = context
        time = asked[silo, kind]
        asked[silo, kind] += 1
        reply = between(silo, time, message, lambda other=message, at=context: client(other, at))
        outcome.messages.append((silo, message, reply))
        return reply

    masked_input, advance = silo_module.Silo.masked_input, strategy_module.advance_by_sum

    def keeping(silo, request, **more):
        masked = masked_input(silo, request, **more)
        outcome.inputs[request.round][silo.index, request.attempt] = masked.integers
        return masked

    def stepping(schedule, asked, integers, *, n_silos):
        outcome.sums[asked.round] = integers, n_silos
        return advance(schedule, asked, integers, n_silos=n_silos)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(silo_module.Silo, "masked_input", keeping)
        patch.setattr(strategy_module, "advance_by_sum", stepping)
        try:
            run_in_process(server, app, run_config=flat(config) | flat(data), n_silos=config.silos)
        except Exception as error:
            error.outcome = outcome
            raise
    return outcome


def plain_sum(outcome: Outcome, number: int, silos: set[int], *, attempt: int = 0) -> np.ndarray:
    """What a server that sees everything would add up."""
    return sum(outcome.inputs[number][silo, attempt] for silo in silos).ravel()
