"""A silo's secrets of one round, the keys that two silos agree on, and the masks that follow from them.

Keys are those of X25519 (RFC 7748), then HKDF-SHA256. Every key is bound to the round's signed keys (salt) and to
what it is for (info), so that keys of another round, pair, direction or purpose differ.

*Masks* are the key stream of AES-256 in counter mode, added to or taken from a vector modulo 2^32 or 2^64. 2^b
divides the modulus of the words, so that all arithmetic may be done on whole words and reduced to b bits when it is
packed: the low b bits of a uniform word are uniform modulo 2^b.
"""

import hashlib
import secrets
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from recsys_fed.federation.secure_aggregation.errors import SubstitutedKeyError

KEY_BYTES = 32
_LABEL = b"recsys-fed secure aggregation "
AgreementKey = X25519PrivateKey
Words = npt.NDArray[np.unsignedinteger[Any]]
# Bytes of key stream that are worked on together, so that they stay in the cache.
_BLOCK = 1 << 18
_ZEROS = memoryview(bytes(_BLOCK))


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RoundSecrets:
    """Drawn anew for every round and attempt; they have no text form and are never written to a disk.

    Attributes:
        sealing: private X25519 key that shares are sealed with.
        masking: private X25519 key that pairwise masks follow from; shared among the neighbours.
        self_mask: seed of the silo's own mask; shared among the neighbours.
    """

    sealing: bytes
    masking: bytes
    self_mask: bytes


def fresh_secrets() -> RoundSecrets:
    """Secrets from the operating system's generator."""
    return RoundSecrets(
        sealing=X25519PrivateKey.generate().private_bytes_raw(),
        masking=X25519PrivateKey.generate().private_bytes_raw(),
        self_mask=secrets.token_bytes(KEY_BYTES),
    )


def load_key(private: bytes) -> X25519PrivateKey:
    """An X25519 key, ready to agree with many others."""
    return X25519PrivateKey.from_private_bytes(private)


def public_key(private: bytes) -> bytes:
    """The public half of an X25519 key."""
    return load_key(private).public_key().public_bytes_raw()


def commitment(self_mask: bytes, *, terms: bytes, silo: str) -> bytes:
    """What a silo signs of its self mask before anybody holds a share of it. It hides a seed of 256 random bits."""
    return hashlib.sha256(_LABEL + b"commitment\0" + terms + bytes.fromhex(silo) + self_mask).digest()


def pair_mask_key(private: X25519PrivateKey, public: bytes, *, roster: bytes, own: str, peer: str) -> bytes:
    """Key of the mask of two silos, the same from both sides; raises SubstitutedKeyError for an unusable key."""
    pair = b"".join(sorted((bytes.fromhex(own), bytes.fromhex(peer))))
    return _derive(_agree(private, public, peer), roster, b"pair\0" + pair)


def self_mask_key(self_mask: bytes, *, roster: bytes, silo: str) -> bytes:
    """Key of a silo's own mask."""
    return _derive(self_mask, roster, b"self\0" + bytes.fromhex(silo))


def sealing_key(
    private: X25519PrivateKey, public: bytes, *, roster: bytes, sender: str, receiver: str, peer: str
) -> bytes:
    """Key of the one sealed message from sender to receiver, of whom `peer` is the other party."""
    direction = bytes.fromhex(sender) + bytes.fromhex(receiver)
    return _derive(_agree(private, public, peer), roster, b"share\0" + direction)


def _agree(private: X25519PrivateKey, public: bytes, peer: str) -> bytes:
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise SubstitutedKeyError(
            f"Expected an X25519 key of silo {peer[:12]}, got one of small order, which agrees on nothing.",
            culprit=peer,
        ) from error


def _derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=_LABEL + info).derive(secret)


def word_type(bits: int) -> np.dtype[np.unsignedinteger[Any]]:
    """Type of the words that hold integers modulo 2^bits."""
    return np.dtype("<u4") if bits <= 32 else np.dtype("<u8")


def apply_mask(words: Words, key: bytes, *, add: bool) -> None:
    """Add the mask of a key to the words [entries], in place, or take it away.

    Guarantees: words masked with a key that is used for nothing else are indistinguishable from uniform ones, as AES
    is from a random permutation. Adding and taking away cancel exactly.
    """
    # A key has one stream and is used once, so the counter may start at zero.
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    buffer = bytearray(min(_BLOCK, words.nbytes))
    mask = np.frombuffer(buffer, dtype=words.dtype)
    combine = np.add if add else np.subtract
    for start in range(0, len(words), max(1, len(mask))):
        part = words[start : start + len(mask)]
        stream.update_into(_ZEROS[: part.nbytes], memoryview(buffer)[: part.nbytes])
        combine(part, mask[: len(part)], out=part)
