"""A silo's node key, with which Flower authenticates its SuperNode (ECDSA P-384), and the line that admits it.

    ecdsa-sha2-nistp384 AAAA...  LEDGER-KEY NAME

The line is an OpenSSH public key, which Flower reads; its comment holds the public half of the key that signs the
silo's ledger and certificates, 64 hexadecimal digits, and the silo's name. It is all that a federation needs to
know of a silo in advance.
"""

from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_key,
)

from recsys_fed.errors import ConfigurationError, DataFormatError, DataNotFoundError, KeyFileError
from recsys_fed.signing import parse_public_key
from recsys_fed.silo.secret import write_private

_KIND = "ecdsa-sha2-nistp384"


@dataclass(frozen=True, kw_only=True)
class Admission:
    """A silo as the federation's operator sees it: its name and its two public keys."""

    name: str
    node_key: str
    ledger_key: str

    def __post_init__(self) -> None:
        if not self.name or not self.name.isprintable() or len(self.name) > 64:
            raise ConfigurationError(f"Expected a silo name of 1 to 64 printable characters, got {self.name!r}.")
        parse_public_key(self.ledger_key)

    def line(self) -> str:
        """The one line of the file that admits the silo."""
        return f"{_KIND} {self.node_key} {self.ledger_key} {self.name}\n"


def make_node_key(path: Path, *, passphrase: str | None = None) -> str:
    """Make a key, mode 0600; returns its public half as in an OpenSSH line (base64).

    Without a passphrase the file is in OpenSSH's format, which Flower reads; with one it is PKCS#8, encrypted.

    Raises:
        ConfigurationError: there is a file already.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    if passphrase:
        encryption = BestAvailableEncryption(passphrase.encode())
        write_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    else:
        write_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
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


def read_admission(path: Path) -> Admission:
    """Read the file that a silo sent.

    Raises:
        DataNotFoundError: there is no such file.
        DataFormatError: it is something else.
    """
    if not path.is_file():
        raise DataNotFoundError(f"Expected a silo's public key at {path}, there is no such file.")
    try:
        text = path.read_text(encoding="utf-8").strip()
        kind, node_key, ledger_key, name = text.split(" ", 3)
        key = load_ssh_public_key(f"{kind} {node_key}".encode())
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1) or "\n" in text:
            raise ValueError("another kind of key")
        return Admission(name=name, node_key=node_key, ledger_key=parse_public_key(ledger_key))
    except (ValueError, UnsupportedAlgorithm, ConfigurationError) as error:
        raise DataFormatError(
            f"Expected one line as `silo init` writes it ({_KIND} KEY LEDGER-KEY NAME) in {path}: {error}."
        ) from error


def _read(path: Path, passphrase: str | None) -> ec.EllipticCurvePrivateKey:
    if not path.is_file():
        raise DataNotFoundError(f"Expected a node key at {path}, there is no such file.")
    try:
        content = path.read_bytes()
        read = load_ssh_private_key if b"BEGIN OPENSSH" in content else load_pem_private_key
        key = read(content, passphrase.encode() if passphrase else None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"Expected a node key and the passphrase that opens it in {path}: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise KeyFileError(f"Expected an ECDSA P-384 key in {path}, got a {type(key).__name__}.")
    return key


def _public(key: ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode().split(" ")[1]
