"""Real processes go on after a silo or the federation has new keys, and after both were put back from backups."""

import shutil

import pytest
from deployment_kit import CONFIG, SILOS, deployed
from real_federation import RealFederation

from recsys_fed.certificates.run import verify_run
from recsys_fed.deployment.roster import publish_roster
from recsys_fed.federation.run_files import CERTIFICATES, EMBEDDINGS, EVENTS
from recsys_fed.flower import free_port


def done(federation, *arguments):
    found = federation.command(*arguments)
    assert found.returncode == 0, found.stderr
    return found.stdout


def keys_of(folder) -> dict[str, str]:
    found = verify_run(folder / CERTIFICATES, events=folder / EVENTS, model=folder / EMBEDDINGS)
    assert found.holds, found.problems
    return {silo: certificate.terms.public_key for silo, certificate in found.certificates.items()}


def change_federation_keys(federation):
    """Silos fetch the new keys from the server that has the old certificate, and go on under the new authority."""
    there = federation.there
    done(federation, "federation", "change-keys", there.federation.path, "--reason", "yearly")
    for silo in there.silos:
        done(federation, "silo", "update", silo, "--agree")
        pinned = silo / "federation" / "federation.pub"
        assert pinned.read_text() == (there.federation.public / "federation.pub").read_text()
    done(federation, "federation", "renew-certificate", there.federation.path)
    for name in ("server", *(f"silo-{index}" for index in range(SILOS))):
        federation.kill(name)
    federation.start_all()
    for silo in there.silos:
        done(federation, "silo", "update", silo, "--agree")
        authority = (silo / "federation" / "authority.pem").read_text()
        assert authority == (there.federation.public / "authority.pem").read_text()
        assert authority.count("BEGIN CERTIFICATE") == 1


@pytest.mark.soak
def test_training_goes_on_after_new_keys_and_backups(tmp_path):
    there = deployed(tmp_path / "federation", config=CONFIG, port=free_port())
    federation = RealFederation(there, tmp_path / "logs")
    north, south = there.silos[:2]
    try:
        federation.start_all()
        first = federation.finish(federation.train())
        done(federation, "silo", "change-keys", north, "--reason", "yearly")
        done(federation, "federation", "admit", there.federation.path, north / "silo-0.pub")
        for silo in there.silos:
            publish_roster(there.federation, silo / "federation" / "roster.json")
        # South's machine burns down; the witness was elsewhere.
        done(federation, "silo", "backup", south, tmp_path / "south.tgz")
        federation.kill("silo-1")
        (south / "ledger.witness").rename(tmp_path / "witness")
        shutil.rmtree(south)
        done(federation, "silo", "restore", tmp_path / "south.tgz", south, "--witness", tmp_path / "witness")
        # So does the server's.
        done(federation, "federation", "backup", there.federation.path, tmp_path / "federation.tgz")
        for name in ("server", "silo-0", "silo-2"):
            federation.kill(name)
        shutil.rmtree(there.federation.path)
        done(federation, "federation", "restore", tmp_path / "federation.tgz", there.federation.path)
        federation.start_all()
        second = federation.finish(federation.train())
        change_federation_keys(federation)
        third = federation.finish(federation.train())
    finally:
        federation.stop()
    before, after = keys_of(first), keys_of(second)
    # The silos' own keys, and runs of every time, have nothing to do with the federation's.
    assert keys_of(third) == after
    assert len(after) == SILOS
    assert {silo for silo in after if before[silo] != after[silo]} == {"silo-0"}
    for silo in there.silos:
        # Under the default terms a training may begin three times in seven days: all are in one ledger.
        assert "It holds" in done(federation, "privacy", "verify", silo / "ledger.sqlite")
