"""Shares on their way: sealed by one silo for one neighbour, so that the server, which carries them, reads nothing.

AES-256-GCM under a key that only the two silos know and that serves one direction of one round; the round's keys,
sender and receiver are bound to it, so that a share that is altered, swapped or replayed does not open.

    SHARES    silo -> server   count | (receiver [32] | sealed [94]) ...
    delivery  server -> silo   everybody who sent shares | count | (sender [32] | sealed [94]) ...
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from recsys_fed.federation.secure_aggregation.errors import ForgedShareError, OutOfFieldShareError
from recsys_fed.federation.secure_aggregation.reader import Reader, read_silos, silos_to_bytes, uint32
from recsys_fed.federation.secure_aggregation.shamir import SHARE_BYTES, field_element

_NONCE, _TAG = 12, 16
SEALED_BYTES = _NONCE + 2 * SHARE_BYTES + _TAG


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
            field_element(share)
        except OutOfFieldShareError as error:
            raise OutOfFieldShareError(f"Silo {sender[:12]}: {error}", culprit=sender) from error
    return pair


def sealed_to_bytes(sealed: Mapping[str, bytes]) -> bytes:
    """Sealed pairs by the other party, in ascending order."""
    return uint32(len(sealed)) + b"".join(bytes.fromhex(silo) + pair for silo, pair in sorted(sealed.items()))


def read_sealed(reader: Reader) -> dict[str, bytes]:
    """What `sealed_to_bytes` wrote; raises MalformedMessageError."""
    found = [(reader.identity(), reader.take(SEALED_BYTES)) for _ in range(reader.count())]
    reader.ascending([silo for silo, _ in found])
    return dict(found)


def sealed_from_bytes(content: bytes) -> dict[str, bytes]:
    """A silo's message of this phase: sealed pairs by receiver; raises MalformedMessageError."""
    reader = Reader(content, "sealed shares")
    found = read_sealed(reader)
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
    found = Delivery(sharers=read_silos(reader), sealed=read_sealed(reader))
    reader.end()
    return found
