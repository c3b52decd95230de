"""Every change of an exported ledger is detected, and the entry named."""

import io
import random
import re

import pytest
from ledger_kit import KEY, OTHER_KEY, HandClock, charged, created, export, terms

from recsys_fed.errors import LedgerIntegrityError
from recsys_fed.ledger.entries import Entry, Limit
from recsys_fed.ledger.verification import entries_of_export, verify_entries


@pytest.fixture(scope="module")
def lines(tmp_path_factory) -> list[bytes]:
    """Seven entries of all kinds, without their line ends."""
    ledger = created(tmp_path_factory.mktemp("ledger") / "ledger.sqlite", clock=HandClock())
    for number in range(3):
        charged(ledger, f"payload {number}", round=number)
    ledger.set_limit(50.0, reason="another year")
    for number in range(3, 5):
        charged(ledger, f"payload {number}", round=number)
    return export(ledger).splitlines()


def verify(content: bytes, **options: object):
    return verify_entries(entries_of_export(io.BytesIO(content)), **options)


def joined(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def named(content: bytes, **options: object) -> int:
    """The entry that the refusal names first."""
    with pytest.raises(LedgerIntegrityError) as caught:
        verify(content, **options)
    return int(re.search(r"[Ee]ntry (\d+)", str(caught.value)).group(1))


def changed_bytes(lines: list[bytes], positions: list[int], rng: random.Random) -> list[str]:
    """What was not detected, or named wrongly, of one changed byte at each position."""
    content = bytearray(joined(lines))
    starts = [sum(len(line) + 1 for line in lines[:number]) for number in range(len(lines))]
    wrong = []
    for position in positions:
        before = content[position]
        content[position] = rng.choice([byte for byte in range(256) if byte != before])
        expected = max(number for number, start in enumerate(starts) if start <= position)
        try:
            verify(bytes(content))
            wrong.append(f"position {position}: {before} to {content[position]} is not detected")
        except LedgerIntegrityError as error:
            found = int(re.search(r"[Ee]ntry (\d+)", str(error)).group(1))
            if not 0 <= found - expected <= 1:
                wrong.append(f"position {position} in entry {expected}: {error}")
        content[position] = before
    return wrong


def test_the_export_itself_holds(lines):
    verified = verify(joined(lines), public_key=KEY.public_key)
    assert (verified.releases, verified.head.number, verified.terms.guarantee.epsilon) == (5, 6, 50.0)
    assert verified.spending.kinds[0].steps == 5


def test_every_byte_of_a_short_ledger_counts(lines):
    short = lines[:2]
    assert changed_bytes(short, list(range(len(joined(short)))), random.Random(0)) == []


@pytest.mark.parametrize("positions", [300, pytest.param(2_000, marks=pytest.mark.soak)])
def test_single_bytes_of_a_longer_ledger_count(lines, positions):
    rng = random.Random(1)
    assert changed_bytes(lines, rng.sample(range(len(joined(lines))), positions), rng) == []


@pytest.mark.soak
def test_every_bit_of_a_ledger_counts(lines):
    content = bytearray(joined(lines[:3]))
    for position in range(len(content)):
        for bit in range(8):
            content[position] ^= 1 << bit
            with pytest.raises(LedgerIntegrityError):
                verify(bytes(content))
            content[position] ^= 1 << bit


def test_a_removed_entry_is_named(lines):
    for gone in range(len(lines) - 1):
        assert named(joined(lines[:gone] + lines[gone + 1 :])) == gone


def test_swapped_entries_are_named(lines):
    for first in range(len(lines)):
        for second in range(first + 1, len(lines)):
            swapped = list(lines)
            swapped[first], swapped[second] = lines[second], lines[first]
            assert named(joined(swapped)) == first


def test_a_repeated_entry_is_named(lines):
    for number in range(len(lines)):
        assert named(joined(lines[: number + 1] + lines[number:])) == number + 1
        assert named(joined([*lines, lines[number]])) == len(lines)


def test_an_entry_that_is_cut_off_is_named(lines):
    content = joined(lines)
    last = len(lines) - 1
    for length in range(len(content) - len(lines[-1]), len(content), 20):
        assert named(content[:length]) == last
    assert named(content[: len(lines[0]) // 2]) == 0


def test_a_tail_that_is_cut_off_is_noticed_by_whoever_has_a_certificate(lines):
    known = {number: entry.hash for number, entry in enumerate(entries_of_export(io.BytesIO(joined(lines))))}
    last = len(lines) - 1
    for kept in range(1, len(lines)):
        assert verify(joined(lines[:kept])).head.number == kept - 1, "the chain alone cannot tell"
        assert named(joined(lines[:kept]), named_hashes={last: known[last]}) == last
        assert named(joined(lines[:kept]), named_hashes={number: known[number] for number in (0, kept, last)}) == kept
    assert verify(joined(lines), named_hashes=known).head.number == last


def test_another_history_from_some_entry_on_is_noticed_by_whoever_has_a_certificate(lines, tmp_path):
    """The silo itself signs a second, cheaper history: the chain holds, the entry that was shown does not."""
    known = {number: entry.hash for number, entry in enumerate(entries_of_export(io.BytesIO(joined(lines))))}
    other = created(tmp_path / "other.sqlite", clock=HandClock())
    for number in range(6):
        charged(other, f"cheaper {number}", noise_multiplier=1000.0)
    verify(export(other), public_key=KEY.public_key)
    assert named(export(other), named_hashes={3: known[3], 6: known[6]}) == 3


def test_nothing_at_all_is_no_ledger():
    with pytest.raises(LedgerIntegrityError, match="no entry at all"):
        verify(b"")


def forged(lines: list[bytes], key, change) -> bytes:
    """The export with each entry changed, chained anew and signed by `key`."""
    entries, previous = [], None
    for entry in entries_of_export(io.BytesIO(joined(lines))):
        fields = {name: getattr(entry, name) for name in ("number", "time", "previous", "kind", "body")}
        fields |= {"previous": previous.hash if previous else entry.previous} | change(entry)
        previous = Entry(**fields).signed(key)
        entries.append(previous.line())
    return joined(entries)


def test_a_chain_of_another_key_does_not_hold(lines):
    content = forged(lines, OTHER_KEY, lambda entry: {})
    assert named(content) == 0, "its own terms name the key"
    own = forged(lines, OTHER_KEY, lambda entry: {} if entry.number else {"body": terms(key=OTHER_KEY)})
    verify(own)
    assert named(own, public_key=KEY.public_key) == 0


def test_the_owner_cannot_sign_what_breaks_the_rules(lines):
    """A well signed chain whose times go back, whose limit was passed, or that starts anew in the middle."""
    back = forged(lines, KEY, lambda e: {"time": "2020-01-01T00:00:00.000000Z"} if e.number == 4 else {})
    assert named(back) == 4
    low = forged(lines, KEY, lambda e: {"body": terms(0.5)} if e.number == 0 else {})
    assert named(low) == 4, "the entries before the new limit"
    lowered = forged(lines, KEY, lambda e: {"body": Limit(epsilon=0.5, reason="less")} if e.kind == "limit" else {})
    assert named(lowered) == len(lines)
    anew = forged(lines, KEY, lambda e: {"kind": "genesis", "body": terms()} if e.number == 3 else {})
    assert named(anew) == 3
    elsewhere = forged(lines, KEY, lambda e: {"previous": "1" * 64} if e.number == 3 else {})
    assert named(elsewhere) == 3
    skipped = forged(lines, KEY, lambda e: {"number": e.number + (e.number > 2)})
    assert named(skipped) == 3
