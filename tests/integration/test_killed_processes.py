"""kill -9 of the server, of a silo, of both, at random moments: training completes, at a bounded price."""

import json
import os
import random
import subprocess
import time
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from deployment_kit import CONFIG, deployed
from killing import MID_ROUND, charges, complete, events_of, round_events, under_way
from real_federation import RealFederation, wait_for

from recsys_fed.certificates.run import verify_run
from recsys_fed.deployment.processes import free_port
from recsys_fed.deployment.training import last_training
from recsys_fed.federation.outcome import CERTIFICATES, EMBEDDINGS, EVENTS
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.verification import verify_ledger
from recsys_fed.silo.settings import read_silo_settings

# Rounds of a training; one that only a silo disturbs is longer, and takes several kills.
ROUNDS, LONG = CONFIG.rounds, 8
# Of one training: a fraction of a silo's limit of 20, so that many fit.
EPSILON = 0.5
OPEN, MASKED = "off", "on"
# Ten kills of each kind, in sittings of a few minutes.
CASES = [
    *((["server"], OPEN, kills) for kills in (4, 3, 3)),
    *((["silo-1"], OPEN, kills) for kills in (5, 5)),
    *((["server", "silo-1"], OPEN, kills) for kills in (4, 3, 3)),
    (["server"], MASKED, 3),
]


class Killer:
    """Trains, and kills the victims again and again at random moments."""

    def __init__(self, federation: RealFederation, victims: list[str], rng: random.Random) -> None:
        self.states: Counter[str] = Counter()
        self.interrupted: dict[str, int] = defaultdict(int)
        self.rounds = ROUNDS if "server" in victims else LONG
        self._federation, self._victims, self._rng = federation, victims, rng
        self._there = federation.there

    def undisturbed(self) -> float:
        """A training that nobody disturbs; seconds of its rounds."""
        self._federation.finish(self._federation.train("--epsilon", EPSILON, "--rounds", self.rounds))
        times = [datetime.fromisoformat(e["time"]) for e in round_events(last_training(self._there.federation))]
        return (times[-1] - times[0]).total_seconds()

    def kill(self, kills: int, *, seconds: float) -> None:
        """So many kills: in turn at any moment of a training, and within its rounds, which take so many seconds."""
        running = None
        while self.states.total() < kills:
            since = 0
            if running is None or running.poll() is not None:
                running, since = self._train()
            training = last_training(self._there.federation)
            self._wait(running, training, since, seconds=seconds, within=bool(self.states.total() % 2))
            if running.poll() is None:
                self._kill_and_restart(running, training, since)
        if "server" not in self._victims:
            self._federation.finish(running, timeout=600)
        if not complete(last_training(self._there.federation)):
            self._federation.finish(self._federation.train("--resume"), timeout=600)

    def _train(self) -> "tuple[subprocess.Popen[bytes], int]":
        """A new training, or the rest of the last one, and the lines of its log so far."""
        before = last_training(self._there.federation)
        flags = ["--epsilon", EPSILON, "--rounds", self.rounds, "--minimum-silos", 2]
        if not complete(before):
            return self._federation.train("--resume"), len(events_of(before))
        running = self._federation.train(*flags)
        wait_for(lambda: last_training(self._there.federation) != before, running)
        return running, 0

    def _wait(self, running, training: Path, since: int, *, seconds: float, within: bool) -> None:
        """Until a random moment, or the end of the training."""
        begun = len(round_events(training, since))
        if within:
            wait_for(lambda: running.poll() is not None or len(round_events(training, since)) > begun, running)
        deadline = time.monotonic() + self._rng.uniform(0, seconds / 2 if within else 2 * seconds)
        while time.monotonic() < deadline and running.poll() is None:
            time.sleep(0.05)

    def _kill_and_restart(self, running, training: Path, since: int) -> None:
        for victim in self._victims:
            self._federation.kill(victim)
        state = under_way(training, self._there.silos[1], rounds=self.rounds, since=since)
        self.states[state] += 1
        self.interrupted[training.name] += state in MID_ROUND
        if "server" in self._victims:
            # The operator's own command notices by itself that the server is gone.
            assert running.wait(timeout=180) or complete(training)
            self._federation.start_server()
        if "silo-1" in self._victims:
            self._federation.start_silo(1)


@pytest.mark.soak
@pytest.mark.parametrize(("victims", "mode", "kills"), CASES)
def test_training_completes_and_ledgers_hold(victims, mode, kills, request, tmp_path):
    there = deployed(tmp_path, config=replace(CONFIG, secure_aggregation=mode), port=free_port())
    federation = RealFederation(there, tmp_path / "logs")
    killer = Killer(federation, victims, random.Random(request.node.name))
    try:
        federation.start_all()
        seconds = killer.undisturbed()
        whole = last_training(there.federation).name
        killer.kill(kills, seconds=seconds)
    except AssertionError as error:
        raise AssertionError(federation.logs()) from error
    finally:
        federation.stop()
    note(victims, mode, states=killer.states, trainings=len(list(there.federation.trainings.iterdir())))
    assert any(killer.states[state] for state in MID_ROUND), killer.states
    for training in there.federation.trainings.iterdir():
        assert complete(training), training
        found = verify_run(training / CERTIFICATES, events=training / EVENTS, model=training / EMBEDDINGS)
        assert found.holds, found.problems
    for silo in there.silos:
        check_ledger(silo, whole, killer.interrupted, rounds=killer.rounds, masked=mode == MASKED)


def check_ledger(silo: Path, whole: str, interrupted: dict[str, int], *, rounds: int, masked: bool) -> None:
    """No training costs more than the undisturbed one and, of a masked one, its interrupted rounds.

    Where nothing is masked the same request brings the same bytes, which are charged once: nothing is added at all.
    """
    ledger = Ledger.open(read_silo_settings(silo).ledger)
    verify_ledger(ledger)
    again = [entry.body.event for entry in ledger.releases_of(whole)]
    for run, count in charges(silo).items():
        more = interrupted.get(run, 0) if masked else 0
        assert count <= rounds + more, (run, count, more)
        dearest = max(ledger.would_spend((event,) * more, run=whole) for event in again)
        assert ledger.spending(run=run).epsilon <= dearest * (1 + 1e-9), run


def note(victims: list[str], mode: str, **facts: object) -> None:
    """Append what happened to the file that KILLS_NOTED names: the guide's table is made of it."""
    if os.environ.get("KILLS_NOTED"):
        line = {"victims": victims, "secure_aggregation": mode, **facts}
        with Path(os.environ["KILLS_NOTED"]).open("a") as file:
            file.write(json.dumps(line) + "\n")
