"""A silo's new keys: admitted in the place of the old ones, by nobody else, and after a crash at any step."""

from contextlib import closing
from pathlib import Path

import pytest
from deployment_kit import SILOS, deployed, train_in_process
from typer.testing import CliRunner

from client.deployed import forget_silos
from recsys_fed.certificates.run import verify_run
from recsys_fed.cli import app
from recsys_fed.deployment import provisioning
from recsys_fed.deployment._keys import Admission, plain_node_key, public_node_key, read_admission
from recsys_fed.deployment.provisioning import change_keys
from recsys_fed.deployment.roster import admit, admitted_silos, publish_roster, revoke
from recsys_fed.errors import ConfigurationError, DataFormatError, KeyFileError
from recsys_fed.federation.run_files import CERTIFICATES, EMBEDDINGS, EVENTS
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.verification import verify_ledger
from recsys_fed.signing import SigningKey
from recsys_fed.silo.settings import read_silo_settings


@pytest.fixture
def world(tmp_path):
    return deployed(tmp_path)


def changed(world, index=0, **more) -> Admission:
    return change_keys(world.silos[index], reason="yearly", **more)[0]


def verified(silo: Path):
    settings = read_silo_settings(silo)
    key = SigningKey.load(Path(settings.ledger_key))
    with closing(Ledger.open(settings.ledger, key=key)) as ledger:
        return verify_ledger(ledger, public_key=key.public_key)


def test_new_keys_take_the_place_of_the_old_ones(world):
    before = admitted_silos(world.federation)
    new = changed(world)
    assert admit(world.federation, world.silos[0] / "silo-0.pub").ledger_key == new.ledger_key
    after = admitted_silos(world.federation)
    assert [known.name for known in after] == [known.name for known in before]
    assert after[1:] == before[1:]
    assert {after[0].node_key, after[0].ledger_key}.isdisjoint({before[0].node_key, before[0].ledger_key})
    settings = read_silo_settings(world.silos[0])
    assert public_node_key(Path(settings.node_key)) == after[0].node_key
    assert verified(world.silos[0]).terms.public_key == after[0].ledger_key
    for file in world.federation.admitted.iterdir():
        assert file.read_text().count("\n") == 1, "Flower reads one line"


def test_a_training_goes_on_under_the_new_keys_and_runs_of_either_time_hold(world, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    train_in_process(world, first, training="first")
    changed(world)
    admit(world.federation, world.silos[0] / "silo-0.pub")
    for silo in world.silos:
        publish_roster(world.federation, silo / "federation" / "roster.json")
    forget_silos()
    train_in_process(world, second, training="second")
    keys = []
    for folder in (first, second):
        found = verify_run(folder / CERTIFICATES, events=folder / EVENTS, model=folder / EMBEDDINGS)
        assert found.holds, found.problems
        keys.append({certificate.terms.public_key for certificate in found.certificates.values()})
    assert len(keys[0] & keys[1]) == SILOS - 1
    assert verified(world.silos[0]).releases == verified(world.silos[1]).releases


def test_only_the_owner_of_the_old_ledger_key_puts_others_in_its_place(world, tmp_path):
    file = tmp_path / "new.pub"
    new = changed(world)
    plain = Admission(name=new.name, node_key=new.node_key, ledger_key=new.ledger_key)
    file.write_text(plain.line())
    with pytest.raises(ConfigurationError, match="change-keys"):
        admit(world.federation, file)
    file.write_text(plain.approved(SigningKey.generate()).line())
    with pytest.raises(ConfigurationError, match="is not admitted with the ledger key"):
        admit(world.federation, file)
    lines = new.line().splitlines()
    key_before = lines[1].split()[0]
    file.write_text(f"{lines[0]}\n{key_before} {plain.approved(SigningKey.generate()).approval}\n")
    with pytest.raises(DataFormatError, match="has not"):
        read_admission(file)
    other = Admission(name="silo-1", node_key=new.node_key, ledger_key=new.ledger_key)
    file.write_text(other.approved(SigningKey.load(Path(read_silo_settings(world.silos[0]).ledger_key))).line())
    with pytest.raises(ConfigurationError, match="is not admitted with the ledger key"):
        admit(world.federation, file)
    assert len(admitted_silos(world.federation)) == SILOS


def test_keys_that_were_replaced_or_revoked_are_admitted_no_more(world):
    old = (world.silos[0] / "silo-0.pub").read_text()
    changed(world)
    new = (world.silos[0] / "silo-0.pub").read_text()
    admit(world.federation, world.silos[0] / "silo-0.pub")
    again = world.silos[0] / "again.pub"
    again.write_text(old)
    with pytest.raises(ConfigurationError, match="has or had one of them"):
        admit(world.federation, again)
    revoke(world.federation, "silo-0")
    again.write_text(new)
    with pytest.raises(ConfigurationError, match=r"is not admitted with|has or had one of them"):
        admit(world.federation, again)


@pytest.mark.parametrize("step", ["make_node_key", "public_node_key", "write_whole"])
def test_a_change_that_was_interrupted_is_finished_by_the_next(world, monkeypatch, step):
    with monkeypatch.context() as patch:
        patch.setattr(provisioning, step, lambda *_, **__: (_ for _ in ()).throw(OSError("no space")))
        with pytest.raises(OSError, match="no space"):
            changed(world)
    new = changed(world)
    admit(world.federation, world.silos[0] / "silo-0.pub")
    found = verified(world.silos[0])
    assert (found.terms.public_key, found.head.number) == (new.ledger_key, 1), "one change, once"
    assert not list((world.silos[0] / "keys").glob("*.new"))


def test_a_passphrase_covers_the_new_keys_too(world):
    silo = read_silo_settings(world.silos[0])
    for file in (silo.ledger_key, silo.node_key):
        Path(file).unlink()
    # As `silo init` makes them under a passphrase; the ledger is made anew for its key.
    Path(silo.ledger).unlink()
    provisioning._make_keys(_without_secret(silo), epsilon=5.0, passphrase="words")
    change_keys(world.silos[0], reason="yearly", passphrase="words")
    with pytest.raises(KeyFileError):
        plain_node_key(Path(silo.node_key))
    assert plain_node_key(Path(silo.node_key), passphrase="words")
    assert SigningKey.load(Path(silo.ledger_key), passphrase="words")


def _without_secret(silo):
    Path(silo.secret_key).unlink()
    return silo


def test_the_command_says_what_to_do_next(world):
    found = CliRunner().invoke(app, ["silo", "change-keys", str(world.silos[2]), "--reason", "a laptop was stolen"])
    assert found.exit_code == 0, found.output
    assert "silo-2.pub" in found.output
    assert "start the silo again" in found.output
    log = CliRunner().invoke(app, ["privacy", "log", str(world.silos[2] / "ledger.sqlite")])
    assert "a laptop was stolen" in log.output
