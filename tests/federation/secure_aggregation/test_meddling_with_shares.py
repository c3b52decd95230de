"""A lying server or silo, from the shares to the unmasking: found out, given up, and the error says what and who."""

from collections.abc import Callable

import pytest
from masked_round import Messages, Round, accepting
from meddling import INPUTS, KEYS, TERMS, Change, N, another_round, fails, flipped, lying_shares, meddled, resigned

from recsys_fed.federation.secure_aggregation import errors as e
from recsys_fed.federation.secure_aggregation import server, silo
from recsys_fed.federation.secure_aggregation.encoding import silos_to_bytes
from recsys_fed.federation.secure_aggregation.envelope import Phase, seal_envelope
from recsys_fed.federation.secure_aggregation.roster import _read_bundle, bundle_to_bytes
from recsys_fed.federation.secure_aggregation.shares import (
    PRIME,
    SHARE_BYTES,
    Delivery,
    SharePair,
    read_delivery,
    revealed_to_bytes,
    sealed_to_bytes,
)
from recsys_fed.signing import SigningKey

# --- shares ---------------------------------------------------------------------------------------------------


def delivery_with(change: Callable[[dict[str, bytes]], dict[str, bytes]], *, for_silo: int = 0) -> Change:
    def apply(messages: Messages) -> Messages:
        found = read_delivery(messages[for_silo])
        changed = Delivery(sharers=found.sharers, sealed=change(dict(found.sealed)))
        return messages | {for_silo: changed.to_bytes()}

    return apply


ONE, TWO = KEYS[1].public_key, KEYS[2].public_key


@pytest.mark.parametrize("position", [0, 11, 12, 40, 77, 78, 93])
def test_an_altered_share(position: int) -> None:
    altered = delivery_with(lambda s: s | {ONE: flipped(s[ONE], position)})
    fails("delivery", altered, e.ForgedShareError, culprit=1)


def test_swapped_shares() -> None:
    with pytest.raises(e.ForgedShareError):
        meddled("delivery", delivery_with(lambda s: s | {ONE: s[TWO], TWO: s[ONE]})).run(INPUTS)


def test_a_share_for_another_silo() -> None:
    def misdirected(messages: Messages) -> Messages:
        theirs = read_delivery(messages[2]).sealed[ONE]
        return delivery_with(lambda s: s | {ONE: theirs})(messages)

    fails("delivery", misdirected, e.ForgedShareError, culprit=1)


def test_a_share_sent_back_to_its_sender() -> None:
    """The key between two silos serves one direction only."""

    def reflected(messages: Messages) -> Messages:
        own = read_delivery(messages[1]).sealed[KEYS[0].public_key]
        return delivery_with(lambda s: s | {ONE: own})(messages)

    fails("delivery", reflected, e.ForgedShareError, culprit=1)


def test_a_replayed_share() -> None:
    old = read_delivery(another_round("delivery", round=2)[0]).sealed[ONE]
    fails("delivery", delivery_with(lambda s: s | {ONE: old}), e.ForgedShareError, culprit=1)


def test_a_share_left_out_or_added() -> None:
    def without(shares: dict[str, bytes]) -> dict[str, bytes]:
        return {silo_: share for silo_, share in shares.items() if silo_ != ONE}

    fails("delivery", delivery_with(without), e.ForgedShareError)
    stranger = SigningKey.generate().public_key
    fails("delivery", delivery_with(lambda s: s | {stranger: s[ONE]}), e.ForgedShareError)


def test_sharers_below_the_threshold_or_strangers() -> None:
    def told(sharers: tuple[str, ...]) -> Change:
        return lambda m: m | {0: Delivery(sharers=sharers, sealed=read_delivery(m[0]).sealed).to_bytes()}

    fails("delivery", told(TERMS.silos[:3]), e.TooFewSurvivorsError)
    stranger = SigningKey.generate().public_key
    fails("delivery", told(tuple(sorted((*TERMS.silos, stranger)))), e.ForgedShareError)


