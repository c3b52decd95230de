"""Shares of a silo's secrets: how they are made, how they travel, and which of them survivors reveal.

*Shamir's secret sharing* over the integers modulo p = 2^256 + 297, the least prime that holds 32 bytes:

    f(x) = secret + a_1 x + ... + a_(t-1) x^(t-1)   with uniform a_i,      share of x = f(x),      secret = f(0)

Any t - 1 shares are uniform and independent of the secret; t of them give it back.

*On their way* shares are sealed by one silo for one neighbour, so that the server, which carries them, reads nothing:
AES-256-GCM under a key that only the two silos know and that serves one direction of one round; the round's keys,
sender and receiver are bound to it, so that a share that is altered, swapped or replayed does not open.

    SHARES    silo -> server   count | (receiver [32] | sealed [94]) ...
    delivery  server -> silo   everybody who sent shares | count | (sender [32] | sealed [94]) ...

*Revealed* by survivors, so that the sum can be unmasked: of every silo that sent shares, one share of one secret.

    UNMASKING   silo -> server   count | (silo [32] | kind [1] | share [33]) ...

`kind` follows from the survivors: the self mask of a silo that survived, the mask key of one that did not. It is
written out so that a silo and a server that disagree find out.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from recsys_fed.errors import ConfigurationError
from recsys_fed.federation.secure_aggregation.encoding import Reader, read_silos, silos_to_bytes, uint32
from recsys_fed.federation.secure_aggregation.errors import (
    ForgedShareError,
    InconsistentSurvivorsError,
    OutOfFieldShareError,
    WrongShareError,
)

PRIME = 2**256 + 297
SECRET_BYTES, SHARE_BYTES = 32, 33
_NONCE, _TAG = 12, 16
SEALED_BYTES = _NONCE + 2 * SHARE_BYTES + _TAG
_SELF_MASK, _MASKING = b"b", b"s"
_ENTRY = 32 + 1 + SHARE_BYTES


def split_secret(secret: bytes, points: Sequence[int], *, threshold: int) -> dict[int, bytes]:
    """One share for each point (from 1), `threshold` of which give the secret back.

    Guarantees: `threshold - 1` shares say nothing about the secret; coefficients come from the operating system.

    Raises:
        ConfigurationError: a secret of another length, points that repeat, or more needed than there are.
    """
    if len(secret) != SECRET_BYTES:
        raise ConfigurationError(f"Expected a secret of {SECRET_BYTES} bytes, got {len(secret)}.")
    if len(set(points)) != len(points) or min(points) < 1 or not 1 <= threshold <= len(points):
        raise ConfigurationError(
            f"Expected different points from 1 and a threshold up to their number {len(points)}."
        )
    coefficients = [int.from_bytes(secret, "big"), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return {point: _value(coefficients, point).to_bytes(SHARE_BYTES, "big") for point in points}


def combine_shares(shares: Mapping[int, bytes], *, threshold: int) -> bytes:
    """The secret of `threshold` shares or more, by point; the first `threshold` of them are used.

    Raises:
        OutOfFieldShareError: a share is no element of the field.
        WrongShareError: there are too few, or what they give is no secret, so that one of them is wrong.
    """
    if len(shares) < threshold:
        raise WrongShareError(f"Expected {threshold} shares, got {len(shares)}.")
    points = tuple(sorted(shares))[:threshold]
    weights = _weights_at_zero(points)
    total = sum(w * _field_element(shares[point]) for w, point in zip(weights, points, strict=True)) % PRIME
    if total >= 1 << 8 * SECRET_BYTES:
        raise WrongShareError("Expected shares of a secret of 32 bytes, they give a larger number.")
    return total.to_bytes(SECRET_BYTES, "big")


def _field_element(share: bytes) -> int:
    """A share as a number below p; raises OutOfFieldShareError for anything else."""
    value = int.from_bytes(share, "big")
    if len(share) != SHARE_BYTES or value >= PRIME:
        raise OutOfFieldShareError(f"Expected a share of {SHARE_BYTES} bytes below 2^256 + 297, got another value.")
    return value


def _value(coefficients: Sequence[int], x: int) -> int:
    """f(x) by Horner's rule."""
    total = 0
    for coefficient in reversed(coefficients):
        total = (total * x + coefficient) % PRIME
    return total


