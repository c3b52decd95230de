"""Integers modulo 2^b as bytes: b bits each, in two planes.

First the b // 8 whole bytes of every integer, least significant first; then the b % 8 bits that are left of every
integer, packed without gaps and filled up with zero bits to a whole byte.
"""

import numpy as np
import numpy.typing as npt

from recsys_fed.federation.secure_aggregation.errors import MalformedMessageError
from recsys_fed.federation.secure_aggregation.masks import Words, word_type


def packed_size(entries: int, bits: int) -> int:
    """Bytes that `pack` writes."""
    return entries * (bits // 8) + (entries * (bits % 8) + 7) // 8


def pack(words: Words, bits: int) -> bytes:
    """The low `bits` bits of every word."""
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
    """The words that `pack` wrote; raises MalformedMessageError for another size or bits that are set in vain."""
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
