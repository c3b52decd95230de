"""A silo in two federations with one ledger: one limit for both, and each has its own trainings."""

from dataclasses import replace
from pathlib import Path

import pytest
from deployment_kit import CONFIG, SILOS, deployed, train_in_process
from typer.testing import CliRunner

from client.deployed import forget_silos, open_deployed_silo
from recsys_fed.certificates.run import verify_run
from recsys_fed.cli import app
from recsys_fed.deployment.backup import back_up_silo, restore_silo
from recsys_fed.deployment.provisioning import change_keys, init_silo, shared_ledger
from recsys_fed.deployment.roster import admit
from recsys_fed.errors import ConfigurationError
from recsys_fed.federation.run_files import CERTIFICATES, EMBEDDINGS, EVENTS
from recsys_fed.ledger.entries import federation_in, training_in
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.records import export_ledger
from recsys_fed.ledger.verification import verify_ledger
from recsys_fed.privacy.accounting import epsilon_of_history
from recsys_fed.silo.settings import read_silo_settings

PLAIN = replace(CONFIG, rounds=2, secure_aggregation="off", minimum_silos=1)
OTHER = replace(PLAIN, declared_users=300, epsilon=3.0)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two federations; silo-0 of the first is in both, and both have trained under the same name."""
    forget_silos()
    folder = tmp_path_factory.mktemp("two")
    one, two = deployed(folder / "one", config=PLAIN), deployed(folder / "two", config=OTHER)
    both = joined(two.federation.public, folder / "two" / "both", one.silos[0])
    two.silos[0] = both
    for there, config in ((one, PLAIN), (two, OTHER)):
        if there is two:
            replaced(there, both)
        train_in_process(there, there.federation.path.parent / "run", config=config, training="same-name")
    return one, two


def joined(public: Path, path: Path, beside: Path) -> Path:
    init_silo(
        path,
        federation=public,
        name="silo-0",
        epsilon=None,
        data={"source": "csv", "path": "../silo-0.csv", "user": "customer", "item": "sku"},
        extra={"threads": 1, **shared_ledger(beside, public)},
    )
    return path


def replaced(there, silo: Path) -> None:
    """Admit the silo in the place of the one that the kit has made under this name."""
    next(file for file in there.federation.admitted.iterdir() if file.read_text().endswith(" silo-0\n")).unlink()
    admit(there.federation, silo / "silo-0.pub")


def ledger_of(silo: Path) -> Ledger:
    settings = read_silo_settings(silo)
    return Ledger.open(settings.ledger, witness=Path(settings.witness))


def test_both_are_charged_to_one_ledger_and_certificates_hold(world):
    one, two = world
    ledger = ledger_of(two.silos[0])
    runs = [run for run, _ in ledger.runs(newest=10)]
    assert {training_in(run) for run in runs} == {"same-name"}
    label = read_silo_settings(two.silos[0]).federation
    assert {federation_in(run) for run in runs} == {"", label}
    assert ledger.releases() == 4
    for there in (one, two):
        output = there.federation.path.parent / "run"
        found = verify_run(output / CERTIFICATES, events=output / EVENTS, model=output / EMBEDDINGS)
        assert found.holds, found.problems
        certificate = next(c for c in found.certificates.values() if c.terms.silo == "silo-0")
        assert (certificate.run, len(certificate.releases)) == ("same-name", 2)
        assert len(found.certificates) == SILOS


def test_the_accountants_count_the_union(world, tmp_path):
    ledger = ledger_of(world[1].silos[0])
    events = [entry.body.event for run, _ in ledger.runs(newest=10) for entry in ledger.releases_of(run)]
    spending = ledger.spending()
    assert spending.epsilon == pytest.approx(epsilon_of_history(events, delta=PLAIN.delta))
    for run, _ in ledger.runs(newest=10):
        parts = ledger.spending(run=run).by_accountant
        assert all(epsilon > parts[name] for name, epsilon in spending.by_accountant.items())
    assert verify_ledger(ledger).spending.epsilon == spending.epsilon
    # Whoever holds an export checks the certificates of either federation.
    export = tmp_path / "ledger.jsonl"
    export_ledger(ledger, export)
    for there in world:
        certificate = next((there.federation.path.parent / "run" / CERTIFICATES).glob("*silo-0.json"))
        found = CliRunner().invoke(app, ["privacy", "verify", str(export), "--certificates", str(certificate)])
        assert found.exit_code == 0, found.output


def test_what_a_federation_may_begin_is_counted_for_itself(world):
    for there in world:
        silo = open_deployed_silo(there.silos[0])
        assert silo.run_in_ledger("x") == ("x" if there is world[0] else f"{silo.federation}/x")
    assert open_deployed_silo(world[0].silos[0]).federation == ""


def test_the_ledgers_terms_hold_in_both(world, tmp_path):
    one, two = world
    with pytest.raises(ConfigurationError, match="--beside"):
        init_silo(tmp_path / "x", federation=two.federation.public, name="silo-0", epsilon=None, data={"path": "x"})
    command = ["silo", "init", str(tmp_path / "y"), "--federation", str(two.federation.public), "--name", "another"]
    command += ["--beside", str(one.silos[0]), "--path", str(one.silos[0].parent / "silo-0.csv")]
    found = CliRunner().invoke(app, [*command, "--columns", "user=customer,item=sku"])
    assert found.exit_code == 1
    assert "Expected silo silo-0" in str(found.exception or found.output)
    assert not (tmp_path / "y" / "silo.toml").exists()


def test_backups_and_new_keys_are_of_the_one_ledger(world, tmp_path):
    one, two = world
    other = two.silos[0]
    back_up_silo(other, tmp_path / "other.tgz")
    settings = read_silo_settings(other)
    head = restore_silo(tmp_path / "other.tgz", tmp_path / "again", witness=Path(settings.witness))
    assert read_silo_settings(tmp_path / "again").ledger == settings.ledger
    assert head.number == ledger_of(other).head().number
    for _ in range(2):
        admissions = change_keys(one.silos[0], reason="yearly", also=[other])
        assert len({admission.ledger_key for admission in admissions}) == 1
        for there, silo in ((one, one.silos[0]), (two, other)):
            assert admit(there.federation, silo / "silo-0.pub").ledger_key == admissions[0].ledger_key
    forget_silos()
    assert open_deployed_silo(other).key.public_key == admissions[0].ledger_key
    with pytest.raises(ConfigurationError, match="share the key"):
        change_keys(one.silos[0], reason="yearly", also=[one.silos[1]])
