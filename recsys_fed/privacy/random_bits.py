"""Uniform random bits: the key stream of AES-256 in counter mode, under a key that is secret or a simulation's.

The bits are as good as AES is a pseudorandom permutation; every statement about noise is "given uniform bits".
One key has one stream. A block of 2^68 bytes would be needed before the counter came round.

From them, exact independent events of one probability (`bernoulli`): who is in a Poisson sample. An event happens
where a uniform 64-bit number U is below floor(q 2^64): with probability q rounded down to a multiple of 2^-64, never
more than q. U is read as four digits of 16 bits, the highest first, and of those whose digits so far equal the
bound's, which is one in 2^16, the next digit alone. So an event costs two bytes of the stream.
"""

import hashlib
import secrets
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from recsys_fed import checks
from recsys_fed.errors import ConfigurationError

KEY_BYTES = 32
# Bytes that are asked for at once.
_CHUNK = 1 << 18
_ZEROS = memoryview(bytes(_CHUNK))
_LABEL = b"recsys-fed noise, version 1"
_BITS, _DIGIT = 64, 16
# Events whose digits are held at once.
_EVENTS = 1 << 17


class RandomBits:
    """An endless stream of uniform bits that the key decides; reading goes on where the last read ended."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ConfigurationError(f"Expected a key of {KEY_BYTES} bytes, got {len(key)}.")
        # A key is used for one stream only, so the counter may start at zero.
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def bytes_into(self, buffer: bytearray | memoryview) -> None:
        """Fill a writable buffer with the next bytes of the stream."""
        view = memoryview(buffer)
        for start in range(0, len(view), _CHUNK):
            part = view[start : start + _CHUNK]
            self._encryptor.update_into(_ZEROS[: len(part)], part)

    def uint16(self, count: int) -> npt.NDArray[np.uint16]:
        """The next `count` numbers, uniform on 0 to 2^16 - 1: [count]."""
        return self._numbers(count, np.dtype("<u2")).astype(np.uint16, copy=False)

    def uint32(self, count: int) -> npt.NDArray[np.uint32]:
        """The next `count` numbers, uniform on 0 to 2^32 - 1: [count]."""
        return self._numbers(count, np.dtype("<u4")).astype(np.uint32, copy=False)

    def _numbers(self, count: int, kind: np.dtype[np.unsignedinteger]) -> npt.NDArray[np.unsignedinteger]:
        numbers = np.empty(count, dtype=kind)
        self.bytes_into(numbers.view(np.uint8).data)
        return numbers


def secret_key() -> bytes:
    """A fresh key from the operating system's cryptographic generator, known to nobody else."""
    return secrets.token_bytes(KEY_BYTES)


def simulation_key(*key: int) -> bytes:
    """A key that follows from integers by SHA-256, for simulations and tests only: it is no secret.

    Each integer enters with its length, so that no two sequences of integers are hashed alike.
    """
    digest = hashlib.sha256(_LABEL)
    for part in key:
        text = str(int(part)).encode()
        digest.update(len(text).to_bytes(4, "big") + text)
    return digest.digest()


def bernoulli(count: int, *, probability: float, bits: RandomBits) -> npt.NDArray[np.bool_]:
    """`count` independent events, bool [count].

    Guarantees, given uniform bits: each happens with probability floor(probability 2^64) / 2^64, independently of the
    others; all happen for a probability of 1, which reads no bits.
    """
    checks.probability(probability=probability)
    # Exact: a float is a fraction.
    bound = int(Fraction(probability) * 2**_BITS)
    if bound == 2**_BITS:
        return np.ones(count, dtype=np.bool_)
    digits = [bound >> shift & (1 << _DIGIT) - 1 for shift in range(_BITS - _DIGIT, -1, -_DIGIT)]
    happens = np.empty(count, dtype=np.bool_)
    for start in range(0, count, _EVENTS):
        part = happens[start : start + _EVENTS]
        drawn = bits.uint16(len(part))
        np.less(drawn, digits[0], out=part)
        equal = np.flatnonzero(drawn == digits[0])
        for digit in digits[1:]:
            drawn = bits.uint16(len(equal))
            part[equal[drawn < digit]] = True
            equal = equal[drawn == digit]
    return happens
