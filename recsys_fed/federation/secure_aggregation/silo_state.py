"""What a silo keeps between two exchanges of a round: in memory only, used once.

Each state is frozen and holds what later steps need and no more; the identity key is never part of one. As bytes they
are for a silo whose process ends after each message: canonical JSON with the name of the state. The bytes hold the
secrets of one attempt at one round: whoever keeps them keeps them in memory, gives them out once and to the silo
itself only. Nothing is verified that was verified before.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from recsys_fed.errors import DataFormatError
from recsys_fed.federation.secure_aggregation.crypto import RoundSecrets
from recsys_fed.federation.secure_aggregation.errors import ReplayedMessageError
from recsys_fed.federation.secure_aggregation.roster import Advertisement, Roster
from recsys_fed.federation.secure_aggregation.shares import SharePair
from recsys_fed.federation.secure_aggregation.terms import RoundTerms
from recsys_fed.signing import canonical, parse_canonical, require_keys


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


# `Received` is none of them: a silo masks its input in the exchange in which it receives its shares.
KeptState = Advertised | Shared | Masked | Confirmed
K = TypeVar("K", Advertised, Shared, Masked, Confirmed)


def state_to_bytes(state: KeptState) -> bytes:
    """The bytes that `state_of` reads."""
    return canonical({"state": type(state).__name__, **_RECORD_OF[type(state)](state)})


def state_of(content: bytes, kind: type[K]) -> K:
    """The state of this kind in the bytes.

    Raises:
        ReplayedMessageError: this silo is at another step, or in no round.
        DataFormatError: the bytes are no state.
    """
    record = parse_canonical(content) if content else {"state": "none"}
    if record["state"] != kind.__name__:
        raise ReplayedMessageError(
            f"Expected this exchange of a masked round in its turn, after {kind.__name__.lower()}; the silo's state "
            f"is {str(record['state']).lower()}. Begin the round again."
        )
    try:
        state: K = _STATE_OF[kind](record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataFormatError("Expected a kept state of a masked round, got something else.") from error
    return state


def _read_advertised(record: Mapping[str, Any]) -> Advertised:
    return Advertised(terms=_terms(record["terms"]), secrets=_secrets(record["secrets"]))


def _read_shared(record: Mapping[str, Any]) -> Shared:
    return Shared(roster=_roster(record["roster"]), secrets=_secrets(record["secrets"]), kept=_pair(record["kept"]))


def _read_masked(record: Mapping[str, Any]) -> Masked:
    return Masked(roster=_roster(record["roster"]), sharers=tuple(record["sharers"]), held=_read_held(record["held"]))


def _read_confirmed(record: Mapping[str, Any]) -> Confirmed:
    return Confirmed(
        roster=_roster(record["roster"]),
        survivors=tuple(record["survivors"]),
        view=bytes.fromhex(record["view"]),
        held=_read_held(record["held"]),
    )


def _terms(text: str) -> RoundTerms:
    return RoundTerms.from_bytes(text.encode())


def _secrets(record: Mapping[str, str]) -> RoundSecrets:
    known = require_keys(record, {"sealing", "masking", "self_mask"}, "secrets of a round")
    return RoundSecrets(**{name: bytes.fromhex(text) for name, text in known.items()})


def _roster(record: Mapping[str, Any]) -> Roster:
    advertisements = {
        silo: Advertisement.from_bytes(bytes.fromhex(text)) for silo, text in record["advertisements"].items()
    }
    return Roster(terms=_terms(record["terms"]), advertisements=advertisements)


def _pair(texts: list[str]) -> SharePair:
    self_mask, masking = texts
    return SharePair(self_mask=bytes.fromhex(self_mask), masking=bytes.fromhex(masking))


def _read_held(record: Mapping[str, list[str]]) -> dict[str, SharePair]:
    return {silo: _pair(texts) for silo, texts in record.items()}


def _secrets_record(secrets: RoundSecrets) -> dict[str, str]:
    return {
        "sealing": secrets.sealing.hex(),
        "masking": secrets.masking.hex(),
        "self_mask": secrets.self_mask.hex(),
    }


def _roster_record(roster: Roster) -> dict[str, Any]:
    listed = {silo: advertisement.to_bytes().hex() for silo, advertisement in roster.advertisements.items()}
    return {"terms": roster.terms.to_bytes().decode(), "advertisements": listed}


def _pair_record(pair: SharePair) -> list[str]:
    return [pair.self_mask.hex(), pair.masking.hex()]


def _held_record(held: Mapping[str, SharePair]) -> dict[str, list[str]]:
    return {silo: _pair_record(pair) for silo, pair in held.items()}


_RECORD_OF: dict[type, Callable[[Any], dict[str, Any]]] = {
    Advertised: lambda s: {"terms": s.terms.to_bytes().decode(), "secrets": _secrets_record(s.secrets)},
    Shared: lambda s: {
        "roster": _roster_record(s.roster),
        "secrets": _secrets_record(s.secrets),
        "kept": _pair_record(s.kept),
    },
    Masked: lambda s: {
        "roster": _roster_record(s.roster),
        "sharers": list(s.sharers),
        "held": _held_record(s.held),
    },
    Confirmed: lambda s: {
        "roster": _roster_record(s.roster),
        "survivors": list(s.survivors),
        "view": s.view.hex(),
        "held": _held_record(s.held),
    },
}
_STATE_OF: dict[type, Callable[[Mapping[str, Any]], Any]] = {
    Advertised: _read_advertised,
    Shared: _read_shared,
    Masked: _read_masked,
    Confirmed: _read_confirmed,
}
