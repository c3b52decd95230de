"""The server's last step: put the revealed secrets together, check them, and take the masks off the sum."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import numpy.typing as npt

from recsys_fed.federation.secure_aggregation import agreement
from recsys_fed.federation.secure_aggregation.envelope import Phase, open_all
from recsys_fed.federation.secure_aggregation.errors import (
    InconsistentSurvivorsError,
    TooFewSurvivorsError,
    WrongShareError,
)
from recsys_fed.federation.secure_aggregation.masks import Words, apply_mask
from recsys_fed.federation.secure_aggregation.modulus import from_words
from recsys_fed.federation.secure_aggregation.revealed import most_revealed, read_revealed
from recsys_fed.federation.secure_aggregation.roster import Roster
from recsys_fed.federation.secure_aggregation.server import ConfirmationsCollected, InputsCollected
from recsys_fed.federation.secure_aggregation.shamir import combine


def unmasked_sum(state: ConfirmationsCollected, messages: Iterable[bytes]) -> npt.NDArray[np.int64]:
    """The sum of the survivors' integers in [-2^(b-1), 2^(b-1)), flat.

    Guarantees: every secret is checked against what its silo signed before it is used, so the sum is exactly that of
    the survivors' inputs, modulo 2^b, or there is none.

    Raises:
        TooFewSurvivorsError: not enough silos revealed their shares.
        WrongShareError: shares give a secret that was not advertised; names who is to blame where that can be told.
        SecureAggregationError: of another kind, for a message that is not one of this phase.
    """
    inputs = state.inputs
    revealed = _revealed(inputs, list(messages))
    secrets = {silo: _secret(silo, inputs, shares) for silo, shares in revealed.items()}
    total = inputs.total.copy()
    survivors = frozenset(inputs.survivors)
    for silo, secret in secrets.items():
        if silo in survivors:
            self_key = agreement.self_mask_key(secret, roster=inputs.roster.digest, silo=silo)
            apply_mask(total, self_key, add=False)
        else:
            _remove_pair_masks(total, silo, secret, inputs.roster, survivors)
    return from_words(total, inputs.roster.terms.bits)


def _revealed(inputs: InputsCollected, messages: list[bytes]) -> dict[str, dict[str, bytes]]:
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
            return agreement.commitment(secret, terms=roster.terms.digest, silo=silo) == advertised.commitment
        return agreement.public_key(secret) == advertised.masking

    found = _combined(shares, roster.points, least)
    if found is None or not genuine(found):
        raise _wrong_share(silo, shares, roster.points, least=least, genuine=genuine)
    return found


def _combined(shares: Mapping[str, bytes], points: Mapping[str, int], least: int) -> bytes | None:
    try:
        return combine({points[holder]: share for holder, share in shares.items()}, threshold=least)
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
        found = _combined(others, points, least)
        if found is not None and genuine(found):
            return WrongShareError(
                f"Expected silo {left_out[:12]} to reveal the share of silo {silo[:12]}'s secret that it was given, "
                "got another one: without it the others give the advertised secret.",
                culprit=left_out,
            )
    return WrongShareError(
        f"Expected the shares of silo {silo[:12]}'s secret to give what it advertised, they give something else: the "
        f"silo sent wrong shares, or one of {len(shares)} holders revealed a wrong one.",
        culprit=silo,
    )


def _remove_pair_masks(
    total: Words, dropped: str, mask_key: bytes, roster: Roster, survivors: frozenset[str]
) -> None:
    """Take off what the dropped silo's neighbours added for it and nobody took away."""
    private = agreement.loaded(mask_key)
    for peer in sorted(roster.ring.neighbours(dropped) & survivors):
        public = roster.advertisements[peer].masking
        pair_key = agreement.pair_mask_key(private, public, roster=roster.digest, own=dropped, peer=peer)
        apply_mask(total, pair_key, add=peer > dropped)
