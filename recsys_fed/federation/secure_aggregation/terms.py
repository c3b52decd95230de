"""The terms of one round, all of them public: who is invited, how many must stay, what is summed.

Every signature of the round covers their digest. A silo checks them against its own settings before it makes a key.
"""

import hashlib
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Self

from recsys_fed.errors import DataFormatError
from recsys_fed.federation.secure_aggregation.errors import NotAdmittedError, TermsError
from recsys_fed.signing import canonical, parse_canonical, require_keys

VERSION = 1
LEAST_SILOS, MOST_SILOS = 3, 1024
# One bit less than 40, so that a message with its envelope stays under 1.25 times the int32 that it stands for.
MOST_BITS = 39
MOST_ENTRIES = 2**31
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True, kw_only=True)
class RoundTerms:
    """What all silos of a round must agree on to the last byte.

    Attributes:
        run: name of the run; round: from 0; attempt: from 0, a round that was given up may be tried again.
        request: SHA-256 of what the server asks for in this round, so that it asks everybody for the same.
        silos: identity keys of the invited silos, 64 hexadecimal digits each, in ascending order.
        threshold: t, least number of survivors; below it nothing is unmasked.
        colluding: c, silos whose noise does not count because they may tell it the server.
        entries: of the vector that is summed; bits: b, the sum is taken modulo 2^b.
    """

    run: str
    round: int
    request: str
    silos: tuple[str, ...]
    threshold: int
    colluding: int
    entries: int
    bits: int
    attempt: int = 0

    def __post_init__(self) -> None:
        _require(
            LEAST_SILOS <= len(self.silos) <= MOST_SILOS, f"{LEAST_SILOS} to {MOST_SILOS} silos", len(self.silos)
        )
        for silo in (*self.silos, self.request):
            _require(isinstance(silo, str) and len(silo) == 64 and _HEX.issuperset(silo), "64 hex digits", silo)
        _require(list(self.silos) == sorted(set(self.silos)), "silos in ascending order", "another order")
        for name, least, most in (
            ("round", 0, 2**31),
            ("attempt", 0, 2**31),
            ("colluding", 0, len(self.silos) - 2),
            ("threshold", 2, len(self.silos)),
            ("entries", 1, MOST_ENTRIES),
            ("bits", 2, MOST_BITS),
        ):
            value = getattr(self, name)
            _require(type(value) is int and least <= value <= most, f"{name} of {least} to {most}", value)
        _require(isinstance(self.run, str) and 0 < len(self.run) <= 200, "run of 1 to 200 characters", self.run)
        least = least_threshold(len(self.silos), self.colluding)
        _require(self.threshold >= least, f"threshold >= {least} for these silos", self.threshold)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the terms."""
        return hashlib.sha256(self.to_bytes()).digest()

    @property
    def contributors(self) -> int:
        """t - c: the least number of silos whose noise protects the sum."""
        return self.threshold - self.colluding

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical({"version": VERSION, **asdict(self)})

    @classmethod
    def from_bytes(cls, text: bytes) -> Self:
        """Read `to_bytes`; raises TermsError for anything else."""
        names = {field.name for field in fields(cls)}
        try:
            record: dict[str, Any] = dict(
                require_keys(parse_canonical(text), {"version", *names}, "the terms of a round")
            )
        except DataFormatError as error:
            raise TermsError(str(error)) from error
        _require(record.pop("version") == VERSION, f"version {VERSION}; install the same everywhere", "another")
        _require(isinstance(record["silos"], list), "a list of silos", type(record["silos"]).__name__)
        record["silos"] = tuple(record["silos"])
        return cls(**record)


def least_threshold(n_silos: int, colluding: int) -> int:
    """Smallest t with 2 t > n + c and t - c >= 2.

    Guarantees: of n silos, c of which sign whatever the server likes, t cannot sign one set of survivors and t
    another one, as 2 (t - c) > n - c honest signatures would be needed; and no sum is of one honest silo alone.
    """
    return max((n_silos + colluding) // 2 + 1, colluding + 2)


@dataclass(frozen=True, kw_only=True)
class AcceptedTerms:
    """What a silo itself insists on, whatever the server proposes.

    Attributes:
        admitted: identity keys of the silos that may take part, known from outside the run.
        least_contributors: least t - c, the number of silos that its noise share assumes.
        least_colluding: least c.
    """

    admitted: frozenset[str]
    least_contributors: int
    least_colluding: int = 0


def check_terms(terms: RoundTerms, accepted: AcceptedTerms, *, own: str) -> None:
    """Refuse terms that this silo does not accept.

    Raises:
        NotAdmittedError: a stranger is invited, or this silo is not.
        TermsError: fewer honest silos would protect the sum than this silo insists on.
    """
    strangers = sorted(set(terms.silos) - accepted.admitted)
    if strangers:
        raise NotAdmittedError(
            f"Expected admitted silos only, got {strangers[0][:12]}. Admit its key in this silo's settings, or "
            "refuse the round.",
            culprit=strangers[0],
        )
    if own not in terms.silos:
        raise NotAdmittedError(f"Expected this silo, {own[:12]}, among the invited ones.")
    _require(
        terms.contributors >= accepted.least_contributors,
        f"at least {accepted.least_contributors} silos whose noise counts",
        terms.contributors,
    )
    _require(terms.colluding >= accepted.least_colluding, f"colluding >= {accepted.least_colluding}", terms.colluding)


def _require(holds: bool, expected: str, got: object) -> None:
    if not holds:
        raise TermsError(f"Expected {expected}, got {got!r:.80}.")