def test_a_silo_that_seals_out_of_field_shares() -> None:
    beyond = PRIME.to_bytes(SHARE_BYTES, "big")
    fails(
        "shares",
        lying_shares(SharePair(self_mask=beyond, masking=bytes(SHARE_BYTES))),
        e.OutOfFieldShareError,
        culprit=1,
    )
    fails(
        "shares",
        lying_shares(SharePair(self_mask=bytes(SHARE_BYTES), masking=beyond)),
        e.OutOfFieldShareError,
        culprit=1,
    )


# --- survivors ------------------------------------------------------------------------------------------------


def test_a_server_that_claims_different_survivors_to_different_silos() -> None:
    """The classic attack: one half reveals silo 4's self mask, the other half its mask key. No half gets that far."""
    without_last = silos_to_bytes(TERMS.silos[:4])
    fails("survivors", lambda m: m | {0: without_last, 1: without_last}, e.InconsistentSurvivorsError)
    # Even if the server forwards to each half the signatures of that half only, they are too few.
    divided = Round(
        KEYS, TERMS, meddler=lambda at, m: m | {0: without_last, 1: without_last} if at == "survivors" else m
    )
    divided.keys_step()
    divided.shares_step()
    divided.input_step(INPUTS)
    signed = {i: silo.confirm(divided.states[i], KEYS[i], divided.sent["survivors"][i]) for i in range(N) if i != 4}
    for half in ((0, 1), (2, 3)):
        bundle = bundle_to_bytes([signed[i][1] for i in half])
        for i in half:
            with pytest.raises(e.TooFewSurvivorsError):
                silo.unmask(signed[i][0], KEYS[i], bundle)
    everybody = bundle_to_bytes([message for _, message in signed.values()])
    for i in range(4):
        with pytest.raises(e.InconsistentSurvivorsError):
            silo.unmask(signed[i][0], KEYS[i], everybody)


def test_survivors_that_cannot_be() -> None:
    """The silo itself finds out, before it signs."""
    round_ = Round(KEYS, TERMS)
    round_.keys_step()
    round_.shares_step()
    round_.input_step(INPUTS)

    def told(silos: tuple[str, ...], error: type[e.SecureAggregationError]) -> None:
        with pytest.raises(error) as caught:
            silo.confirm(round_.states[0], KEYS[0], silos_to_bytes(silos))
        assert type(caught.value) is error

    told(TERMS.silos[:3], e.TooFewSurvivorsError)
    told(TERMS.silos[1:], e.InconsistentSurvivorsError)
    told(tuple(sorted((*TERMS.silos, SigningKey.generate().public_key))), e.InconsistentSurvivorsError)
    told((*TERMS.silos[:-1], TERMS.silos[-2]), e.MalformedMessageError)


def test_too_few_or_forged_confirmations() -> None:
    def forwarded(change: Callable[[list[bytes]], list[bytes]]) -> Change:
        def one(content: bytes) -> bytes:
            return bundle_to_bytes(change(_read_bundle(content, "confirmations", most=32)))

        return lambda m: {i: one(content) for i, content in m.items()}

    fails("confirmations", forwarded(lambda m: m[:3]), e.TooFewSurvivorsError)
    fails("confirmations", forwarded(lambda m: [*m[:3], flipped(m[3], 80)]), e.ForgedSignatureError, culprit=3)
    fails("confirmations", forwarded(lambda m: [m[0]] * 4), e.ReplayedMessageError, culprit=0)
    old = list(another_round("confirmation", round=2).values())
    fails("confirmations", forwarded(lambda m: [*m[:3], old[3]]), e.ReplayedMessageError, culprit=3)


# --- what is revealed -------------------------------------------------------------------------------------------


