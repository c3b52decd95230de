"""Files that are encrypted at rest: AES-256-GCM (NIST SP 800-38D), whole or not at all.

    magic | nonce, 12 bytes | ciphertext and tag;     what is authenticated besides: the magic and the file's label

The label says what the file is, so that one sealed file cannot be put in the place of another. A key may seal
about 2^32 files under random nonces; a silo writes one a training.
"""

import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from recsys_fed.errors import DataNotFoundError, KeyFileError
from recsys_fed.silo.secret import OWNER_ONLY

_MAGIC = b"recsys-fed sealed 1\n"
_NONCE = 12


def write_sealed(path: Path, content: bytes, *, key: bytes, label: str) -> None:
    """Encrypt to a file, mode 0600; readers see the old file or the whole new one, also after a power failure."""
    nonce = secrets.token_bytes(_NONCE)
    sealed = _MAGIC + nonce + AESGCM(key).encrypt(nonce, content, _MAGIC + label.encode())
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, OWNER_ONLY), "wb") as file:
        file.write(sealed)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_sealed(path: Path, *, key: bytes, label: str) -> bytes:
    """Decrypt a file.

    Raises:
        DataNotFoundError: there is none.
        KeyFileError: another key or label sealed it, or it was changed; which of them cannot be told.
    """
    if not path.is_file():
        raise DataNotFoundError(f"Expected the silo's state at {path}, there is no such file. Train first.")
    sealed = path.read_bytes()
    start = len(_MAGIC) + _NONCE
    try:
        if not sealed.startswith(_MAGIC):
            raise InvalidTag
        return AESGCM(key).decrypt(sealed[len(_MAGIC) : start], sealed[start:], _MAGIC + label.encode())
    except InvalidTag as error:
        raise KeyFileError(
            f"Expected {path} as this silo's secret sealed it: the key is another one, or the file was changed."
        ) from error
