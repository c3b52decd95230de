"""The silo's secret: one key file from which the keys of pseudonyms and of stored state are derived.

The file is a PKCS#8 X25519 key: 32 random bytes in a format that can be encrypted under a passphrase, which comes
from the environment: it is in no file and on no command line. Keys for each purpose follow by HKDF-SHA256 (RFC 5869),
so that none of them tells another.

Pseudonyms are a keyed hash of the raw id, so that what the silo keeps and logs names nobody.

    pseudonym = first 128 bits of HMAC-SHA256(key derived from the silo's secret, id as text)

Without the key a pseudonym cannot be guessed from an id, not even from a list of all ids. Of 10^9 users two
share one with probability below 10^-20.

Files are encrypted at rest by AES-256-GCM (NIST SP 800-38D), whole or not at all.

    magic | nonce, 12 bytes | ciphertext and tag;     what is authenticated besides: the magic and the file's label

The label says what the file is, so that one sealed file cannot be put in the place of another. A key may seal
about 2^32 files under random nonces; a silo writes one a training.
"""

import hashlib
import hmac
import os
import secrets
from pathlib import Path

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from recsys_fed.errors import DataNotFoundError, KeyFileError
from recsys_fed.files import OWNER_ONLY, write_whole
from recsys_fed.signing import load_key, save_key

VARIABLE = "RECSYS_FED_PASSPHRASE"


def passphrase() -> str | None:
    """The passphrase, or None where there is none."""
    return os.environ.get(VARIABLE) or None


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
        """Read a key file; raises as `load_key`."""
        return cls(load_key(path, X25519PrivateKey, what="the silo's secret", passphrase=passphrase))

    def save(self, path: Path, *, passphrase: str | None = None) -> None:
        """Write a new file; raises as `save_key`."""
        save_key(path, self._private, passphrase=passphrase)

    def derive_key(self, purpose: str) -> bytes:
        """The 32-byte key of one purpose."""
        kdf = HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=f"recsys-fed {purpose}".encode())
        return kdf.derive(self._private.private_bytes_raw())


_DIGITS = 32
_PSEUDONYMS = "user pseudonyms"
# Borne by all who take no part (`opt_out`): a user has it by chance with probability 2^-128.
NOBODY = "0" * _DIGITS


class Pseudonyms:
    """The silo's pseudonyms; the same secret gives the same ones for ever."""

    def __init__(self, secret: SiloSecret) -> None:
        self._key = secret.derive_key(_PSEUDONYMS)

    def of(self, user: str) -> str:
        """The pseudonym of one raw id, 32 hexadecimal digits."""
        return hmac.new(self._key, user.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:_DIGITS]

    def of_all(self, users: npt.NDArray[np.object_]) -> npt.NDArray[np.object_]:
        """Those of many, object array of str [n]."""
        found = np.empty(len(users), dtype=object)
        found[:] = [self.of(user) for user in users.tolist()]
        return found


_MAGIC = b"recsys-fed sealed 1\n"
_NONCE_BYTES = 12


def write_sealed(path: Path, content: bytes, *, key: bytes, label: str) -> None:
    """Encrypt to a file, mode 0600; readers see the old file or the whole new one, also after a power failure."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    sealed = _MAGIC + nonce + AESGCM(key).encrypt(nonce, content, _MAGIC + label.encode())
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_whole(path, sealed, mode=OWNER_ONLY)


def read_sealed(path: Path, *, key: bytes, label: str) -> bytes:
    """Decrypt a file.

    Raises:
        DataNotFoundError: there is none.
        KeyFileError: another key or label sealed it, or it was changed; which of them cannot be told.
    """
    if not path.is_file():
        raise DataNotFoundError(f"Cannot find the silo's state at {path}. Train first.")
    sealed = path.read_bytes()
    start = len(_MAGIC) + _NONCE_BYTES
    try:
        if not sealed.startswith(_MAGIC):
            raise InvalidTag
        return AESGCM(key).decrypt(sealed[len(_MAGIC) : start], sealed[start:], _MAGIC + label.encode())
    except InvalidTag as error:
        raise KeyFileError(
            f"Expected {path} as this silo's secret sealed it: the key is another one, or the file was changed."
        ) from error
