"""kill -9 of the server, of a silo, of both, at random moments: training completes, at a bounded price."""

import random
import time

import pytest
from deployment_kit import CONFIG, deployed
from real_federation import RealFederation, wait_for

from recsys_fed.deployment.processes import free_port
from recsys_fed.deployment.training import last_training
from recsys_fed.federation.outcome import EMBEDDINGS
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.verification import verify_ledger
from recsys_fed.silo.settings import read_silo_settings

KILLS = 10
# Rounds of one training, and what one silo is charged at most for a round that was interrupted: one masked input.
ROUNDS = 3
# Of one training: a fraction of a silo's limit of 20, so that many fit.
EPSILON = 0.5


@pytest.mark.soak
@pytest.mark.parametrize("victims", [["server"], ["silo-1"], ["server", "silo-1"]], ids=" and ".join)
def test_training_completes_and_ledgers_hold(victims, tmp_path):
    rng = random.Random(len(victims))
    there = deployed(
        tmp_path, config=CONFIG.__class__(**{**vars(CONFIG), "secure_aggregation": "off"}), port=free_port()
    )
    federation = RealFederation(there, tmp_path / "logs")
    trainings, kills = 0, 0
    try:
        federation.start_all()
        # Kills are spread over the time that a training takes, on a machine of any speed.
        begun = time.monotonic()
        federation.finish(federation.train("--epsilon", EPSILON))
        life = time.monotonic() - begun
        resume: list[str] = []
        while kills < KILLS:
            before = len(list(there.federation.trainings.iterdir()))
            running = federation.train("--epsilon", EPSILON, "--minimum-silos", 2, *resume)
            if not resume:
                wait_for(lambda count=before: len(list(there.federation.trainings.iterdir())) > count, running)
            deadline = time.monotonic() + rng.uniform(0, life)
            while time.monotonic() < deadline and running.poll() is None:
                time.sleep(0.1)
            if running.poll() is None:
                kills += 1
                for victim in victims:
                    federation.kill(victim)
                if "server" in victims:
                    federation.kill("train")
                    federation.start_server()
                if "silo-1" in victims:
                    federation.start_silo(1)
                if "server" not in victims:
                    running.wait(timeout=600)
            done = (last_training(there.federation) / EMBEDDINGS).is_file()
            trainings += done
            resume = [] if done else ["--resume"]
        if resume:
            federation.finish(federation.train(*resume), timeout=600)
            trainings += 1
    finally:
        federation.stop()
    assert trainings >= 1, federation.logs()
    for silo in there.silos:
        ledger = Ledger.open(read_silo_settings(silo).ledger)
        found = verify_ledger(ledger)
        runs = ledger.runs(newest=100)
        # Same request, same bytes, one charge: a silo is charged for no round twice, whatever was killed.
        assert all(count <= ROUNDS for _, count in runs), runs
        assert found.releases == sum(count for _, count in runs)
        assert all(ledger.spending(run=run).epsilon <= EPSILON for run, _ in runs)
