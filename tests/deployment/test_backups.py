"""Backups: what is in them, what a silo must say before it goes on from one, and that training goes on."""

import json
import sqlite3
import stat
import tarfile
from contextlib import closing
from pathlib import Path

import pytest
from deployment_kit import deployed, train_in_process
from typer.testing import CliRunner

from client.deployed import forget_silos
from recsys_fed.cli import app
from recsys_fed.deployment.backup import back_up_federation, back_up_silo, restore_federation, restore_silo
from recsys_fed.deployment.checking import check_silo
from recsys_fed.deployment.roster import admitted_silos
from recsys_fed.errors import ConfigurationError, DataFormatError, LedgerIntegrityError
from recsys_fed.federation.run_files import EMBEDDINGS
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.signing import SigningKey
from recsys_fed.silo.settings import read_silo_settings


@pytest.fixture
def world(tmp_path):
    return deployed(tmp_path)


def entries(silo: Path) -> int:
    with closing(Ledger.open(read_silo_settings(silo).ledger)) as ledger:
        return ledger.head().number


def names(file: Path) -> set[str]:
    with tarfile.open(file) as archive:
        return set(archive.getnames())


def lost(silo: Path) -> None:
    """The folder is gone, the witness was elsewhere."""
    (silo / "ledger.witness").rename(silo.parent / "witness")
    silo.rename(silo.parent / "broken")


def test_a_silo_goes_on_from_a_backup_beside_its_witness(world, tmp_path):
    silo = world.silos[0]
    train_in_process(world, tmp_path / "first", training="first")
    back_up_silo(silo, tmp_path / "backup.tgz")
    lost(silo)
    restore_silo(tmp_path / "backup.tgz", silo, witness=tmp_path / "witness")
    assert all(finding.good for finding in check_silo(silo, reach=False))
    forget_silos()
    train_in_process(world, tmp_path / "second", training="second")
    assert (tmp_path / "second" / EMBEDDINGS).is_file()
    assert entries(silo) == entries(world.silos[1])


def test_a_ledger_that_has_forgotten_charges_is_refused(world, tmp_path):
    silo = world.silos[0]
    back_up_silo(silo, tmp_path / "backup.tgz")
    train_in_process(world, tmp_path / "first", training="first")
    lost(silo)
    with pytest.raises(LedgerIntegrityError, match="older copy"):
        restore_silo(tmp_path / "backup.tgz", silo, witness=tmp_path / "witness")
    for unsaid in ({}, {"witness": tmp_path / "witness", "spent": 1.0}):
        with pytest.raises(ConfigurationError, match="either --witness"):
            restore_silo(tmp_path / "backup.tgz", silo, **unsaid)
    with pytest.raises(ConfigurationError, match="0 or more"):
        restore_silo(tmp_path / "backup.tgz", silo, spent=-1.0)
    assert not silo.exists(), "nobody can go on with what was refused"
    assert not list(tmp_path.glob(".silo-0*"))


@pytest.mark.parametrize(("spent", "limit"), [(6.0, 14.0), (0.0, 20.0), (50.0, None)])
def test_what_was_spent_since_is_taken_off_the_limit(world, tmp_path, spent, limit):
    silo = world.silos[0]
    train_in_process(world, tmp_path / "first", training="first")
    back_up_silo(silo, tmp_path / "backup.tgz")
    lost(silo)
    head = restore_silo(tmp_path / "backup.tgz", silo, spent=spent)
    settings = read_silo_settings(silo)
    key, witness = SigningKey.load(Path(settings.ledger_key)), Path(settings.witness)
    with closing(Ledger.open(settings.ledger, key=key, witness=witness)) as ledger:
        assert ledger.terms().guarantee.epsilon == pytest.approx(limit or ledger.spending().epsilon)
        assert f"epsilon {spent:g} at most was spent since" in ledger.entry(head.number).body.reason