def test_a_wrong_share_of_a_self_mask_names_who_revealed_it() -> None:
    """Five holders, four are needed: with one to spare the liar is found."""
    wrong = resigned(Phase.UNMASKING, 2, lambda body: flipped(body, 4 + 32 + 1 + 20))
    fails("unmasking", wrong, e.WrongShareError, culprit=2)


def test_a_wrong_share_of_a_mask_key() -> None:
    """Silo 0 dropped out after sharing, and no share is to spare: the key does not match what it advertised."""
    wrong = resigned(Phase.UNMASKING, 2, lambda body: flipped(body, 4 + 32 + 1 + 20))
    fails("unmasking", wrong, e.WrongShareError, culprit=0, drops={0: 2})


def test_a_silo_that_shared_something_else_than_it_advertised() -> None:
    """Silo 1 gives silo 0 a share off its polynomial; silo 0 cannot tell, the server can."""
    other = SharePair(self_mask=b"\0" + bytes([7]) * 32, masking=b"\0" + bytes([7]) * 32)
    with pytest.raises(e.WrongShareError):
        meddled("shares", lying_shares(other)).run(INPUTS)


def test_revealing_the_other_secret_or_of_others_is_refused() -> None:
    def other_kind(body: bytes) -> bytes:
        return body[:36] + (b"s" if body[36:37] == b"b" else b"b") + body[37:]

    fails("unmasking", resigned(Phase.UNMASKING, 2, other_kind), e.InconsistentSurvivorsError, culprit=2)
    one_less = resigned(Phase.UNMASKING, 2, lambda body: (4).to_bytes(4, "big") + body[4 : 4 + 4 * 66])
    fails("unmasking", one_less, e.InconsistentSurvivorsError, culprit=2)


def test_revealing_an_out_of_field_share() -> None:
    beyond = resigned(Phase.UNMASKING, 2, lambda body: body[:37] + b"\xff" * SHARE_BYTES + body[70:])
    fails("unmasking", beyond, e.OutOfFieldShareError, culprit=2)


def test_a_message_of_a_silo_that_had_dropped_out() -> None:
    for name, missed in (("shares", 0), ("input", 1), ("confirmation", 2), ("unmasking", 2)):
        body = {
            "shares": lambda: sealed_to_bytes({}),
            "input": lambda: bytes(5 * 33 // 8 + 1),
            "confirmation": lambda: bytes(32),
            "unmasking": lambda: revealed_to_bytes({}, frozenset()),
        }[name]()
        late = seal_envelope(KEYS[1], TERMS, Phase[name.upper()], body)
        fails(name, lambda m, late=late: m | {1: late}, e.InconsistentSurvivorsError, culprit=1, drops={1: missed})


def test_never_both_secrets_of_one_silo() -> None:
    """Whatever the survivors are, a silo reveals exactly one share of each silo that it holds shares of."""
    pair = SharePair(self_mask=b"\0" + b"m" * 32, masking=b"\0" + b"k" * 32)
    for survivors in (frozenset(), frozenset(TERMS.silos[:2]), frozenset(TERMS.silos)):
        body = revealed_to_bytes(dict.fromkeys(TERMS.silos, pair), survivors)
        for silo_ in TERMS.silos:
            at = body.index(bytes.fromhex(silo_)) + 33
            assert body[at : at + 33] == (pair.self_mask if silo_ in survivors else pair.masking)
        assert body.count(pair.self_mask) == len(survivors)
        assert body.count(pair.masking) == N - len(survivors)


def test_a_silo_answers_its_own_terms_only() -> None:
    key = KEYS[0]
    with pytest.raises(e.NotAdmittedError):
        silo.advertise(TERMS, SigningKey.generate(), accepting(TERMS))
    state, message = silo.advertise(TERMS, key, accepting(TERMS))
    assert message != silo.advertise(TERMS, key, accepting(TERMS))[1]
    assert "secrets" not in repr(state)
    with pytest.raises(e.TooFewSurvivorsError):
        server.collect_keys(TERMS, [message])
