"""Somebody between server and silos alters, replays, swaps or forges messages and keys: found out, with a culprit."""

from collections.abc import Callable

import numpy as np
import pytest
from masked_round import Messages, Round, terms_of
from meddling import INPUTS, KEYS, TERMS, Change, another_round, fails, flipped, meddled, resigned

from recsys_fed.federation.secure_aggregation import errors as e
from recsys_fed.federation.secure_aggregation import silo
from recsys_fed.federation.secure_aggregation.envelope import Phase, open_envelope, seal_envelope
from recsys_fed.federation.secure_aggregation.roster import Advertisement, _read_bundle, bundle_to_bytes
from recsys_fed.signing import SigningKey

# --- whoever is in the middle -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["keys", "shares", "input", "confirmation", "unmasking"])
class TestEveryMessageOfASilo:
    def test_altered_in_its_content(self, name: str) -> None:
        fails(name, lambda m: m | {1: flipped(m[1], 90)}, e.ForgedSignatureError, culprit=1)

    def test_altered_in_its_signature(self, name: str) -> None:
        fails(name, lambda m: m | {1: flipped(m[1], len(m[1]) - 1)}, e.ForgedSignatureError, culprit=1)

    def test_signed_by_another_silo(self, name: str) -> None:
        head = 6
        fails(
            name,
            lambda m: m | {1: m[1][:head] + bytes.fromhex(KEYS[2].public_key) + m[1][head + 32 :]},
            e.ForgedSignatureError,
            culprit=2,
        )

    def test_signed_by_a_stranger(self, name: str) -> None:
        stranger, phase = SigningKey.generate(), Phase[name.upper()]
        message = seal_envelope(stranger, TERMS, phase, b"")
        fails(name, lambda m: m | {1: message}, e.NotAdmittedError)

    def test_replayed_from_another_round(self, name: str) -> None:
        old = another_round(name, round=2)
        fails(name, lambda m: m | {1: old[1]}, e.ReplayedMessageError, culprit=1)

    def test_replayed_from_another_attempt(self, name: str) -> None:
        old = another_round(name, attempt=1)
        fails(name, lambda m: m | {1: old[1]}, e.ReplayedMessageError, culprit=1)

    def test_repeated(self, name: str) -> None:
        fails(name, lambda m: m | {-1: m[1]}, e.ReplayedMessageError, culprit=1)

    def test_cut_short_or_long(self, name: str) -> None:
        fails(name, lambda m: m | {1: m[1][:-1]}, e.MalformedMessageError)
        fails(name, lambda m: m | {1: m[1] + b"\0"}, e.MalformedMessageError)
        fails(name, lambda m: m | {1: b""}, e.MalformedMessageError)

    def test_swapping_whole_messages_changes_nothing(self, name: str) -> None:
        """Who sent a message is in it and signed; the order in which messages come is nobody's business."""
        swapped = meddled(name, lambda m: dict(reversed(m.items())))
        np.testing.assert_array_equal(swapped.run(INPUTS), INPUTS.sum(0))


def test_a_message_of_an_earlier_phase() -> None:
    kept: Messages = {}

    def keep(name: str, messages: Messages) -> Messages:
        if name == "keys":
            kept.update(messages)
        return messages | {1: kept[1]} if name == "shares" else messages

    with pytest.raises(e.ReplayedMessageError):
        Round(KEYS, TERMS, meddler=keep).run(INPUTS)


# --- keys -----------------------------------------------------------------------------------------------------


def roster_with(change: Callable[[list[bytes]], list[bytes]], *, for_silo: int | None = None) -> Change:
    def apply(messages: Messages) -> Messages:
        def one(content: bytes) -> bytes:
            return bundle_to_bytes(change(_read_bundle(content, "a roster", most=1000)))

        return {i: one(m) if for_silo in (None, i) else m for i, m in messages.items()}

    return apply


def test_a_server_that_puts_its_own_key_in_the_middle() -> None:
    """It cannot sign as the silo: neither with a key of its own, nor as a stranger, nor with the old signature."""
    own = Advertisement(sealing=b"\x09" * 32, masking=b"\x0a" * 32, commitment=bytes(32)).to_bytes()
    forged = seal_envelope(SigningKey.generate(), TERMS, Phase.KEYS, own)
    fails("roster", roster_with(lambda m: [forged, *m[1:]]), e.NotAdmittedError)
    as_silo = forged[:6] + bytes.fromhex(KEYS[0].public_key) + forged[38:]
    fails("roster", roster_with(lambda m: [as_silo, *m[1:]]), e.ForgedSignatureError, culprit=0)
    fails("roster", roster_with(lambda m: [m[0][:74] + own + m[0][-64:], *m[1:]]), e.ForgedSignatureError, culprit=0)


def test_a_roster_with_keys_of_another_round_or_attempt() -> None:
    for changes in ({"round": 2}, {"attempt": 1}, {"run": "another run"}, {"threshold": 5}, {"request": "0" * 64}):
        old = fresh_keys(**changes)
        fails("roster", roster_with(lambda m, old=old: [old[0], *m[1:]]), e.ReplayedMessageError, culprit=0)


def fresh_keys(**changes: object) -> Messages:
    other = Round(KEYS, terms_of(KEYS, **{"threshold": 4} | changes))
    other.keys_step()
    return other.sent["keys"]


def test_old_keys_of_the_very_same_round() -> None:
    """A round is started twice: a silo's keys of the first start are signed for the same terms, yet not used."""
    old = fresh_keys()
    fails("roster", roster_with(lambda m: [old[0], *m[1:]], for_silo=0), e.SubstitutedKeyError)
    # For the others it passes as the silo's keys; then the rosters differ, and no share of theirs opens.
    fails("roster", roster_with(lambda m: [old[0], *m[1:]], for_silo=1), e.ForgedShareError)


def test_rosters_that_differ_by_a_silo() -> None:
    fails("roster", roster_with(lambda m: m[:-1], for_silo=0), e.MalformedMessageError, culprit=0)


def test_a_roster_below_the_threshold_or_without_this_silo() -> None:
    fails("roster", roster_with(lambda m: m[:3]), e.TooFewSurvivorsError)
    fails("roster", roster_with(lambda m: m[1:], for_silo=0), e.SubstitutedKeyError)


def test_a_silo_that_takes_another_ones_key() -> None:
    def stolen(messages: Messages) -> Messages:
        theirs = open_envelope(messages[0], TERMS, Phase.KEYS, most=96).body
        return messages | {1: seal_envelope(KEYS[1], TERMS, Phase.KEYS, theirs)}

    fails("keys", stolen, e.SubstitutedKeyError, culprit=1)
    with pytest.raises(e.SubstitutedKeyError, match="has too"):
        meddled("keys", stolen).keys_step()


def test_a_key_of_small_order() -> None:
    zero = resigned(Phase.KEYS, 1, lambda body: bytes(32) + body[32:])
    rounds = meddled("keys", zero)
    rounds.keys_step()
    with pytest.raises(e.SubstitutedKeyError, match="small order") as caught:
        silo.share(rounds.states[0], KEYS[0], rounds.sent["roster"][0])
    assert caught.value.culprit == KEYS[1].public_key
