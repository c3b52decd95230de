"""What a silo keeps between two exchanges of a round: in memory only, used once.

Each state is frozen and holds what later steps need and no more; the identity key is never part of one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from recsys_fed.federation.secure_aggregation.agreement import RoundSecrets
from recsys_fed.federation.secure_aggregation.roster import Roster
from recsys_fed.federation.secure_aggregation.sealing import SharePair
from recsys_fed.federation.secure_aggregation.terms import RoundTerms


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Advertised:
    """This silo's keys are out; nothing else is."""

    terms: RoundTerms
    secrets: RoundSecrets


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Shared:
    """Shares of this silo's secrets are out; `kept` is the pair that it holds of its own."""

    roster: Roster
    secrets: RoundSecrets
    kept: SharePair


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Received:
    """The neighbours' shares are in, `held` by silo; this silo is ready to contribute."""

    roster: Roster
    secrets: RoundSecrets
    sharers: tuple[str, ...]
    held: Mapping[str, SharePair]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Masked:
    """The masked input is out and charged; this silo's own secrets are forgotten."""

    roster: Roster
    sharers: tuple[str, ...]
    held: Mapping[str, SharePair]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Confirmed:
    """This silo has signed who survived, once."""

    roster: Roster
    survivors: tuple[str, ...]
    view: bytes
    held: Mapping[str, SharePair]
