"""A training is one at a time, is stopped by its operator, and does not outlive its server. Real processes."""

import contextlib
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from deployment_kit import CONFIG, deployed
from real_federation import RealFederation, log_lines, wait_for

from recsys_fed.deployment.training import _last_training, _unfinished_runs
from recsys_fed.federation.run_files import LOG
from recsys_fed.flower import free_port
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.silo.settings import read_silo_settings


@pytest.mark.soak
def test_a_training_is_stopped_resumed_and_alone(tmp_path):
    there = deployed(tmp_path / "federation", config=replace(CONFIG, rounds=8), port=free_port())
    federation, folder = RealFederation(there, tmp_path / "logs"), there.federation
    try:
        federation.start_all()
        # SIGTERM, as systemd or `timeout` sends it; the round under way ends. The kill below may cut one off that
        # silos have paid for: the training is to cost 3 of the agreed 6.
        train = federation.train("--epsilon", 3)
        wait_for(lambda: rounds_begun(folder) >= 1, train)
        second = federation.command("federation", "train", folder.path, "--resume")
        assert second.returncode == 2
        assert f"Process {train.pid} trains with this federation." in second.stderr.replace("\n", " ")
        os.kill(train.pid, signal.SIGTERM)
        assert train.wait(timeout=400) == 130
        expect_nothing_goes_on(federation)
        assert last_event(folder) == "round finished"
        spent = [releases(silo) for silo in there.silos]

        # Another terminal's `federation stop`.
        train = federation.train("--resume")
        begun = rounds_begun(folder)
        wait_for(lambda: rounds_begun(folder) > begun, train)
        stopped = federation.command("federation", "stop", folder.path)
        assert stopped.returncode == 0, stopped.stderr
        assert train.wait(timeout=400) == 2
        expect_nothing_goes_on(federation)
        assert last_event(folder) == "round finished"

        # A kill of `federation train` leaves the run; the next one says so, and the server's end ends it.
        train = federation.train("--resume")
        begun = rounds_begun(folder)
        wait_for(lambda: rounds_begun(folder) > begun, train)
        federation.kill("train")
        refused = federation.command("federation", "train", folder.path, "--resume")
        assert "A training goes on that nobody follows." in refused.stderr
        assert f"recsys-fed federation stop {folder.path}" in refused.stderr.replace("\n", "")
        federation.kill("server")
        federation.start_server()
        expect_nothing_goes_on(federation)

        federation.finish(federation.train("--resume"))
        assert all(releases(silo) > before for silo, before in zip(there.silos, spent, strict=True))
    finally:
        federation.stop()


def rounds_begun(folder) -> int:
    """Rounds that the newest training's server has begun."""
    with contextlib.suppress(Exception):
        return sum(line["event"] == "round begun" for line in log_lines(_last_training(folder) / LOG))
    return 0


def last_event(folder) -> object:
    """What the newest training's server has written down last."""
    return log_lines(_last_training(folder) / LOG)[-1]["event"]


def expect_nothing_goes_on(federation) -> None:
    """No run is left in Flower, and its program ends."""
    folder = federation.there.federation
    assert _unfinished_runs(folder) == []
    wait_for(lambda: not serverapps(folder), federation.process("server"))


def serverapps(folder) -> list[str]:
    """Programs that run this federation's ServerApp."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if "flwr-serverapp" in command and str(folder.public) in command:
                found.append(command)
    return found


def releases(silo) -> int:
    """How many releases a silo's ledger holds."""
    with contextlib.closing(Ledger.open(read_silo_settings(silo).ledger)) as ledger:
        return ledger.releases()
