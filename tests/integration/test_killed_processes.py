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
from recsys_fed.deployment.training import _last_training
from recsys_fed.federation.run_files import CERTIFICATES, EMBEDDINGS, EVENTS
from recsys_fed.flower import free_port
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.verification import verify_ledger
from recsys_fed.silo.settings import read_silo_settings

ROUNDS = 6
# Of one training: a fraction of a silo's limit of 20, so that many fit.
EPSILON = 0.5
OPEN, MASKED = "off", "on"
KINDS = (["server"], ["silo-1"], ["server", "silo-1"])
# Ten kills of each kind, in sittings of a few minutes; where rounds are masked, of the server and of a silo that is
# needed: all three are.
CASES = [
    *((OPEN, KINDS * 2) for _ in range(5)),
    (MASKED, KINDS[:1] * 3),
    *((MASKED, KINDS[1:2] * 5) for _ in range(2)),
]


class Killer:
    """Trains, and kills again and again at random moments."""

    def __init__(self, federation: RealFederation, rng: random.Random) -> None:
        self.states: dict[str, Counter[str]] = defaultdict(Counter)
        self.interrupted: Counter[str] = Counter()
        self._federation, self._there, self._rng = federation, federation.there, rng
        self._running: subprocess.Popen[bytes] | None = None
        self._training, self._since = Path(), 0

    def undisturbed(self) -> float:
        """A training that nobody disturbs; seconds of its rounds."""
        self._federation.finish(self._federation.train("--epsilon", EPSILON))
        times = [datetime.fromisoformat(e["time"]) for e in round_events(_last_training(self._there.federation))]
        return (times[-1] - times[0]).total_seconds()

    def kill(self, victims: list[str], *, seconds: float, within: bool) -> None:
        """One kill at any moment of a training, or within one of its rounds, which take so many seconds together."""
        running = self._at_a_moment(seconds, within=within)
        while over(running):
            running = self._at_a_moment(seconds, within=within)
        self._kill_and_restart(victims, running)

    def _at_a_moment(self, seconds: float, *, within: bool) -> "subprocess.Popen[bytes]":
        running = self._going()
        begun = len(round_events(self._training, self._since))
        if within:
            wait_for(lambda: over(running) or len(round_events(self._training, self._since)) > begun, running)
        deadline = time.monotonic() + self._rng.uniform(0, seconds / ROUNDS if within else 2 * seconds)
        while time.monotonic() < deadline and not over(running):
            time.sleep(0.05)
        return running

    def finish(self) -> None:
        """Let the last training come to its end."""
        if self._running is not None and not over(self._running):
            self._federation.finish(self._running, timeout=600)
        if not complete(_last_training(self._there.federation)):
            self._federation.finish(self._federation.train("--resume"), timeout=600)

    def _going(self) -> "subprocess.Popen[bytes]":
        """A training under way: the one that is, the rest of the last one, or a new one."""
        if self._running is not None and not over(self._running):
            return self._running
        before = _last_training(self._there.federation)
        self._training, self._since = before, len(events_of(before))
        if not complete(before):
            self._running = self._federation.train("--resume")
            return self._running
        flags = ["--epsilon", EPSILON, "--minimum-silos", 2]
        self._running = running = self._federation.train(*flags)
        wait_for(lambda: _last_training(self._there.federation) != before, running)
        self._training, self._since = _last_training(self._there.federation), 0
        return running

    def _kill_and_restart(self, victims: list[str], running: "subprocess.Popen[bytes]") -> None:
        for victim in victims:
            self._federation.kill(victim)
        state = under_way(self._training, self._there.silos[1], rounds=ROUNDS, since=self._since)
        self.states[" and ".join(victims)][state] += 1
        self.interrupted[self._training.name] += state in MID_ROUND
        if "server" in victims:
            # The operator's own command notices by itself that the server is gone.
            assert running.wait(timeout=180) or complete(self._training)
            self._federation.start_server()
        if "silo-1" in victims:
            self._federation.start_silo(1)


def over(running: "subprocess.Popen[bytes]") -> bool:
    """Whether a training's command has ended."""
    return running.poll() is not None


@pytest.mark.soak
@pytest.mark.parametrize(("mode", "kinds"), CASES)
def test_training_completes_and_ledgers_hold(mode, kinds, request, tmp_path):
    there = deployed(tmp_path, config=replace(CONFIG, secure_aggregation=mode, rounds=ROUNDS), port=free_port())
    for silo in there.silos:
        settings = silo / "silo.toml"
        # Between two kills a training may end; the terms' three in seven days are for other tests.
        settings.write_text(settings.read_text().replace("trainings = 3", "trainings = 0"))
    federation = RealFederation(there, tmp_path / "logs")
    killer = Killer(federation, random.Random(request.node.name))
    try:
        federation.start_all()
        seconds = killer.undisturbed()
        whole = _last_training(there.federation).name
        for number, victims in enumerate(kinds):
            killer.kill(victims, seconds=seconds, within=bool(number % 2))
        killer.finish()
    except AssertionError as error:
        raise AssertionError(federation.logs()) from error
    finally:
        federation.stop()
        note(mode, killer.states)
    assert any(states[state] for states in killer.states.values() for state in MID_ROUND), killer.states
    for training in there.federation.trainings.iterdir():
        assert complete(training), training
        found = verify_run(training / CERTIFICATES, events=training / EVENTS, model=training / EMBEDDINGS)
        assert found.holds, found.problems
    for silo in there.silos:
        check_ledger(silo, whole, killer.interrupted, masked=mode == MASKED)


def check_ledger(silo: Path, whole: str, interrupted: Counter[str], *, masked: bool) -> None:
    """No training costs more than the undisturbed one and, of a masked one, its interrupted rounds.

    Where nothing is masked the same request brings the same bytes, which are charged once: nothing is added at all.
    """
    ledger = Ledger.open(read_silo_settings(silo).ledger)
    verify_ledger(ledger)
    again = [entry.body.event for entry in ledger.releases_of(whole)]
    for run, count in charges(silo).items():
        more = interrupted[run] if masked else 0
        assert count <= ROUNDS + more, (run, count, more)
        dearest = max(ledger.would_spend((event,) * more, run=whole) for event in again)
        assert ledger.spending(run=run).epsilon <= dearest * (1 + 1e-9), run


def note(mode: str, states: dict[str, Counter[str]]) -> None:
    """Append what happened to the file that KILLS_NOTED names: the guide's table is made of it."""
    if os.environ.get("KILLS_NOTED"):
        with Path(os.environ["KILLS_NOTED"]).open("a") as file:
            file.write(json.dumps({"secure_aggregation": mode, "kills": states}) + "\n")
