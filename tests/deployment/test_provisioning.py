"""Folders of a federation and its silos: keys, certificates, settings, and who is admitted."""

import socket
import ssl
import stat
import threading
from dataclasses import replace

import numpy as np
import pytest

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.config import FederationConfig
from recsys_fed.deployment._keys import (
    expiry,
    make_authority,
    make_node_key,
    plain_node_key,
    public_node_key,
    read_admission,
)
from recsys_fed.deployment.federation import (
    FederationSettings,
    read_federation,
    shell_line,
    split_address,
    superlink_command,
    supernode_command,
)
from recsys_fed.deployment.provisioning import init_federation, init_silo, renew_server_certificate
from recsys_fed.deployment.roster import admit, admitted_silos, revoke
from recsys_fed.errors import ConfigurationError, DataFormatError, KeyFileError
from recsys_fed.federation.admission import read_roster
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.silo.settings import read_silo_settings

TERMS = FederationConfig(silos=3, declared_users=500, epsilon=4.0, trainer="dp-sgd", dp_sgd={"loss": "bpr"})
DATA = {"source": "csv", "path": "interactions.csv"}


@pytest.fixture
def catalogue(tmp_path):
    Catalogue(item_ids=np.array(["a", "b"], dtype=object)).save(tmp_path / "catalogue.parquet")
    return tmp_path / "catalogue.parquet"


@pytest.fixture
def federation(catalogue, tmp_path):
    settings = FederationSettings(name="clinics", address="fed.example.org:9443", training=TERMS)
    return init_federation(tmp_path / "federation", settings, catalogue=catalogue, hosts=["10.1.2.3"])


def silo(federation, path, name="north", **more):
    return init_silo(path, federation=federation.public, name=name, epsilon=8.0, data=DATA, **more)


def test_a_silo_agrees_to_the_terms_that_the_federation_has_set(federation, tmp_path):
    admission = silo(federation, tmp_path / "north")
    settings, written = read_silo_settings(tmp_path / "north"), federation.settings()
    assert settings.agreed == written.training == replace(TERMS, dp_sgd=written.training.dp_sgd)
    assert dict(settings.agreed.dp_sgd) == {"loss": "bpr"}
    assert settings.address == "fed.example.org:9443"
    ledger = Ledger.open(settings.ledger)
    terms = ledger.terms()
    assert (terms.silo, terms.guarantee.epsilon, terms.simulated) == ("north", 8.0, False)
    assert terms.public_key == admission.ledger_key
    assert read_admission(tmp_path / "north" / "north.pub") == admission


def test_private_keys_are_for_their_owner_only(federation, tmp_path):
    silo(federation, tmp_path / "north", passphrase="long enough")
    keys = [*federation.path.rglob("*.key"), *(tmp_path / "north").rglob("*.key")]
    assert len(keys) == 6
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
    for path in (tmp_path / "north" / "keys").glob("*.key"):
        assert b"ENCRYPTED" in path.read_bytes(), path
    node = tmp_path / "north" / "keys" / "node.key"
    assert plain_node_key(node, passphrase="long enough").startswith(b"-----BEGIN OPENSSH")
    for wrong in (None, "other"):
        with pytest.raises(KeyFileError):
            plain_node_key(node, passphrase=wrong)


def test_nothing_is_ever_overwritten(federation, catalogue, tmp_path):
    silo(federation, tmp_path / "north")
    with pytest.raises(ConfigurationError, match=r"There is a .* already"):
        silo(federation, tmp_path / "north")
    with pytest.raises(ConfigurationError, match=r"There is a .* already"):
        init_federation(federation.path, FederationSettings(training=TERMS), catalogue=catalogue)
    with pytest.raises(ConfigurationError, match=r"There is a .* already"):
        make_node_key(tmp_path / "north" / "keys" / "node.key")


def test_settings_that_are_refused_leave_no_silo(federation, tmp_path):
    with pytest.raises(ConfigurationError):
        init_silo(tmp_path / "x", federation=federation.public, name="x", epsilon=8.0, data={"source": "csv"})
    assert not (tmp_path / "x" / "silo.toml").exists()
    silo(federation, tmp_path / "x", name="x")


def handshake(server_context, client_context, name):
    """What the client's side of a TLS handshake over a socket pair ends with."""
    left, right = socket.socketpair()
    with left, right:
        thread = threading.Thread(target=lambda: _serve(server_context, left))
        thread.start()
        try:
            with client_context.wrap_socket(right, server_hostname=name) as secure:
                return secure.version()
        except ssl.SSLError as error:
            return type(error).__name__
        finally:
            thread.join()


def _serve(context, plain):
    try:
        context.wrap_socket(plain, server_side=True).close()
    except OSError:
        plain.close()


