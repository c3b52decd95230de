"""The signed keys of a round: each silo's advertisement, and the list of them that everybody gets."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from recsys_fed.federation.secure_aggregation.envelope import OVERHEAD, Phase, open_all
from recsys_fed.federation.secure_aggregation.errors import SubstitutedKeyError, TooFewSurvivorsError
from recsys_fed.federation.secure_aggregation.reader import Reader, uint32
from recsys_fed.federation.secure_aggregation.ring import Ring, ring_of
from recsys_fed.federation.secure_aggregation.terms import RoundTerms

_ADVERTISEMENT = 96


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


def read_bundle(content: bytes, what: str, *, most: int) -> list[bytes]:
    """The messages in a bundle, with bodies of at most `most` bytes; raises MalformedMessageError."""
    reader = Reader(content, what)
    found = [reader.take(reader.count(OVERHEAD + most)) for _ in range(reader.count())]
    reader.end()
    return found


def read_roster(content: bytes, terms: RoundTerms) -> Roster:
    """The roster in the server's message; raises what `roster_of` does."""
    return roster_of(read_bundle(content, "a roster", most=_ADVERTISEMENT), terms)
