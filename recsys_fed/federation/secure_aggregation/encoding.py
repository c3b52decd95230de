"""Binary messages, read strictly: fixed sizes, bounded counts, nothing left over; and integers modulo 2^b in them.

Integers take b bits each, in two planes. First the b // 8 whole bytes of every integer, least significant first; then
the b % 8 bits that are left of every integer, packed without gaps and filled up with zero bits to a whole byte.

How many bits the sum needs follows from public numbers alone. In grid steps, with n silos, m entries, noise N_Z(0,
s^2) of each silo, C / step the clip norm and U the users of all silos together, an entry of the sum is a sum of U
terms of size at most C / step, n roundings to a neighbouring integer and n draws of noise. N_Z(0, s^2) is subgaussian
with parameter s^2 (arXiv 2004.00010), so

    |entry| <= A + x,      A = U C / step + n,
    P[some |noise| > x] <= 2 m exp(-x^2 / (2 n s^2))

and b is the least with A + x < 2^(b-1) for an x at which that is below 1e-9. U is taken as four times the declared
users; if there are more, an entry could wrap round, which costs the model and not the users: reduction modulo 2^b is
post-processing.
"""

import math
import struct
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from recsys_fed import checks
from recsys_fed.errors import ConfigurationError
from recsys_fed.federation.secure_aggregation.crypto import Words, word_type
from recsys_fed.federation.secure_aggregation.errors import MalformedMessageError
from recsys_fed.federation.secure_aggregation.terms import MOST_BITS, MOST_SILOS

# Users that there may be for each declared one.
HEADROOM = 4
MOST_OVERFLOW = 1e-9


class Reader:
    """Reads a message from its start; whatever is not as expected is refused, naming the message."""

    def __init__(self, content: bytes, what: str) -> None:
        if not isinstance(content, bytes):
            raise MalformedMessageError(f"Expected the bytes of {what}, got {type(content).__name__}.")
        self._content, self._what, self._at = content, what, 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        piece = self._content[self._at : self._at + size]
        if len(piece) < size:
            raise self.refusal(f"{size} more bytes", f"{len(piece)}")
        self._at += size
        return piece

    def literal(self, expected: bytes) -> None:
        """Bytes that must be there."""
        got = self.take(len(expected))
        if got != expected:
            raise self.refusal(repr(expected), repr(got))

    def identity(self) -> str:
        """An identity key as 64 hexadecimal digits."""
        return self.take(32).hex()

    def uint32(self) -> int:
        """A number of 4 bytes."""
        return int(struct.unpack(">I", self.take(4))[0])

    def count(self, most: int = MOST_SILOS) -> int:
        """A number of items, checked before any of them is read."""
        got = self.uint32()
        if got > most:
            raise self.refusal(f"at most {most} items", f"{got}")
        return got

    def end(self) -> None:
        """Nothing may be left."""
        left = len(self._content) - self._at
        if left:
            raise self.refusal("the end", f"{left} more bytes")

    def ascending(self, names: list[str]) -> tuple[str, ...]:
        """The names if each is above the one before; a set of silos has one spelling only."""
        if any(first >= second for first, second in pairwise(names)):
            raise self.refusal("silos in ascending order", "another order")
        return tuple(names)

    def refusal(self, expected: str, got: str) -> MalformedMessageError:
        """The error to raise."""
        return MalformedMessageError(f"Expected {expected} in {self._what} at byte {self._at}, got {got}.")


def uint32(number: int) -> bytes:
    """4 bytes, the most significant one first."""
    return struct.pack(">I", number)


def silos_to_bytes(silos: tuple[str, ...]) -> bytes:
    """A set of silos: its size, then the keys in ascending order."""
    return uint32(len(silos)) + b"".join(bytes.fromhex(silo) for silo in silos)


def read_silos(reader: Reader) -> tuple[str, ...]:
    """The set that `silos_to_bytes` wrote."""
    return reader.ascending([reader.identity() for _ in range(reader.count())])