def test_the_certificate_holds_for_its_hosts_under_its_own_authority_only(federation, tmp_path):
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(federation.server_certificate, federation.server_key)
    trusting = ssl.create_default_context(cafile=str(federation.public / "authority.pem"))
    for name in ("fed.example.org", "10.1.2.3", "127.0.0.1", "localhost"):
        assert handshake(server, trusting, name) == "TLSv1.3"
    assert handshake(server, trusting, "other.example.org") == "SSLCertVerificationError"
    make_authority(tmp_path / "o.key", tmp_path / "o.pem", name="other")
    other = ssl.create_default_context(cafile=str(tmp_path / "o.pem"))
    assert handshake(server, other, "fed.example.org") == "SSLCertVerificationError"
    assert handshake(server, ssl.create_default_context(), "fed.example.org") == "SSLCertVerificationError"

    before = federation.server_certificate.read_bytes()
    renew_server_certificate(federation, hosts=["10.1.2.3"], passphrase=None)
    assert federation.server_certificate.read_bytes() != before
    assert stat.S_IMODE(federation.server_key.stat().st_mode) == 0o600
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(federation.server_certificate, federation.server_key)
    assert handshake(server, trusting, "10.1.2.3") == "TLSv1.3"
    assert expiry(federation.server_certificate) < expiry(federation.public / "authority.pem")


def test_who_is_admitted_is_in_the_roster_until_revoked(federation, tmp_path):
    north, south = silo(federation, tmp_path / "north"), silo(federation, tmp_path / "south", name="south")
    for path in (tmp_path / "north" / "north.pub", tmp_path / "south" / "south.pub"):
        admit(federation, path)
        admit(federation, path)
    roster = {"north": north.ledger_key, "south": south.ledger_key}
    assert read_roster(federation.public / "roster.json") == roster
    assert revoke(federation, "north") == north
    assert [known.name for known in admitted_silos(federation)] == ["south"]
    assert read_roster(federation.public / "roster.json") == {"south": south.ledger_key}
    with pytest.raises(ConfigurationError, match="has or had"):
        admit(federation, tmp_path / "north" / "north.pub")
    with pytest.raises(ConfigurationError, match="south"):
        revoke(federation, "north")


def test_a_name_or_a_key_is_taken_once(federation, tmp_path):
    north = silo(federation, tmp_path / "north")
    admit(federation, tmp_path / "north" / "north.pub")
    other = silo(federation, tmp_path / "other", name="other")
    for index, clash in enumerate(
        (
            replace(other, name="north"),
            replace(other, node_key=north.node_key),
            replace(other, ledger_key=north.ledger_key),
        )
    ):
        (tmp_path / f"{index}.pub").write_text(clash.line())
        with pytest.raises(ConfigurationError, match="has or had"):
            admit(federation, tmp_path / f"{index}.pub")


@pytest.mark.parametrize(
    "text", ["", "ssh-ed25519 AAAA b c", "x", "a b c d", "ecdsa-sha2-nistp384 AAAA " + "0" * 64 + " n"]
)
def test_another_file_is_no_admission(text, federation, tmp_path):
    (tmp_path / "x.pub").write_text(text)
    with pytest.raises(DataFormatError):
        admit(federation, tmp_path / "x.pub")


def test_a_name_cannot_leave_the_folder(federation, tmp_path):
    line = silo(federation, tmp_path / "north")
    (tmp_path / "x.pub").write_text(replace(line, name="../../etc/passwd").line())
    admit(federation, tmp_path / "x.pub")
    (only,) = federation.admitted.iterdir()
    assert only.parent == federation.admitted


def test_without_protection_only_on_loopback_and_only_if_said():
    for listen in ("0.0.0.0", "10.1.2.3", "::"):  # noqa: S104
        with pytest.raises(ConfigurationError, match="loopback"):
            FederationSettings(listen=listen, insecure=True)
    assert FederationSettings(listen="127.0.0.1", insecure=True).insecure


def test_the_commands_are_flowers_own_with_tls_and_authentication(federation, tmp_path):
    silo(federation, tmp_path / "north")
    settings = read_silo_settings(tmp_path / "north")
    server = superlink_command(federation, federation.settings())
    assert {"--enable-supernode-auth", "--ssl-certfile", "--disable-runtime-dependency-installation"} <= set(server)
    node = supernode_command(settings, node_key="KEY", port=9094)
    assert {"--root-certificates", "--auth-supernode-private-key"} <= set(node)
    assert "--insecure" not in server + node
    assert "--allow-runtime-dependency-installation" not in node
    text = shell_line(server, federation.flower_home)
    assert text.startswith(f"FLWR_HOME={federation.flower_home} FLWR_TELEMETRY_ENABLED=0 flower-superlink ")


@pytest.mark.parametrize("address", ["", "host", "host:0", "host:99999", "ho st:1", "host:1:2", "http://host:1"])
def test_an_address_is_a_host_and_a_port(address):
    with pytest.raises(ConfigurationError):
        split_address(address)


def test_a_key_that_nothing_reads_is_refused(federation):
    text = federation.settings_file.read_text()
    for changed in (
        text + "\nx = 1\n",
        text.replace("[federation]", "[federation]\nlisten-on = 1"),
        text + "\n[more]\n",
    ):
        federation.settings_file.write_text(changed)
        with pytest.raises(ConfigurationError, match="nothing reads"):
            read_federation(federation.settings_file)


def test_node_keys_tell_their_public_half(tmp_path):
    assert public_node_key(tmp_path / "k") if (tmp_path / "k").exists() else make_node_key(tmp_path / "k")
    assert public_node_key(tmp_path / "k") in plain_public(tmp_path / "k")


def plain_public(path):
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

    key = load_ssh_private_key(plain_node_key(path), None).public_key()
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
