"""Who survived: the set that the server announces, and the signatures by which silos see that all were told the same.

survivors       server -> silo   who sent a masked input
CONFIRMATION    silo -> server   SHA-256 of the round's keys, of who sent shares and of who survived, signed
confirmations   server -> silo   the signed messages of the survivors
"""

import hashlib

from recsys_fed.federation.secure_aggregation.envelope import Phase, open_all
from recsys_fed.federation.secure_aggregation.errors import InconsistentSurvivorsError
from recsys_fed.federation.secure_aggregation.reader import Reader, read_silos, silos_to_bytes
from recsys_fed.federation.secure_aggregation.roster import Roster, check_enough, read_bundle

CONFIRMATION_BYTES = 32


def survivors_from_bytes(content: bytes) -> tuple[str, ...]:
    """The announced set; raises MalformedMessageError."""
    reader = Reader(content, "a set of survivors")
    found = read_silos(reader)
    reader.end()
    return found


def view_digest(roster: Roster, *, sharers: tuple[str, ...], survivors: tuple[str, ...]) -> bytes:
    """What a silo signs: all that it was told of this round."""
    told = roster.digest + silos_to_bytes(sharers) + silos_to_bytes(survivors)
    return hashlib.sha256(b"recsys-fed secure aggregation view\0" + told).digest()


def check_confirmations(envelopes: list[bytes], roster: Roster, survivors: tuple[str, ...], view: bytes) -> None:
    """Make sure that t survivors signed the view that this party has.

    Guarantees: with 2 t > n + c (see `terms.least_threshold`) no other view of the round has t signatures, so no
    honest silo reveals anything for another one.

    Raises:
        InconsistentSurvivorsError: a silo signed another view, or one that is no survivor signed.
        TooFewSurvivorsError: fewer signatures than the threshold.
        SecureAggregationError: of another kind, for a message that is not one of this phase.
    """
    signed = open_all(envelopes, roster.terms, Phase.CONFIRMATION, most=CONFIRMATION_BYTES)
    for silo, body in signed.items():
        if body != view or silo not in survivors:
            raise InconsistentSurvivorsError(
                f"Expected all silos to be told the same survivors, silo {silo[:12]} signed another set. Nothing is "
                "revealed; ask the operator of the server.",
                culprit=silo,
            )
    check_enough(signed, roster.terms, "confirmed the survivors")


def read_confirmations(content: bytes) -> list[bytes]:
    """The signed messages in the server's; raises MalformedMessageError."""
    return read_bundle(content, "confirmations", most=CONFIRMATION_BYTES)