def packed_size(entries: int, bits: int) -> int:
    """Bytes that `pack` writes."""
    return entries * (bits // 8) + (entries * (bits % 8) + 7) // 8


def pack(words: Words, bits: int) -> bytes:
    """The low `bits` bits of every word of [entries], one after the other."""
    whole, rest = divmod(bits, 8)
    columns = np.ascontiguousarray(words, dtype=word_type(bits)).view(np.uint8).reshape(len(words), -1)
    planes = np.ascontiguousarray(columns[:, :whole]).tobytes()
    if not rest:
        return planes
    column = np.ascontiguousarray(columns[:, whole])
    left = np.empty((len(words), rest), dtype=np.uint8)
    for place in range(rest):
        left[:, place] = column >> np.uint8(place) & np.uint8(1)
    return planes + np.packbits(left.reshape(-1), bitorder="little").tobytes()


def unpack(content: bytes, *, entries: int, bits: int) -> Words:
    """The words [entries] that `pack` wrote.

    Raises:
        MalformedMessageError: another size, or bits that are set in vain.
    """
    if len(content) != packed_size(entries, bits):
        raise MalformedMessageError(
            f"Expected {packed_size(entries, bits)} bytes for {entries} integers of {bits} bits, got {len(content)}."
        )
    whole, rest = divmod(bits, 8)
    columns = np.zeros((entries, word_type(bits).itemsize), dtype=np.uint8)
    columns[:, :whole] = np.frombuffer(content, np.uint8, entries * whole).reshape(entries, whole)
    if rest:
        columns[:, whole] = _left_over(np.frombuffer(content, np.uint8, offset=entries * whole), entries, rest)
    return columns.reshape(-1).view(word_type(bits))


def _left_over(plane: npt.NDArray[np.uint8], entries: int, rest: int) -> npt.NDArray[np.uint8]:
    flat = np.unpackbits(plane, bitorder="little")
    if flat[entries * rest :].any():
        raise MalformedMessageError("Expected zeros after the last packed integer, got other bits.")
    bits = flat[: entries * rest].reshape(entries, rest)
    left = bits[:, 0].copy()
    for place in range(1, rest):
        left |= bits[:, place] << np.uint8(place)
    return left


@dataclass(frozen=True, kw_only=True)
class Modulus:
    """b, and the figures that it follows from.

    Attributes:
        bits: b.
        largest_sum: A, bound on an entry of the sum without its noise, in grid steps.
        noise: standard deviation of all silos' noise together, in grid steps; 0 without.
        entries: m.
    """

    bits: int
    largest_sum: float
    noise: float
    entries: int

    @property
    def overflow_probability(self) -> float:
        """Bound on the chance that some entry of the sum does not fit into b bits."""
        room = 2.0 ** (self.bits - 1) - 1 - self.largest_sum
        if room < 0:
            return 1.0
        if self.noise == 0:
            return 0.0
        return min(1.0, 2 * self.entries * math.exp(-((room / self.noise) ** 2) / 2))

    def __str__(self) -> str:
        return (
            f"{self.bits} bits a value: sums up to {self.largest_sum:.4g} steps and noise of {self.noise:.4g} in "
            f"{self.entries:,} entries, overflow with probability below {max(self.overflow_probability, 1e-300):.2g}"
        )


def modulus_for(*, declared_users: int, clip_steps: float, n_silos: int, noise_steps: float, entries: int) -> Modulus:
    """The least number of bits at which the sum overflows with probability below 1e-9.

    Args:
        declared_users: public order of magnitude of the users of all silos together.
        clip_steps: clip norm over grid step, hence a bound on what one user adds to an entry.
        n_silos: invited silos, all of which may survive.
        noise_steps: standard deviation of one silo's noise, in grid steps.
        entries: of the vector.

    Raises:
        ConfigurationError: it would take more than 39 bits.
    """
    checks.at_least(1, declared_users=declared_users, n_silos=n_silos, entries=entries)
    checks.positive(clip_steps=clip_steps)
    checks.non_negative(noise_steps=noise_steps)
    largest_sum = HEADROOM * declared_users * clip_steps + n_silos
    noise = noise_steps * math.sqrt(n_silos)
    for bits in range(2, MOST_BITS + 1):
        modulus = Modulus(bits=bits, largest_sum=largest_sum, noise=noise, entries=entries)
        if modulus.overflow_probability < MOST_OVERFLOW:
            return modulus
    raise ConfigurationError(
        f"Expected sums and noise that fit into {MOST_BITS} bits, got sums up to {largest_sum:.4g} steps and noise "
        f"of {noise:.4g}. Use a coarser grid, or fewer declared users."
    )


def to_words(integers: npt.NDArray[np.integer], bits: int) -> Words:
    """Signed integers of any shape modulo 2^b, as words [entries]."""
    return np.ravel(integers).astype(np.int64).view(np.uint64).astype(word_type(bits))


def from_words(words: Words, bits: int) -> npt.NDArray[np.int64]:
    """The integers [entries], from -2^(b-1) to below 2^(b-1), that the words are congruent to modulo 2^b."""
    shift = np.int64(64 - bits)
    # The sign bit of b bits becomes that of 64, and an arithmetic shift brings it back.
    return (words.astype(np.uint64) << np.uint64(64 - bits)).view(np.int64) >> shift
