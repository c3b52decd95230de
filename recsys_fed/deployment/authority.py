"""The federation's own certificate authority, and the server certificate that it signs (X.509, ECDSA P-384).

Silos trust this authority and no other: a certificate of a public one does not let anybody be the server. The
authority's key signs the server's certificate, and is not needed while the federation runs.
"""

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from recsys_fed.errors import ConfigurationError, KeyFileError
from recsys_fed.silo.secret import write_private

AUTHORITY_DAYS, SERVER_DAYS = 3650, 398
_SKEW = timedelta(minutes=5)
_FORMAT = PrivateFormat.PKCS8


def make_authority(key_file: Path, certificate_file: Path, *, name: str, passphrase: str | None = None) -> None:
    """Make the authority's key (mode 0600, encrypted if there is a passphrase) and its own certificate.

    Raises:
        ConfigurationError: the key is there already.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    encryption = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    subject = _name(f"{name} authority")
    identity = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        _dated(x509.CertificateBuilder(), days=AUTHORITY_DAYS)
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identity, critical=False)
        .sign(key, SHA384())
    )
    write_private(key_file, key.private_bytes(Encoding.PEM, _FORMAT, encryption))
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
    signer = _loaded(authority_key, passphrase)
    issuer = x509.load_pem_x509_certificate(authority_certificate.read_bytes())
    key = ec.generate_private_key(ec.SECP384R1())
    issuer_identity = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    certificate = (
        _dated(x509.CertificateBuilder(), days=SERVER_DAYS)
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
    write_private(key_file, key.private_bytes(Encoding.PEM, _FORMAT, NoEncryption()))
    certificate_file.write_bytes(certificate.public_bytes(Encoding.PEM))


def expiry(certificate_file: Path) -> datetime:
    """When a certificate ends, UTC; raises ConfigurationError if it is none."""
    try:
        return x509.load_pem_x509_certificate(certificate_file.read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"Expected a certificate in PEM at {certificate_file}: {error}.") from error


def _loaded(path: Path, passphrase: str | None) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), passphrase.encode() if passphrase else None)
    except (OSError, ValueError, TypeError) as error:
        raise KeyFileError(f"Expected the authority's key and its passphrase in {path}: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise KeyFileError(f"Expected an ECDSA key in {path}, got a {type(key).__name__}.")
    return key


def _dated(builder: x509.CertificateBuilder, *, days: int) -> x509.CertificateBuilder:
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
