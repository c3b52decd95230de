"""Signed records: the one text of a record, and the Ed25519 keys of a silo that sign it.

The text is JSON with sorted keys, no spaces, ASCII only. A key (RFC 8032) is made once and kept in a file that only
its owner reads.

>>> canonical({"b": 1, "a": "é"})
b'{"a":"\\\\u00e9","b":1}'
>>> parse_canonical(b'{"a":1}')
{'a': 1}
>>> parse_canonical(b'{"a": 1}')
Traceback (most recent call last):
...
recsys_fed.errors.DataFormatError: Expected a record with sorted keys, without spaces, in ASCII, got another text.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
)

from recsys_fed.errors import ConfigurationError, DataFormatError, DataNotFoundError, KeyFileError
from recsys_fed.files import OWNER_ONLY, write_whole

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def canonical(record: Mapping[str, Any]) -> bytes:
    """Return the record's only text. Numbers are finite; an infinite one must be written as a text."""
    return _ENCODER.encode(record).encode()


def parse_canonical(text: bytes) -> dict[str, Any]:
    """Read a record and accept no other spelling of it, so that every byte of the text counts.

    Raises:
        DataFormatError: it is not JSON, not an object, or not in canonical form.
    """
    record = read_json(text)
    if not isinstance(record, dict):
        raise DataFormatError(f"Expected a record (a JSON object), got {type(record).__name__}.")
    try:
        same = canonical(record) == text
    except (ValueError, RecursionError) as error:
        raise DataFormatError(f"Expected a record of finite numbers: {error}.") from error
    if not same:
        raise DataFormatError("Expected a record with sorted keys, without spaces, in ASCII, got another text.")
    return record


def read_json(text: bytes) -> object:
    """Read JSON in any spelling; raises DataFormatError for anything else."""
    try:
        found: object = json.loads(text.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise DataFormatError(f"Expected JSON in ASCII, got something else: {error}.") from error
    return found


def sha256(content: bytes) -> str:
    """SHA-256 as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def require_keys(record: object, names: set[str], what: str) -> Mapping[str, Any]:
    """Return the record if it has these keys and no others; raises DataFormatError."""
    if not isinstance(record, Mapping) or set(record) != names:
        got = sorted(map(str, record)) if isinstance(record, Mapping) else type(record).__name__
        raise DataFormatError(f"Expected {what} with the keys {sorted(names)}, got {got}.")
    return record


def text_of(record: Mapping[str, Any], name: str) -> str:
    """Return a text of the record; raises DataFormatError."""
    if not isinstance(record[name], str):
        raise DataFormatError(f"Expected {name} to be a text, got {type(record[name]).__name__}.")
    return str(record[name])


_Key = TypeVar("_Key")


class _Private(Protocol):
    def private_bytes(
        self, encoding: Encoding, format: PrivateFormat, encryption_algorithm: KeySerializationEncryption
    ) -> bytes:
        """The key as a file holds it."""


def save_key(
    path: Path, key: _Private, *, passphrase: str | None = None, plain: PrivateFormat = PrivateFormat.PKCS8
) -> None:
    """Write a private key of any kind to a new file, whole or not at all, mode 0600.

    Args:
        path: of the file; its folder is made.
        key: private.
        passphrase: encrypts it (PKCS#8). plain: its form where there is none.

    Raises:
        ConfigurationError: there is a file already; a key is never overwritten.
        KeyFileError: it cannot be written.
    """
    encryption = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8 if passphrase else plain, encryption)
    try:
        if os.path.lexists(path):
            raise ConfigurationError(f"There is a key at {path} already. Use it, or move it away.")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content, mode=OWNER_ONLY, new=True)
    except OSError as error:
        raise KeyFileError(f"Cannot write a key to {path}: {error}.") from error


def load_key(path: Path, kind: type[_Key], *, what: str, passphrase: str | None = None) -> _Key:
    """Read what `save_key` wrote.

    Args:
        path: of the file.
        kind: of key. what: its name for messages, such as "the silo's secret".
        passphrase: that opens it.

    Raises:
        DataNotFoundError: there is no such file.
        KeyFileError: it cannot be read, is of another kind, or the passphrase does not open it.
    """
    if not path.is_file():
        raise DataNotFoundError(f"Cannot find {what} at {path}.")
    try:
        content = path.read_bytes()
        read = load_ssh_private_key if b"BEGIN OPENSSH" in content else load_pem_private_key
        key = read(content, passphrase.encode() if passphrase else None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"Expected {what} and the passphrase that opens it in {path}: {error}") from error
    if not isinstance(key, kind):
        raise KeyFileError(f"Expected {what} in {path}, got a {type(key).__name__}.")
    return key


_HEX_KEY, _HEX_SIGNATURE = re.compile("[0-9a-f]{64}"), re.compile("[0-9a-f]{128}")


@dataclass(frozen=True, eq=False, repr=False)
class SigningKey:
    """A private key. It has no text form, so that no log or traceback can hold it."""

    private: Ed25519PrivateKey

    @classmethod
    def generate(cls) -> Self:
        """Make a key from the operating system's generator."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path, *, passphrase: str | None = None) -> Self:
        """Read a key file; raises as `load_key`."""
        return cls(load_key(path, Ed25519PrivateKey, what="an Ed25519 key", passphrase=passphrase))

    def save(self, path: Path, *, passphrase: str | None = None) -> None:
        """Write the key to a new file; raises as `save_key`."""
        save_key(path, self.private, passphrase=passphrase)

    @property
    def public_key(self) -> str:
        """The public half as 64 hexadecimal digits."""
        return self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()

    def sign(self, purpose: str, content: bytes) -> str:
        """Sign for one purpose, 128 hexadecimal digits; a signature for another purpose never fits."""
        return self.private.sign(_message(purpose, content)).hex()


def verify_signature(public_key: str, purpose: str, content: bytes, signature: str) -> bool:
    """Whether `signature` is that of the key's owner on the content, for this purpose. Bad input is not."""
    if not (_HEX_KEY.fullmatch(public_key) and _HEX_SIGNATURE.fullmatch(signature)):
        return False
    try:
        _public(public_key).verify(bytes.fromhex(signature), _message(purpose, content))
    except (InvalidSignature, ValueError):
        return False
    return True


def parse_public_key(text: str) -> str:
    """Return a public key given by a person, in lower case.

    Raises:
        ConfigurationError: it is not 64 hexadecimal digits.
    """
    key = text.strip().lower()
    if not _HEX_KEY.fullmatch(key):
        raise ConfigurationError(f"Expected a public key of 64 hexadecimal digits, got {text!r}.")
    return key


@lru_cache(maxsize=1024)
def _public(public_key: str) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))


def _message(purpose: str, content: bytes) -> bytes:
    return f"recsys-fed {purpose}\0".encode() + content
