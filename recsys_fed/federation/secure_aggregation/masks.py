"""Masks: the key stream of AES-256 in counter mode, added to or taken from a vector modulo 2^32 or 2^64.

2^b divides the modulus of the words, so that all arithmetic may be done on whole words and reduced to b bits when it
is packed: the low b bits of a uniform word are uniform modulo 2^b.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

Words = npt.NDArray[np.unsignedinteger[Any]]
# Bytes of key stream that are worked on together, so that they stay in the cache.
_BLOCK = 1 << 18
_ZEROS = memoryview(bytes(_BLOCK))


def word_type(bits: int) -> np.dtype[np.unsignedinteger[Any]]:
    """Type of the words that hold integers modulo 2^bits."""
    return np.dtype("<u4") if bits <= 32 else np.dtype("<u8")


def apply_mask(words: Words, key: bytes, *, add: bool) -> None:
    """Add the mask of a key to the words, in place, or take it away.

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
