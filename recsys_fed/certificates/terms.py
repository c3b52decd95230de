"""The terms of a silo, fixed by its ledger's first entry: who it is and what it promises to each of its users."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from recsys_fed import checks
from recsys_fed.errors import ConfigurationError, DataFormatError
from recsys_fed.privacy.guarantee import Guarantee, check_delta
from recsys_fed.signing import parse_public_key

_KEYS = {
    "silo", "public_key", "epsilon_limit", "delta", "unit", "neighbouring_relation", "max_silos_per_user",
    "declared_users", "simulated",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LedgerTerms:
    """Body of the genesis entry.

    Attributes:
        silo: public name.
        public_key: of the Ed25519 key that signs every entry, 64 hexadecimal digits.
        guarantee: its epsilon is the limit over the silo's lifetime, until a limit entry replaces it.
        declared_users: public order of magnitude of the users of all silos; delta is below its inverse.
        simulated: the silo's noise follows from a seed; its releases protect nobody.
    """

    silo: str
    public_key: str
    guarantee: Guarantee
    declared_users: int
    simulated: bool = False

    def __post_init__(self) -> None:
        if not self.silo or not self.silo.isprintable():
            raise ConfigurationError(f"Expected a silo name of printable characters, got {self.silo!r}.")
        if parse_public_key(self.public_key) != self.public_key:
            raise ConfigurationError("Expected a public key in lower case.")
        checks.at_least(1, declared_users=self.declared_users)
        check_delta(self.guarantee.delta, n_users=self.declared_users)

    def with_limit(self, epsilon: float) -> Self:
        """The terms with another epsilon limit."""
        return replace(self, guarantee=replace(self.guarantee, epsilon=epsilon))

    def with_key(self, public_key: str) -> Self:
        """The terms under another key."""
        return replace(self, public_key=public_key)

    def to_record(self) -> dict[str, Any]:
        """Return the body as JSON values."""
        promise = self.guarantee
        return {
            "silo": self.silo,
            "public_key": self.public_key,
            "epsilon_limit": epsilon_to_record(promise.epsilon),
            "delta": promise.delta,
            "unit": promise.unit,
            "neighbouring_relation": promise.neighbouring_relation,
            "max_silos_per_user": promise.max_silos_per_user,
            "declared_users": self.declared_users,
            "simulated": self.simulated,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read a body; raises DataFormatError for anything else."""
        if set(record) != _KEYS:
            raise DataFormatError(f"Expected terms with the keys {sorted(_KEYS)}, got {sorted(map(str, record))}.")
        try:
            guarantee = Guarantee(
                epsilon=epsilon_from_record(record["epsilon_limit"]),
                delta=float(record["delta"]),
                unit=record["unit"],
                neighbouring_relation=record["neighbouring_relation"],
                max_silos_per_user=record["max_silos_per_user"],
            )
            if not isinstance(record["simulated"], bool):
                raise DataFormatError("Expected simulated to be true or false.")
            return cls(
                silo=record["silo"],
                public_key=record["public_key"],
                guarantee=guarantee,
                declared_users=record["declared_users"],
                simulated=record["simulated"],
            )
        except (ConfigurationError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DataFormatError(f"Expected the terms of a ledger: {error}") from error


def epsilon_to_record(epsilon: float) -> float | str:
    """An epsilon as JSON can hold it."""
    return "inf" if math.isinf(epsilon) else epsilon


def epsilon_from_record(value: object) -> float:
    """The epsilon of a record; raises DataFormatError."""
    if value == "inf":
        return math.inf
    if type(value) is not float or not math.isfinite(value):
        raise DataFormatError(f'Expected an epsilon as a decimal number or "inf", got {value!r}.')
    return value
