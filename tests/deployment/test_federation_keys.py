"""A federation changes its keys: silos follow signatures from the key that they have pinned, and no others."""

import json
import shutil
import ssl
from dataclasses import replace

import pytest
from deployment_kit import deployed
from typer.testing import CliRunner

from recsys_fed.cli import app
from recsys_fed.deployment import notice as notices
from recsys_fed.deployment.federation import FederationFolder
from recsys_fed.deployment.notice import public_federation_key, publish, read_notice
from recsys_fed.deployment.provisioning import change_federation_keys, renew_server_certificate
from recsys_fed.deployment.updating import accept_update, fetch_update
from recsys_fed.errors import ConfigurationError, DataFormatError, LedgerIntegrityError
from recsys_fed.signing import SigningKey, canonical
from recsys_fed.silo.settings import handed_out_folder, read_silo_settings


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    found = deployed(tmp_path_factory.mktemp("made") / "folder")
    for silo in found.silos:
        taken_in(silo, found)
    return found


@pytest.fixture
def there(made, tmp_path):
    folder = tmp_path / "folder"
    shutil.copytree(made.federation.path.parent, folder)
    silos = [folder / silo.name for silo in made.silos]
    return replace(made, federation=FederationFolder(folder / "federation"), silos=silos)


def shown(silo, there):
    return fetch_update(read_silo_settings(silo), passphrase=None, file=there.federation.public / "notice.json")


def taken_in(silo, there):
    found = shown(silo, there)
    accept_update(read_silo_settings(silo), found, passphrase=None)
    return found


def changed(there, reason="yearly", **more):
    return change_federation_keys(there.federation, reason=reason, passphrase=None, **more)


def trusted(silo) -> int:
    """How many authorities a silo's client accepts."""
    return len(ssl.create_default_context(cafile=read_silo_settings(silo).root_certificate).get_ca_certs())


def test_silos_follow_any_number_of_changes_and_pin_the_last(there):
    first = public_federation_key(there.federation.public)
    one, late = there.silos[:2]
    changed(there)
    found = taken_in(one, there)
    assert [change.reason for change in found.changes] == ["yearly"]
    assert any("yearly" in line for line in found.lines())
    changed(there, "a laptop was stolen")
    for silo, changes in ((one, 1), (late, 2)):
        found = taken_in(silo, there)
        assert len(found.changes) == changes
        assert not shown(silo, there).is_news
        pinned = public_federation_key(handed_out_folder(read_silo_settings(silo)))
        assert pinned == public_federation_key(there.federation.public) != first
    # Nothing has changed, so nothing is signed anew.
    assert publish(there.federation, passphrase=None) == found.notice


def test_a_notice_from_before_the_change_is_not_taken_for_news(there):
    old = (there.federation.public / "notice.json").read_bytes()
    changed(there)
    silo = there.silos[0]
    taken_in(silo, there)
    (there.federation.public / "notice.json").write_bytes(old)
    with pytest.raises(LedgerIntegrityError, match="not signed by the federation's key"):
        shown(silo, there)
    # One that has not gone along yet sees what it has already.
    assert not shown(there.silos[1], there).is_news


def test_who_has_stolen_a_key_misleads_nobody_who_has_gone_along(there, tmp_path):
    stolen = tmp_path / "stolen"
    shutil.copytree(there.federation.path, stolen)
    thief = type(there.federation)(stolen)
    changed(there)
    change_federation_keys(thief, reason="yearly", passphrase=None)
    for _ in range(3):
        change_federation_keys(thief, reason="higher versions", passphrase=None)
    silo = read_silo_settings(there.silos[0])
    taken_in(there.silos[0], there)
    with pytest.raises(LedgerIntegrityError):
        fetch_update(silo, passphrase=None, file=thief.public / "notice.json")


def meddled(there, change):
    path = there.federation.public / "notice.json"
    record = json.loads(path.read_bytes())
    change(record["changes"])
    return canonical(record)


MEDDLING = (
    (lambda found: found[0].update(reason="another"), LedgerIntegrityError),
    (lambda found: found[0].update(after="0" * 64), LedgerIntegrityError),
    (lambda found: found[0].update(proof=found[0]["signature"]), LedgerIntegrityError),
    (lambda found: found[0].update(signature=found[0]["proof"]), LedgerIntegrityError),
    (lambda found: found.pop(0), LedgerIntegrityError),
    (lambda found: found.pop(), LedgerIntegrityError),
    (lambda found: found.reverse(), LedgerIntegrityError),
    (lambda found: found.append("nothing"), DataFormatError),
    (lambda found: found[0].pop("time"), DataFormatError),
)


def test_changes_that_do_not_hold_are_refused(there):
    key = public_federation_key(there.federation.public)
    for reason in ("yearly", "yearly again"):
        changed(there, reason)
    good = (there.federation.public / "notice.json").read_bytes()
    assert len(read_notice(good, public_key=key).changes) == 2
    for change, error in MEDDLING:
        with pytest.raises(error):
            read_notice(meddled(there, change), public_key=key)


def test_the_server_is_trusted_through_the_change_of_its_authority(there):
    silo = there.silos[0]
    assert trusted(silo) == 1
    serving = there.federation.server_certificate.read_bytes()
    changed(there)
    taken_in(silo, there)
    # The old certificate serves on, and the new one will.
    assert there.federation.server_certificate.read_bytes() == serving
    assert trusted(silo) == 2
    renew_server_certificate(there.federation, hosts=(), passphrase=None)
    found = taken_in(silo, there)
    assert found.authority and not found.changes
    assert trusted(silo) == 1
    assert not shown(silo, there).is_news


def test_a_change_that_was_interrupted_is_finished_by_the_next_call(there, monkeypatch):
    key = public_federation_key(there.federation.public)

    def crash(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(notices.Path, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            changed(there)
    changed(there)
    found = read_notice((there.federation.public / "notice.json").read_bytes(), public_key=key)
    assert len(found.changes) == 1
    assert found.key == SigningKey.load(there.federation.federation_key).public_key
    assert not list(there.federation.federation_key.parent.glob("*.new*"))
    assert trusted_by_server(there) == 2


def trusted_by_server(there) -> int:
    return len(ssl.create_default_context(cafile=there.federation.public / "authority.pem").get_ca_certs())


def test_a_passphrase_covers_the_new_keys_and_a_reason_is_needed(there):
    with pytest.raises(ConfigurationError, match="reason"):
        changed(there, " ")
    folder = str(there.federation.path)
    found = CliRunner().invoke(app, ["federation", "change-keys", folder, "--reason", "a server was stolen"])
    assert found.exit_code == 0, found.output
    for text in ("fingerprint", "silo update", "renew-certificate"):
        assert text in found.output
