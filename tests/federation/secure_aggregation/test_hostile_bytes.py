"""Parsers of the protocol: any bytes give a message or a typed error, and never another message than was written."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from masked_round import Round, identities, inputs_of, terms_of

from recsys_fed.federation.secure_aggregation.encoding import silos_to_bytes
from recsys_fed.federation.secure_aggregation.envelope import Phase, open_envelope
from recsys_fed.federation.secure_aggregation.errors import SecureAggregationError
from recsys_fed.federation.secure_aggregation.roster import (
    Advertisement,
    _read_bundle,
    bundle_to_bytes,
    read_roster,
    survivors_from_bytes,
)
from recsys_fed.federation.secure_aggregation.shares import (
    read_delivery,
    read_revealed,
    sealed_from_bytes,
    sealed_to_bytes,
)
from recsys_fed.federation.secure_aggregation.terms import RoundTerms

KEYS = identities(3)
TERMS = terms_of(KEYS)
ROUND = Round(KEYS, TERMS)
ROUND.run(inputs_of(TERMS))


def body(name: str) -> bytes:
    return open_envelope(ROUND.sent[name][0], TERMS, Phase[name.upper()], most=10**6).body


EVERYBODY = frozenset(TERMS.silos)
# A message, what reads it, and where there is one, what writes it.
MESSAGES: dict[str, tuple[bytes, Callable[[bytes], object], Callable[..., bytes] | None]] = {
    "terms": (TERMS.to_bytes(), RoundTerms.from_bytes, RoundTerms.to_bytes),
    "advertisement": (body("keys"), Advertisement.from_bytes, Advertisement.to_bytes),
    "roster": (ROUND.sent["roster"][0], lambda m: read_roster(m, TERMS), None),
    "bundle": (ROUND.sent["roster"][0], lambda m: _read_bundle(m, "a bundle", most=1000), bundle_to_bytes),
    "shares": (body("shares"), sealed_from_bytes, sealed_to_bytes),
    "delivery": (ROUND.sent["delivery"][0], read_delivery, lambda found: found.to_bytes()),
    "survivors": (ROUND.sent["survivors"][0], survivors_from_bytes, silos_to_bytes),
    "envelope": (ROUND.sent["keys"][0], lambda m: open_envelope(m, TERMS, Phase.KEYS, most=1000), None),
    "revealed": (
        body("unmasking"),
        lambda m: read_revealed(m, sender=KEYS[0].public_key, expected=EVERYBODY, survivors=EVERYBODY),
        None,
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_change_is_refused_or_read_as_it_stands(name: str, data: st.DataObject) -> None:
    genuine, read, write = MESSAGES[name]
    read(genuine)
    start = data.draw(st.integers(0, len(genuine)))
    end = data.draw(st.integers(start, min(len(genuine), start + 8)))
    changed = genuine[:start] + data.draw(st.binary(max_size=8)) + genuine[end:]
    try:
        found = read(changed)
    except SecureAggregationError:
        return
    if write is not None:
        assert write(found) == changed


@pytest.mark.parametrize("name", MESSAGES)
@given(content=st.binary(max_size=300))
def test_random_bytes_are_no_message(name: str, content: bytes) -> None:
    try:
        MESSAGES[name][1](content)
    except SecureAggregationError:
        return
    assert name in ("advertisement", "shares", "delivery", "survivors", "bundle")


def test_a_count_is_refused_before_anything_is_read() -> None:
    huge = (2**32 - 1).to_bytes(4, "big")
    for name in ("roster", "shares", "delivery", "survivors", "revealed"):
        with pytest.raises(SecureAggregationError, match="at most"):
            MESSAGES[name][1](huge)


def test_a_body_beyond_its_bound_is_refused() -> None:
    with pytest.raises(SecureAggregationError, match="at most 95"):
        open_envelope(ROUND.sent["keys"][0], TERMS, Phase.KEYS, most=95)
    for content in (None, "text", bytearray(b"RFSA")):
        with pytest.raises(SecureAggregationError, match="bytes of"):
            open_envelope(content, TERMS, Phase.KEYS, most=95)
