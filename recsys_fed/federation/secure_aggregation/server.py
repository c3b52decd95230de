"""The server's half of a round: frozen states, and one pure function for each exchange.

    KeysCollected -> SharesCollected -> InputsCollected -> ConfirmationsCollected -> the sum

Each takes the state before and the messages of the silos that answered, and returns the state after and what to
send next. A silo that does not answer in time has dropped out. A message that does not hold raises, and the error
names the silo; nothing is unmasked then. The server holds no secret until silos reveal their shares.
Its last step puts them together, checks the secrets and takes the masks off the sum.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys_fed.federation.secure_aggregation import crypto
from recsys_fed.federation.secure_aggregation.crypto import Words, apply_mask, word_type
from recsys_fed.federation.secure_aggregation.encoding import from_words, packed_size, silos_to_bytes, unpack
from recsys_fed.federation.secure_aggregation.envelope import Phase, open_all, open_envelope
from recsys_fed.federation.secure_aggregation.errors import (
    InconsistentSurvivorsError,
    MalformedMessageError,
    ReplayedMessageError,
    TooFewSurvivorsError,
    WrongShareError,
)
from recsys_fed.federation.secure_aggregation.neighbours import check_spread
from recsys_fed.federation.secure_aggregation.roster import (
    Roster,
    bundle_to_bytes,
    check_confirmations,
    check_enough,
    roster_of,
    view_digest,
)
from recsys_fed.federation.secure_aggregation.shares import (
    SEALED_BYTES,
    Delivery,
    combine_shares,
    most_revealed,
    read_revealed,
    sealed_from_bytes,
)
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
        ReplayedMessageError: a silo sent two.
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


def unmasked_sum(state: ConfirmationsCollected, messages: Iterable[bytes]) -> npt.NDArray[np.int64]:
    """The sum of the survivors' integers, from -2^(b-1) to below 2^(b-1): int64 [entries].

    Guarantees: every secret is checked against what its silo signed before it is used, so the sum is exactly that of
    the survivors' inputs, modulo 2^b, or there is none.

    Raises:
        TooFewSurvivorsError: not enough silos revealed their shares.
        WrongShareError: shares give a secret that was not advertised; names who is to blame where that can be told.
        SecureAggregationError: of another kind, for a message that is not one of this phase.
    """
    inputs = state.inputs
    revealed = _read_all_revealed(inputs, list(messages))
    secrets = {silo: _secret(silo, inputs, shares) for silo, shares in revealed.items()}
    total = inputs.total.copy()
    survivors = frozenset(inputs.survivors)
    for silo, secret in secrets.items():
        if silo in survivors:
            self_key = crypto.self_mask_key(secret, roster=inputs.roster.digest, silo=silo)
            apply_mask(total, self_key, add=False)
        else:
            _remove_pair_masks(total, silo, secret, inputs.roster, survivors)
    return from_words(total, inputs.roster.terms.bits)


def _read_all_revealed(inputs: InputsCollected, messages: list[bytes]) -> dict[str, dict[str, bytes]]:
    """Shares by the silo whose secret they are of, then by the silo that held them."""
    roster, survivors = inputs.roster, frozenset(inputs.survivors)
    bodies = open_all(messages, roster.terms, Phase.UNMASKING, most=most_revealed(len(inputs.sharers)))
    shares: dict[str, dict[str, bytes]] = {silo: {} for silo in inputs.sharers}
    for sender, body in bodies.items():
        if sender not in survivors:
            raise InconsistentSurvivorsError(
                f"Expected shares of survivors, got some of silo {sender[:12]}, which dropped out.", culprit=sender
            )
        expected = (roster.ring.neighbours(sender) | {sender}) & set(inputs.sharers)
        found = read_revealed(body, sender=sender, expected=frozenset(expected), survivors=survivors)
        for silo, share in found.items():
            shares[silo][sender] = share
    return shares


def _secret(silo: str, inputs: InputsCollected, shares: Mapping[str, bytes]) -> bytes:
    """The self mask of a survivor or the mask key of another silo, checked against its advertisement."""
    roster, advertised = inputs.roster, inputs.roster.advertisements[silo]
    least = roster.ring.neighbourhood.shares
    if len(shares) < least:
        raise TooFewSurvivorsError(
            f"Expected {least} holders of silo {silo[:12]}'s shares to be left, got {len(shares)}. Nothing is "
            "unmasked; try the round again."
        )

    def genuine(secret: bytes) -> bool:
        if silo in inputs.survivors:
            return crypto.commitment(secret, terms=roster.terms.digest, silo=silo) == advertised.commitment
        return crypto.public_key(secret) == advertised.masking

    found = _combine(shares, roster.points, least)
    if found is None or not genuine(found):
        raise _wrong_share(silo, shares, roster.points, least=least, genuine=genuine)
    return found


def _combine(shares: Mapping[str, bytes], points: Mapping[str, int], least: int) -> bytes | None:
    try:
        return combine_shares({points[holder]: share for holder, share in shares.items()}, threshold=least)
    except WrongShareError:
        return None


def _wrong_share(
    silo: str,
    shares: Mapping[str, bytes],
    points: Mapping[str, int],
    *,
    least: int,
    genuine: Callable[[bytes], bool],
) -> WrongShareError:
    """Blame the one holder without whom the others give the right secret; with no share to spare, nobody."""
    for left_out in sorted(shares) if len(shares) > least else ():
        others = {holder: share for holder, share in shares.items() if holder != left_out}
        found = _combine(others, points, least)
        if found is not None and genuine(found):
            return WrongShareError(
                f"Expected silo {left_out[:12]} to reveal the share of silo {silo[:12]}'s secret that it was given, "
                "got another one: without it the others give the advertised secret.",
                culprit=left_out,
            )
    return WrongShareError(
        f"The shares of silo {silo[:12]}'s secret do not give what it advertised: the "
        f"silo sent wrong shares, or one of {len(shares)} holders revealed a wrong one.",
        culprit=silo,
    )


def _remove_pair_masks(
    total: Words, dropped: str, mask_key: bytes, roster: Roster, survivors: frozenset[str]
) -> None:
    """Take off what the dropped silo's neighbours added for it and nobody took away."""
    private = crypto.load_key(mask_key)
    for peer in sorted(roster.ring.neighbours(dropped) & survivors):
        public = roster.advertisements[peer].masking
        pair_key = crypto.pair_mask_key(private, public, roster=roster.digest, own=dropped, peer=peer)
        apply_mask(total, pair_key, add=peer > dropped)
