"""A round of five silos in which somebody changes one exchange, and what must come of it."""

from collections.abc import Callable

import pytest
from masked_round import Messages, Round, identities, inputs_of, terms_of

from recsys_fed.federation.secure_aggregation import crypto
from recsys_fed.federation.secure_aggregation import errors as e
from recsys_fed.federation.secure_aggregation.envelope import Phase, open_envelope, seal_envelope
from recsys_fed.federation.secure_aggregation.shares import (
    SharePair,
    seal,
    sealed_from_bytes,
    sealed_to_bytes,
)

N = 5
KEYS = identities(N)
TERMS = terms_of(KEYS, threshold=4)
INPUTS = inputs_of(TERMS)
Change = Callable[[Messages], Messages]
# The round that is going on: a silo that lies needs its own state.
LATEST: dict[str, Round] = {}


def meddled(name: str, change: Change, *, drops: dict[int, int] | None = None) -> Round:
    """A round in which one exchange is changed on its way."""
    LATEST["round"] = Round(
        KEYS, TERMS, drops=drops, meddler=lambda at, messages: change(messages) if at == name else messages
    )
    return LATEST["round"]


def fails(
    name: str, change: Change, error: type[e.SecureAggregationError], *, culprit: int | None = None, **more: object
) -> None:
    """The round ends in this error and no other, blames this silo, and gives no sum."""
    with pytest.raises(error) as caught:
        meddled(name, change, **more).run(INPUTS)
    assert type(caught.value) is error
    if culprit is not None:
        assert caught.value.culprit == KEYS[culprit].public_key


def another_round(name: str, **changes: object) -> Messages:
    """Genuine messages of another round, of one exchange."""
    other = Round(KEYS, terms_of(KEYS, threshold=4, **changes))
    other.run(INPUTS)
    return other.sent[name]


def flipped(content: bytes, position: int) -> bytes:
    changed = bytearray(content)
    changed[position] ^= 1
    return bytes(changed)


def resigned(phase: Phase, i: int, change: Callable[[bytes], bytes]) -> Change:
    """Silo i itself lies: it signs another body."""

    def apply(messages: Messages) -> Messages:
        body = open_envelope(messages[i], TERMS, phase, most=10**6).body
        return messages | {i: seal_envelope(KEYS[i], TERMS, phase, change(body))}

    return apply


def lying_shares(pair: SharePair) -> Change:
    """Silo 1 seals this pair for silo 0, properly."""

    def apply(messages: Messages) -> Messages:
        state = LATEST["round"].states[1]
        roster, own, peer = state.roster, KEYS[1].public_key, KEYS[0].public_key
        key = crypto.sealing_key(
            crypto.load_key(state.secrets.sealing),
            roster.advertisements[peer].sealing,
            roster=roster.digest,
            sender=own,
            receiver=peer,
            peer=peer,
        )
        body = open_envelope(messages[1], TERMS, Phase.SHARES, most=10**6).body
        sealed = sealed_from_bytes(body) | {peer: seal(pair, key, context=roster.digest)}
        return messages | {1: seal_envelope(KEYS[1], TERMS, Phase.SHARES, sealed_to_bytes(sealed))}

    return apply
