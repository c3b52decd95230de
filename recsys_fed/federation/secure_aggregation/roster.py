"""What all silos of a round must be told alike: everybody's signed keys, and who survived.

The roster is the list of all silos' advertisements that everybody gets. The survivors are a set that the server
announces, and by their signatures silos see that all were told the same:

survivors       server -> silo   who sent a masked input
CONFIRMATION    silo -> server   SHA-256 of the round's keys, of who sent shares and of who survived, signed
confirmations   server -> silo   the signed messages of the survivors
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from recsys_fed.federation.secure_aggregation.encoding import Reader, read_silos, silos_to_bytes, uint32
from recsys_fed.federation.secure_aggregation.envelope import OVERHEAD, Phase, open_all
from recsys_fed.federation.secure_aggregation.errors import (
    InconsistentSurvivorsError,
    SubstitutedKeyError,
    TooFewSurvivorsError,
)
from recsys_fed.federation.secure_aggregation.neighbours import Ring, ring_of
from recsys_fed.federation.secure_aggregation.terms import RoundTerms

_ADVERTISEMENT = 96
CONFIRMATION_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class Advertisement:
    """Two public X25519 keys of a silo for one round, and the commitment to its self mask."""

    sealing: bytes
    masking: bytes
    commitment: bytes

    def to_bytes(self) -> bytes:
        """96 bytes."""
        return self.sealing + self.masking + self.commitment

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Read `to_bytes`; raises MalformedMessageError."""
        reader = Reader(content, "an advertisement of keys")
        found = cls(sealing=reader.take(32), masking=reader.take(32), commitment=reader.take(32))
        reader.end()
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Roster:
    """Everybody who advertised keys, each entry checked against its silo's identity key."""

    terms: RoundTerms
    advertisements: Mapping[str, Advertisement]

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of all keys of the round. Salt of every key that is derived, and the seed of the ring."""
        parts = (bytes.fromhex(silo) + ad.to_bytes() for silo, ad in sorted(self.advertisements.items()))
        return hashlib.sha256(self.terms.digest + b"".join(parts)).digest()

    @cached_property
    def ring(self) -> Ring:
        """Who is whose neighbour."""
        terms = self.terms
        return ring_of(self.advertisements, seed=self.digest, threshold=terms.threshold, colluding=terms.colluding)

    @cached_property
    def points(self) -> Mapping[str, int]:
        """Where each silo's share of a secret is evaluated: 1, 2, ... in the order of the keys."""
        return {silo: point for point, silo in enumerate(sorted(self.advertisements), start=1)}


def roster_of(envelopes: list[bytes], terms: RoundTerms) -> Roster:
    """Check every silo's signed keys.

    Raises:
        SubstitutedKeyError: a key occurs twice.
        TooFewSurvivorsError: fewer silos than the threshold.
        SecureAggregationError: of another kind, for a message that is not one of this phase.
    """
    bodies = open_all(envelopes, terms, Phase.KEYS, most=_ADVERTISEMENT)
    check_enough(bodies, terms, "advertised keys")
    advertisements = {silo: Advertisement.from_bytes(body) for silo, body in bodies.items()}
    seen: dict[bytes, str] = {}
    for silo, advertisement in advertisements.items():
        for key in (advertisement.sealing, advertisement.masking):
            if key in seen:
                raise SubstitutedKeyError(
                    f"Expected a key of its own from silo {silo[:12]}, got one that silo {seen[key][:12]} has too.",
                    culprit=silo,
                )
            seen[key] = silo
    return Roster(terms=terms, advertisements=advertisements)


def check_enough(silos: Iterable[str], terms: RoundTerms, did_what: str) -> None:
    """Refuse to go on below the threshold; raises TooFewSurvivorsError."""
    found = len(set(silos))
    if found < terms.threshold:
        raise TooFewSurvivorsError(
            f"Expected at least {terms.threshold} silos that {did_what}, got {found}. Nothing is unmasked; try the "
            "round again when they are there."
        )


def bundle_to_bytes(envelopes: Iterable[bytes]) -> bytes:
    """Several silos' messages as one."""
    listed = list(envelopes)
    return uint32(len(listed)) + b"".join(uint32(len(one)) + one for one in listed)


def _read_bundle(content: bytes, what: str, *, most: int) -> list[bytes]:
    """The messages in a bundle, with bodies of at most `most` bytes; raises MalformedMessageError."""
    reader = Reader(content, what)
    found = [reader.take(reader.count(OVERHEAD + most)) for _ in range(reader.count())]
    reader.end()
    return found


def read_roster(content: bytes, terms: RoundTerms) -> Roster:
    """The roster in the server's message; raises what `roster_of` does."""
    return roster_of(_read_bundle(content, "a roster", most=_ADVERTISEMENT), terms)


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
    return _read_bundle(content, "confirmations", most=CONFIRMATION_BYTES)
