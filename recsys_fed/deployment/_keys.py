"""The federation's own certificate authority, and the server certificate that it signs (X.509, ECDSA P-384).

Silos trust this authority and no other: a certificate of a public one does not let anybody be the server. The
authority's key signs the server's certificate, and is not needed while the federation runs.

A silo's node key, with which Flower authenticates its SuperNode (ECDSA P-384), and the line that admits it.

    ecdsa-sha2-nistp384 AAAA...  LEDGER-KEY NAME

The line is an OpenSSH public key, which Flower reads; its comment holds the public half of the key that signs the
silo's ledger and certificates, 64 hexadecimal digits, and the silo's name. It is all that a federation needs to
know of a silo in advance. Where a silo changes its keys, a second line holds its ledger key until then and that key's
signature of the first line.
"""

import base64
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from recsys_fed.errors import ConfigurationError, DataFormatError, DataNotFoundError, KeyFileError
from recsys_fed.signing import SigningKey, load_key, parse_public_key, save_key, verify_signature

_AUTHORITY_DAYS, SERVER_DAYS = 3650, 398
_SKEW = timedelta(minutes=5)


def make_authority(key_file: Path, certificate_file: Path, *, name: str, passphrase: str | None = None) -> None:
    """Make the authority's key (mode 0600, encrypted if there is a passphrase) and its own certificate.

    Raises:
        ConfigurationError: the key is there already.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    subject = _name(f"{name} authority")
    identity = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        _set_validity(x509.CertificateBuilder(), days=_AUTHORITY_DAYS)
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identity, critical=False)
        .sign(key, SHA384())
    )
    save_key(key_file, key, passphrase=passphrase)
    certificate_file.write_bytes(certificate.public_bytes(Encoding.PEM))


def make_server_certificate(
    key_file: Path,
    certificate_file: Path,
    *,
    authority_key: Path,
    authority_certificate: Path,
    hosts: Sequence[str],
    passphrase: str | None = None,
) -> None:
    """Make the server's key (mode 0600, not encrypted: Flower reads it) and a certificate for its host names.

    Raises:
        ConfigurationError: the key is there already, or there is no host.
        KeyFileError: the authority's key cannot be read with this passphrase.
    """
    if not hosts:
        raise ConfigurationError("Expected the host names or addresses that silos connect to, got none.")
    signer = load_key(authority_key, ec.EllipticCurvePrivateKey, what="the authority's key", passphrase=passphrase)
    issuer = x509.load_pem_x509_certificate(authority_certificate.read_bytes())
    key = ec.generate_private_key(ec.SECP384R1())
    issuer_identity = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    certificate = (
        _set_validity(x509.CertificateBuilder(), days=SERVER_DAYS)
        .subject_name(_name(hosts[0]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(issuer_identity, critical=False)
        .sign(signer, SHA384())
    )
    save_key(key_file, key)
    certificate_file.write_bytes(certificate.public_bytes(Encoding.PEM))


def expiry(certificate_file: Path) -> datetime:
    """When a certificate ends, UTC; raises ConfigurationError if it is none."""
    try:
        return x509.load_pem_x509_certificate(certificate_file.read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"Expected a certificate in PEM at {certificate_file}: {error}.") from error


def _set_validity(builder: x509.CertificateBuilder, *, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = builder.not_valid_before(now - _SKEW).not_valid_after(now + timedelta(days=days))
    return builder.serial_number(x509.random_serial_number())


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


_KIND, _APPROVAL = "ecdsa-sha2-nistp384", "change of a silo's keys"


@dataclass(frozen=True, kw_only=True)
class Admission:
    """A silo as the federation's operator sees it: its name and its two public keys.

    Where they take the place of earlier ones: `key_before` is the ledger key until then, whose owner `approval` shows
    to have wanted it (a signature of the line).
    """

    name: str
    node_key: str
    ledger_key: str
    key_before: str = ""
    approval: str = ""

    def __post_init__(self) -> None:
        if not self.name or not self.name.isprintable() or len(self.name) > 64:
            raise ConfigurationError(f"Expected a silo name of 1 to 64 printable characters, got {self.name!r}.")
        parse_public_key(self.ledger_key)

    def line(self) -> str:
        """The file that admits the silo: one line, and a second one where it takes the place of earlier keys."""
        line = f"{_KIND} {self.node_key} {self.ledger_key} {self.name}\n"
        return line + (f"{self.key_before} {self.approval}\n" if self.key_before else "")

    def approved(self, key: SigningKey) -> "Admission":
        """These keys in the place of those of the silo whose ledger key is `key`."""
        return replace(self, key_before=key.public_key, approval=key.sign(_APPROVAL, self.line().encode()))

    def check_approval(self) -> None:
        """Raise ConfigurationError unless the owner of the key before has signed the line."""
        line = replace(self, key_before="", approval="").line()
        if not verify_signature(self.key_before, _APPROVAL, line.encode(), self.approval):
            raise ConfigurationError("Expected new keys that the key before has signed, it has not.")

    def node_key_pem(self) -> bytes:
        """The node key as a SuperNode sends it."""
        key = load_ssh_public_key(f"{_KIND} {self.node_key}".encode())
        return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def make_node_key(path: Path, *, passphrase: str | None = None) -> str:
    """Make a key, mode 0600; returns its public half as in an OpenSSH line (base64).

    Without a passphrase the file is in OpenSSH's format, which Flower reads; with one it is PKCS#8, encrypted.

    Raises:
        ConfigurationError: there is a file already.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    save_key(path, key, passphrase=passphrase, plain=PrivateFormat.OpenSSH)
    return _public(key)