@lru_cache(maxsize=4096)
def _weights_at_zero(points: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange: f(0) = sum_i f(x_i) prod_(j != i) x_j / (x_j - x_i)."""
    weights = []
    for i, x in enumerate(points):
        top = bottom = 1
        for j, other in enumerate(points):
            if j != i:
                top = top * other % PRIME
                bottom = bottom * (other - x) % PRIME
        weights.append(top * pow(bottom, -1, PRIME) % PRIME)
    return tuple(weights)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SharePair:
    """A neighbour's two secrets, one share of each. Of one silo, only one of the two is ever revealed."""

    self_mask: bytes
    masking: bytes


def seal(pair: SharePair, key: bytes, *, context: bytes) -> bytes:
    """Encrypt a pair; `context` is what both sides know of the round."""
    nonce = secrets.token_bytes(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, pair.self_mask + pair.masking, context)


def unseal(sealed: bytes, key: bytes, *, context: bytes, sender: str) -> SharePair:
    """Decrypt a pair and check that both shares are in the field.

    Raises:
        ForgedShareError: it was not sealed by this sender for this receiver in this round.
        OutOfFieldShareError: the sender sealed something else than shares.
    """
    try:
        plain = AESGCM(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], context)
    except InvalidTag as error:
        raise ForgedShareError(
            f"Expected the share that silo {sender[:12]} sealed for this silo in this round, got another one: it was "
            "altered, swapped or replayed on the way.",
            culprit=sender,
        ) from error
    pair = SharePair(self_mask=plain[:SHARE_BYTES], masking=plain[SHARE_BYTES:])
    for share in (pair.self_mask, pair.masking):
        try:
            _field_element(share)
        except OutOfFieldShareError as error:
            raise OutOfFieldShareError(f"Silo {sender[:12]}: {error}", culprit=sender) from error
    return pair


def sealed_to_bytes(sealed: Mapping[str, bytes]) -> bytes:
    """Sealed pairs by the other party, in ascending order."""
    return uint32(len(sealed)) + b"".join(bytes.fromhex(silo) + pair for silo, pair in sorted(sealed.items()))


def _read_sealed(reader: Reader) -> dict[str, bytes]:
    """What `sealed_to_bytes` wrote; raises MalformedMessageError."""
    found = [(reader.identity(), reader.take(SEALED_BYTES)) for _ in range(reader.count())]
    reader.ascending([silo for silo, _ in found])
    return dict(found)


def sealed_from_bytes(content: bytes) -> dict[str, bytes]:
    """A silo's message of this phase: sealed pairs by receiver; raises MalformedMessageError."""
    reader = Reader(content, "sealed shares")
    found = _read_sealed(reader)
    reader.end()
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Delivery:
    """What the server brings a silo: who sent shares at all, and the pairs that are for this silo, by sender."""

    sharers: tuple[str, ...]
    sealed: Mapping[str, bytes]

    def to_bytes(self) -> bytes:
        """The message."""
        return silos_to_bytes(self.sharers) + sealed_to_bytes(self.sealed)


def read_delivery(content: bytes) -> Delivery:
    """What `Delivery.to_bytes` wrote; raises MalformedMessageError."""
    reader = Reader(content, "a delivery of shares")
    found = Delivery(sharers=read_silos(reader), sealed=_read_sealed(reader))
    reader.end()
    return found


def revealed_to_bytes(held: Mapping[str, SharePair], survivors: frozenset[str]) -> bytes:
    """One share of each silo's, never both.

    Guarantees: of a survivor the share of its self mask, of any other silo that of its mask key.
    """
    parts = [
        bytes.fromhex(silo) + (_SELF_MASK + pair.self_mask if silo in survivors else _MASKING + pair.masking)
        for silo, pair in sorted(held.items())
    ]
    return uint32(len(parts)) + b"".join(parts)


def most_revealed(n_silos: int) -> int:
    """Bytes that a message may have."""
    return 4 + n_silos * _ENTRY


def read_revealed(
    content: bytes, *, sender: str, expected: frozenset[str], survivors: frozenset[str]
) -> dict[str, bytes]:
    """Shares by the silo whose secret they are of.

    Raises:
        MalformedMessageError: another form.
        InconsistentSurvivorsError: shares of other silos than expected, or of the other secret.
        OutOfFieldShareError: a share is no element of the field.
    """
    reader = Reader(content, "revealed shares")
    found = [(reader.identity(), reader.take(1), reader.take(SHARE_BYTES)) for _ in range(reader.count())]
    reader.end()
    reader.ascending([silo for silo, _, _ in found])
    kinds = {silo: kind for silo, kind, _ in found}
    if kinds != {silo: _SELF_MASK if silo in survivors else _MASKING for silo in expected}:
        raise InconsistentSurvivorsError(
            f"Expected silo {sender[:12]} to reveal one share of each of its {len(expected)} neighbours that sent "
            f"shares, for these survivors, got {len(found)} of others.",
            culprit=sender,
        )
    for _, _, share in found:
        try:
            _field_element(share)
        except OutOfFieldShareError as error:
            raise OutOfFieldShareError(f"Silo {sender[:12]}: {error}", culprit=sender) from error
    return {silo: share for silo, _, share in found}
