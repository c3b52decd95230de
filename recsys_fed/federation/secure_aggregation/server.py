"""The server's half of a round: frozen states, and one pure function for each exchange.

    KeysCollected -> SharesCollected -> InputsCollected -> ConfirmationsCollected -> the sum

Each takes the state before and the messages of the silos that answered, and returns the state after and what to
send next. A silo that does not answer in time has dropped out. A message that does not hold raises, and the error
names the silo; nothing is unmasked then. The server holds no secret until silos reveal their shares.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from recsys_fed.federation.secure_aggregation.envelope import Phase, open_all, open_envelope
from recsys_fed.federation.secure_aggregation.errors import (
    InconsistentSurvivorsError,
    MalformedMessageError,
    ReplayedMessageError,
)
from recsys_fed.federation.secure_aggregation.masks import Words, word_type
from recsys_fed.federation.secure_aggregation.packing import packed_size, unpack
from recsys_fed.federation.secure_aggregation.reader import silos_to_bytes
from recsys_fed.federation.secure_aggregation.ring import check_spread
from recsys_fed.federation.secure_aggregation.roster import Roster, bundle_to_bytes, check_enough, roster_of
from recsys_fed.federation.secure_aggregation.sealing import SEALED_BYTES, Delivery, sealed_from_bytes
from recsys_fed.federation.secure_aggregation.survivors import check_confirmations, view_digest
from recsys_fed.federation.secure_aggregation.terms import RoundTerms


@dataclass(frozen=True, kw_only=True, eq=False)
class KeysCollected:
    """Everybody's keys."""

    roster: Roster


@dataclass(frozen=True, kw_only=True, eq=False)
class SharesCollected:
    """Who sent shares; the shares themselves are on their way and not kept."""

    roster: Roster
    sharers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class InputsCollected:
    """The sum of the masked inputs, in words, and whose they are."""

    roster: Roster
    sharers: tuple[str, ...]
    survivors: tuple[str, ...]
    total: Words


@dataclass(frozen=True, kw_only=True, eq=False)
class ConfirmationsCollected:
    """The same, and t silos or more have signed who survived."""

    inputs: InputsCollected


def collect_keys(terms: RoundTerms, messages: Iterable[bytes]) -> tuple[KeysCollected, bytes]:
    """Check the advertised keys; return the roster for everybody on it.

    Raises:
        SecureAggregationError: see `roster.roster_of`.
    """
    envelopes = list(messages)
    return KeysCollected(roster=roster_of(envelopes, terms)), bundle_to_bytes(envelopes)


def collect_shares(state: KeysCollected, messages: Iterable[bytes]) -> tuple[SharesCollected, dict[str, bytes]]:
    """Sort the sealed shares by receiver; return a delivery for every silo that sent shares.

    Raises:
        TooFewSurvivorsError, MalformedMessageError, or what `envelope.open_envelope` raises.
    """
    roster = state.roster
    most = 4 + len(roster.advertisements) * (32 + SEALED_BYTES)
    bodies = open_all(list(messages), roster.terms, Phase.SHARES, most=most)
    _on_list(bodies, roster.advertisements, "advertised keys")
    check_enough(bodies, roster.terms, "sent shares")
    sealed = {silo: _sealed_for_neighbours(silo, body, roster) for silo, body in bodies.items()}
    sharers = tuple(sealed)
    deliveries = {
        silo: Delivery(
            sharers=sharers,
            sealed={peer: sealed[peer][silo] for peer in roster.ring.neighbours(silo) & sealed.keys()},
        ).to_bytes()
        for silo in sharers
    }
    return SharesCollected(roster=roster, sharers=sharers), deliveries


def collect_inputs(state: SharesCollected, messages: Iterable[bytes]) -> tuple[InputsCollected, bytes]:
    """Add the masked inputs up as they come; return who survived, for every survivor.

    Raises:
        TooFewSurvivorsError, MalformedMessageError, or what `envelope.open_envelope` raises.
    """
    terms = state.roster.terms
    total: Words = np.zeros(terms.entries, dtype=word_type(terms.bits))
    survivors: set[str] = set()
    for message in messages:
        most = packed_size(terms.entries, terms.bits)
        signed = open_envelope(message, terms, Phase.INPUT, most=most)
        _on_list([signed.silo], state.sharers, "sent shares")
        if signed.silo in survivors:
            raise ReplayedMessageError(
                f"Expected one masked input of silo {signed.silo[:12]}, got two.", culprit=signed.silo
            )
        survivors.add(signed.silo)
        total += unpack(signed.body, entries=terms.entries, bits=terms.bits)
    check_enough(survivors, terms, "sent a masked input")
    check_spread(state.roster.ring, survivors, colluding=terms.colluding)
    listed = tuple(sorted(survivors))
    after = InputsCollected(roster=state.roster, sharers=state.sharers, survivors=listed, total=total)
    return after, silos_to_bytes(listed)


def collect_confirmations(state: InputsCollected, messages: Iterable[bytes]) -> tuple[ConfirmationsCollected, bytes]:
    """Check the signatures on who survived; return all of them, for every silo that signed.

    Raises:
        InconsistentSurvivorsError: a silo signed another set; TooFewSurvivorsError; or what
            `envelope.open_envelope` raises.
    """
    envelopes = list(messages)
    view = view_digest(state.roster, sharers=state.sharers, survivors=state.survivors)
    check_confirmations(envelopes, state.roster, state.survivors, view)
    return ConfirmationsCollected(inputs=state), bundle_to_bytes(envelopes)


def _on_list(silos: Iterable[str], expected: Iterable[str], did_what: str) -> None:
    for silo in sorted(set(silos) - set(expected)):
        raise InconsistentSurvivorsError(
            f"Expected messages of silos that {did_what}, got one of silo {silo[:12]}, which had dropped out.",
            culprit=silo,
        )


def _sealed_for_neighbours(silo: str, body: bytes, roster: Roster) -> Mapping[str, bytes]:
    sealed = sealed_from_bytes(body)
    neighbours = roster.ring.neighbours(silo)
    if sealed.keys() != neighbours:
        raise MalformedMessageError(
            f"Expected shares of silo {silo[:12]} for its {len(neighbours)} neighbours, got {len(sealed)} others.",
            culprit=silo,
        )
    return sealed