def plain_node_key(path: Path, *, passphrase: str | None = None) -> bytes:
    """The key's bytes as Flower reads them, without a passphrase: for a file in memory only.

    Raises:
        DataNotFoundError: there is no such file.
        KeyFileError: it is no P-384 key, or the passphrase does not open it.
    """
    return _read(path, passphrase).private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def public_node_key(path: Path, *, passphrase: str | None = None) -> str:
    """The public half (base64) of a key file; raises as `plain_node_key`."""
    return _public(_read(path, passphrase))


def signed_headers(key: bytes) -> dict[str, str]:
    """What a SuperNode with this key (as of `plain_node_key`) sends with each message: its key and a signed time."""
    private = load_ssh_private_key(key, None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise KeyFileError("Expected a node key (ECDSA P-384), got another kind of key.")
    now = datetime.now(UTC).isoformat()
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signature = private.sign(now.encode(), ec.ECDSA(SHA256()))
    return {
        "flwr-public-key": base64.b64encode(public).decode(),
        "flwr-timestamp": now,
        "flwr-signature": base64.b64encode(signature).decode(),
    }


def read_admission(path: Path) -> Admission:
    """Read the file that a silo sent.

    Raises:
        DataNotFoundError: there is no such file.
        DataFormatError: it is something else.
    """
    if not path.is_file():
        raise DataNotFoundError(f"Cannot find a silo's public key at {path}.")
    try:
        text, _, second = path.read_text(encoding="utf-8").strip().partition("\n")
        kind, node_key, ledger_key, name = text.split(" ", 3)
        key = load_ssh_public_key(f"{kind} {node_key}".encode())
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
            raise ValueError("another kind of key")
        found = Admission(name=name, node_key=node_key, ledger_key=parse_public_key(ledger_key))
        if second:
            before, approval = second.split(" ")
            found = replace(found, key_before=parse_public_key(before), approval=approval)
            found.check_approval()
        return found
    except (ValueError, UnsupportedAlgorithm, ConfigurationError) as error:
        raise DataFormatError(
            f"Expected one line as `silo init` writes it ({_KIND} KEY LEDGER-KEY NAME) in {path}: {error}."
        ) from error


def _read(path: Path, passphrase: str | None) -> ec.EllipticCurvePrivateKey:
    key = load_key(path, ec.EllipticCurvePrivateKey, what="a node key", passphrase=passphrase)
    if not isinstance(key.curve, ec.SECP384R1):
        raise KeyFileError(f"Expected a node key (ECDSA P-384) in {path}, got one on {key.curve.name}.")
    return key


def _public(key: ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode().split(" ")[1]
