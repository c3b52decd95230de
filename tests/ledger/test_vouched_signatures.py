"""Where most signatures are vouched for by later ones, nothing that the key's owner did not sign gets through."""

import io
import re
from dataclasses import replace

import pytest
from ledger_kit import KEY, OTHER_KEY, HandClock, charged, created, export

from recsys_fed.errors import LedgerIntegrityError
from recsys_fed.ledger import entries as entries_module
from recsys_fed.ledger.entries import Entry
from recsys_fed.ledger.verification import STRIDE, entries_of_export, verify_entries

N = 3 * STRIDE + 3


@pytest.fixture(scope="module")
def entries(tmp_path_factory) -> list[Entry]:
    """A ledger whose last entry is not one of those that the stride falls on."""
    ledger = created(tmp_path_factory.mktemp("ledger") / "ledger.sqlite", clock=HandClock())
    for number in range(N - 1):
        charged(ledger, f"payload {number}", round=number)
    return list(entries_of_export(io.BytesIO(export(ledger))))


def named(entries: list[Entry]) -> int:
    with pytest.raises(LedgerIntegrityError) as caught:
        verify_entries(entries, each_signature=0)
    return int(re.search(r"[Ee]ntry (\d+)", str(caught.value)).group(1))


def forged_from(entries: list[Entry], first: int) -> list[Entry]:
    """Another payload in one entry, and the chain after it made to fit, signed with another key."""
    forged = entries[:first]
    body = replace(entries[first].body, payload="0" * 64)
    for number in range(first, len(entries)):
        entry = replace(
            entries[number], previous=forged[-1].hash, body=body if number == first else entries[number].body
        )
        forged.append(entry.signed(OTHER_KEY))
    return forged


@pytest.mark.parametrize("number", range(N))
def test_a_changed_signature_is_named_wherever_it_is(entries, number):
    changed = list(entries)
    digit = "0" if entries[number].signature[5] != "0" else "1"
    signature = entries[number].signature[:5] + digit + entries[number].signature[6:]
    changed[number] = replace(entries[number], signature=signature)
    assert named(changed) == number


@pytest.mark.parametrize("first", range(1, N))
def test_a_tail_that_another_key_signed_is_named_from_its_first_entry(entries, first):
    assert named(forged_from(entries, first)) == first


def test_most_signatures_are_left_to_later_ones_and_the_last_is_not(entries, monkeypatch):
    checked = []
    honest = entries_module.verify_signature
    monkeypatch.setattr(entries_module, "verify_signature", lambda *given: checked.append(given) or honest(*given))
    assert verify_entries(entries, each_signature=0).head.number == N - 1
    assert len(checked) == len([n for n in range(N) if n % STRIDE == 0]) + 1
    assert checked[-1][2] == entries[-1].content
    assert KEY.public_key == checked[0][0]


def test_up_to_the_limit_and_where_it_is_asked_for_all_are_checked(entries, monkeypatch):
    checked = []
    honest = entries_module.verify_signature
    monkeypatch.setattr(entries_module, "verify_signature", lambda *given: checked.append(given) or honest(*given))
    verify_entries(entries)
    verify_entries(entries, each_signature=None)
    assert len(checked) == 2 * N