def test_a_backup_has_the_ledger_as_it_is_while_others_write(world, tmp_path):
    silo = world.silos[0]
    with closing(sqlite3.connect(silo / "ledger.sqlite")) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO payloads (run, request, content) VALUES ('torn', 'torn', x'00')")
        back_up_silo(silo, tmp_path / "backup.tgz")
        writer.rollback()
    restore_silo(tmp_path / "backup.tgz", tmp_path / "again", spent=0.0)
    assert entries(tmp_path / "again") == 1
    with closing(sqlite3.connect(tmp_path / "again" / "ledger.sqlite")) as copy:
        assert copy.execute("SELECT count(*) FROM payloads").fetchone() == (0,)


def test_what_is_made_anew_and_a_services_log_are_not_in_it(world, tmp_path):
    silo = world.silos[0]
    (silo / "service").mkdir()
    for name in ("log.jsonl", "service/feedback.sqlite", "service/feedback.sqlite-wal", "service/forgotten.txt"):
        (silo / name).write_text("x")
    back_up_silo(silo, tmp_path / "backup.tgz")
    found = names(tmp_path / "backup.tgz")
    assert {"silo.toml", "ledger.sqlite", "keys/ledger.key", "keys/secret.key", "service/forgotten.txt"} <= found
    assert not {"log.jsonl", "ledger.witness", "service/feedback.sqlite", "service/feedback.sqlite-wal"} & found
    assert stat.S_IMODE((tmp_path / "backup.tgz").stat().st_mode) == 0o600
    restore_silo(tmp_path / "backup.tgz", tmp_path / "again", spent=0.0)
    assert stat.S_IMODE((tmp_path / "again").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "again" / "keys" / "ledger.key").stat().st_mode) == 0o600


def test_a_federation_comes_back_whole(world, tmp_path):
    train_in_process(world, world.federation.trainings / "first", training="first")
    back_up_federation(world.federation.path, tmp_path / "backup.tgz")
    restore_federation(tmp_path / "backup.tgz", tmp_path / "again")
    again = type(world.federation)(tmp_path / "again")
    assert admitted_silos(again) == admitted_silos(world.federation)
    assert again.settings() == world.federation.settings()
    first, second = (
        {f.relative_to(f0.path): f.read_bytes() for f in f0.trainings.rglob("*") if f.is_file()}
        for f0 in (world.federation, again)
    )
    assert first == second
    assert any(str(name).endswith("events.jsonl") for name in first)


def test_other_files_are_refused_and_nothing_is_left(world, tmp_path):
    (tmp_path / "text.tgz").write_text("no archive")
    back_up_federation(world.federation.path, tmp_path / "federation.tgz")
    (tmp_path / "cut.tgz").write_bytes((tmp_path / "federation.tgz").read_bytes()[:-200])
    with tarfile.open(tmp_path / "climbing.tgz", "w:gz") as archive:
        archive.add(world.silos[0] / "silo.toml", arcname="../../silo.toml")
    for name in ("text", "federation", "cut", "climbing"):
        with pytest.raises(DataFormatError, match="Expected a backup"):
            restore_silo(tmp_path / f"{name}.tgz", tmp_path / "again", spent=0.0)
        assert not (tmp_path / "again").exists()
    with pytest.raises(ConfigurationError, match="holds something"):
        restore_silo(tmp_path / "federation.tgz", world.silos[0], spent=0.0)
    with pytest.raises(ConfigurationError, match="already"):
        back_up_silo(world.silos[0], tmp_path / "federation.tgz")


def test_the_commands_say_what_comes_next(world, tmp_path):
    run = CliRunner().invoke
    silo, file = str(world.silos[0]), str(tmp_path / "silo.tgz")
    assert "private keys" in run(app, ["silo", "backup", silo, file]).output
    refused = run(app, ["silo", "restore", file, str(tmp_path / "again")])
    assert "either --witness" in str(refused.exception)
    found = run(app, ["silo", "restore", file, str(tmp_path / "again"), "--spent", "0"])
    assert "silo check" in found.output
    record = json.loads(run(app, ["silo", "check", str(tmp_path / "again"), "--offline", "--json"]).output)
    # The data stood beside the folder, and does so still.
    assert all(finding["good"] for finding in record), record
    file = str(tmp_path / "federation.tgz")
    assert "private keys" in run(app, ["federation", "backup", str(world.federation.path), file]).output
    assert "federation serve" in run(app, ["federation", "restore", file, str(tmp_path / "other")]).output
