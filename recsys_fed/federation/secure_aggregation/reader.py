"""Strict reading and writing of binary messages: fixed sizes, counts with bounds, nothing left over."""

import struct
from itertools import pairwise

from recsys_fed.federation.secure_aggregation.errors import MalformedMessageError
from recsys_fed.federation.secure_aggregation.terms import MOST_SILOS


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
