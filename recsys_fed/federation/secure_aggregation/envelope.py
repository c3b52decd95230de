"""A silo's message: what it says, signed for one phase of one round by the silo's identity key.

magic "RFSA" version | phase | silo [32] | digest of the terms [32] | size | body | signature [64]
"""

import hashlib
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

from recsys_fed.federation.secure_aggregation.encoding import Reader, uint32
from recsys_fed.federation.secure_aggregation.errors import (
    ForgedSignatureError,
    MalformedMessageError,
    NotAdmittedError,
    ReplayedMessageError,
)
from recsys_fed.federation.secure_aggregation.terms import VERSION, RoundTerms
from recsys_fed.signing import SigningKey, verify_signature

_MAGIC = b"RFSA" + bytes([VERSION])
_HEAD = len(_MAGIC) + 1 + 32 + 32 + 4
OVERHEAD = _HEAD + 64


class Phase(IntEnum):
    """The exchange that a silo's message belongs to."""

    KEYS = 1
    SHARES = 2
    INPUT = 3
    CONFIRMATION = 4
    UNMASKING = 5


@dataclass(frozen=True, kw_only=True)
class _Signed:
    """An opened message, whose signature holds."""

    silo: str
    body: bytes


def seal_envelope(key: SigningKey, terms: RoundTerms, phase: Phase, body: bytes) -> bytes:
    """Sign a body for one phase of one round."""
    signature = key.sign(_purpose(phase), _content_to_sign(terms.digest, body))
    head = _MAGIC + bytes([phase]) + bytes.fromhex(key.public_key) + terms.digest + uint32(len(body))
    return head + body + bytes.fromhex(signature)


def open_envelope(content: bytes, terms: RoundTerms, phase: Phase, *, most: int) -> _Signed:
    """Check who sent a message, for which round and phase, and that nobody changed it.

    Args:
        most: bytes that the body of this phase may have.

    Raises:
        MalformedMessageError: it is no envelope, or too large.
        NotAdmittedError: its sender is not invited to the round.
        ForgedSignatureError: the signature is not the sender's.
        ReplayedMessageError: the sender signed it, for another round or phase.
    """
    what = f"a message of phase {phase.name.lower()}"
    reader = Reader(content, what)
    reader.literal(_MAGIC)
    got_phase, silo, digest = reader.take(1)[0], reader.identity(), reader.take(32)
    size = reader.count(most)
    body, signature = reader.take(size), reader.take(64).hex()
    reader.end()
    if silo not in terms.silos:
        raise NotAdmittedError(f"Expected {what} from an invited silo, got one from {silo[:12]}.", culprit=silo)
    try:
        claimed = Phase(got_phase)
    except ValueError as error:
        raise MalformedMessageError(f"Expected {what}, got phase {got_phase}.", culprit=silo) from error
    if not _genuine(silo, _purpose(claimed), _content_to_sign(digest, body), signature):
        raise ForgedSignatureError(
            f"Expected {what} signed by silo {silo[:12]}, got a signature that is not its own: somebody on the way, "
            "or the silo itself, changed the message.",
            culprit=silo,
        )
    if claimed != phase or digest != terms.digest:
        raise ReplayedMessageError(
            f"Expected {what} in this round, got a genuine message of silo {silo[:12]} for another round or phase "
            f"({claimed.name.lower()}).",
            culprit=silo,
        )
    return _Signed(silo=silo, body=body)


def open_all(contents: list[bytes], terms: RoundTerms, phase: Phase, *, most: int) -> dict[str, bytes]:
    """Bodies of one phase by silo.

    Raises:
        ReplayedMessageError: two messages of one silo; and what `open_envelope` raises.
    """
    bodies: dict[str, bytes] = {}
    for content in contents:
        signed = open_envelope(content, terms, phase, most=most)
        if signed.silo in bodies:
            raise ReplayedMessageError(
                f"Expected one message of silo {signed.silo[:12]} in phase {phase.name.lower()}, got two.",
                culprit=signed.silo,
            )
        bodies[signed.silo] = signed.body
    return dict(sorted(bodies.items()))


def forget_checked_signatures() -> None:
    """Check signatures again that this process has checked already, as silos of their own have to."""
    _genuine.cache_clear()


@lru_cache(maxsize=4096)
def _genuine(silo: str, purpose: str, content: bytes, signature: str) -> bool:
    """Checked once in a process: silos of a simulation all see the same signatures."""
    return verify_signature(silo, purpose, content, signature)


def _purpose(phase: Phase) -> str:
    return f"secure aggregation {phase.name.lower()}"


def _content_to_sign(digest: bytes, body: bytes) -> bytes:
    return digest + hashlib.sha256(body).digest()
