"""The silo's secret: one key file from which the keys of pseudonyms and of stored state are derived.

The file is a PKCS#8 X25519 key: 32 random bytes in a format that can be encrypted under a passphrase. Keys for
each purpose follow by HKDF-SHA256 (RFC 5869), so that none of them tells another.
"""

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from recsys_fed.errors import ConfigurationError, DataNotFoundError, KeyFileError

OWNER_ONLY = 0o600
_KEY_BYTES = 32


class SiloSecret:
    """The secret in memory. It has no text form, so that no log or traceback can hold it."""

    def __init__(self, private: X25519PrivateKey) -> None:
        self._private = private

    @classmethod
    def generate(cls) -> "SiloSecret":
        """A new secret from the operating system's generator."""
        return cls(X25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path, *, passphrase: str | None = None) -> "SiloSecret":
        """Read a key file.

        Raises:
            DataNotFoundError: there is no such file.
            KeyFileError: it is something else, or the passphrase does not open it.
        """
        if not path.is_file():
            raise DataNotFoundError(f"Expected the silo's secret at {path}, there is no such file.")
        try:
            private = load_pem_private_key(path.read_bytes(), passphrase.encode() if passphrase else None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise KeyFileError(f"Expected a secret and the passphrase that opens it in {path}: {error}") from error
        if not isinstance(private, X25519PrivateKey):
            raise KeyFileError(f"Expected the silo's secret in {path}, got a {type(private).__name__}.")
        return cls(private)

    def save(self, path: Path, *, passphrase: str | None = None) -> None:
        """Write a new file, mode 0600, encrypted if there is a passphrase; see `write_private`."""
        encryption = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
        write_private(path, self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))

    def derived(self, purpose: str) -> bytes:
        """The 32-byte key of one purpose."""
        kdf = HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=f"recsys-fed {purpose}".encode())
        return kdf.derive(self._private.private_bytes_raw())


def write_private(path: Path, content: bytes) -> None:
    """Write a new file that only its owner reads; it is on the disk when this returns.

    Raises:
        ConfigurationError: there is a file already; a key is never overwritten.
        KeyFileError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
    except FileExistsError as error:
        raise ConfigurationError(f"Expected no key at {path} yet, there is one. Use it, or move it away.") from error
    except OSError as error:
        raise KeyFileError(f"Expected to write a key to {path}: {error}.") from error
    with os.fdopen(file, "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
