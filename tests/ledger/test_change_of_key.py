"""A ledger whose key is changed: old entries stay verifiable, the old key writes no more."""

import io
import random
from dataclasses import replace

import pytest
from ledger_kit import KEY, OTHER_KEY, HandClock, charged, created, export

from recsys_fed.certificates.certificate import read_certificate
from recsys_fed.errors import ConfigurationError, KeyFileError, LedgerIntegrityError
from recsys_fed.ledger.entries import KeyChange
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.records import certify_run, status_record
from recsys_fed.ledger.verification import entries_of_export, verification_record, verify_entries, verify_ledger
from recsys_fed.signing import SigningKey


def changed(url: str, **options: object) -> Ledger:
    """Three releases and a limit under the first key, two releases under the second."""
    ledger = created(url, clock=HandClock(), **options)
    for number in range(3):
        charged(ledger, f"payload {number}", round=number)
    ledger.set_limit(50.0, reason="another year")
    ledger.change_key(OTHER_KEY, reason="a laptop was stolen")
    for number in range(3, 5):
        charged(ledger, f"payload {number}", round=number)
    return ledger


def test_every_entry_is_verified_by_the_key_of_its_time(url):
    ledger = changed(url)
    for key in (KEY, OTHER_KEY):
        found = verify_ledger(ledger, public_key=key.public_key, each_signature=None)
        assert (found.releases, found.terms.public_key) == (5, OTHER_KEY.public_key)
        assert found.terms.guarantee.epsilon == 50
    assert ledger.terms() == found.terms
    assert ledger.terms(until=4).public_key == KEY.public_key
    assert status_record(ledger)["terms"]["public_key"] == OTHER_KEY.public_key
    with pytest.raises(LedgerIntegrityError, match="Expected the ledger of the key"):
        verify_ledger(ledger, public_key=SigningKey.generate().public_key)


def test_the_key_before_opens_the_ledger_no_more_and_the_new_one_does(url):
    ledger = created(url, clock=HandClock())
    before = Ledger.open(url, key=KEY, clock=ledger._clock)
    charged(before, "payload 0")
    ledger.change_key(OTHER_KEY, reason="yearly")
    assert Ledger.open(url, key=OTHER_KEY).head().number == 2, "the last entry is still one of the key before"
    with pytest.raises(KeyFileError, match="after a change, the new one"):
        Ledger.open(url, key=KEY)
    head = before.head()
    for write in (lambda: charged(before, "payload 1"), lambda: before.set_limit(9.0, reason="more")):
        with pytest.raises(KeyFileError):
            write()
    assert before.head() == head, "a process that was not started again has written nothing"
    charged(ledger, "payload 1")


def test_certificates_of_either_time_hold_beside_the_ledger(tmp_path):
    ledger = created(tmp_path / "ledger.sqlite", clock=HandClock())
    charged(ledger, "payload 0", run="first")
    (tmp_path / "first.json").write_bytes(certify_run(ledger, KEY, run="first", model=""))
    ledger.change_key(OTHER_KEY, reason="yearly")
    charged(ledger, "payload 1", run="second")
    (tmp_path / "second.json").write_bytes(certify_run(ledger, OTHER_KEY, run="second", model=""))
    keys = [
        read_certificate((tmp_path / f"{name}.json").read_bytes()).terms.public_key for name in ("first", "second")
    ]
    assert keys == [KEY.public_key, OTHER_KEY.public_key]
    files = [tmp_path / "first.json", tmp_path / "second.json"]
    found = verification_record(str(tmp_path / "ledger.sqlite"), certificates=files)
    assert found["holds"], found["problem"]
    assert len(found["certificates_checked"]) == 2


def test_no_byte_of_a_change_can_be_changed(tmp_path):
    lines = export(changed(tmp_path / "ledger.sqlite")).splitlines(keepends=True)
    start = sum(map(len, lines[:5]))
    content, rng = bytearray(b"".join(lines)), random.Random(0)
    for position in range(start, start + len(lines[5])):
        before = content[position]
        content[position] = rng.choice([byte for byte in range(256) if byte != before])
        with pytest.raises(LedgerIntegrityError):
            verify_entries(entries_of_export(io.BytesIO(bytes(content))))
        content[position] = before


def test_a_key_that_has_not_taken_over_is_none(tmp_path):
    ledger = changed(tmp_path / "ledger.sqlite")
    entries = list(ledger.entries())
    stranger = SigningKey.generate().public_key
    forged = replace(entries[5], body=replace(entries[5].body, public_key=stranger)).signed(KEY)
    with pytest.raises(LedgerIntegrityError, match="has not"):
        verify_entries([*entries[:5], forged])
    # Nor can a proof be taken to another place of the chain.
    moved = KeyChange.to(OTHER_KEY, previous=entries[3].hash, reason="moved")
    with pytest.raises(LedgerIntegrityError, match="has not"):
        verify_entries([*entries[:5], replace(entries[5], body=moved).signed(KEY)])
    with pytest.raises(LedgerIntegrityError, match="signature of entry 5"):
        verify_entries([*entries[:5], entries[5].signed(OTHER_KEY)])


def test_a_change_needs_another_key_and_a_reason(tmp_path):
    ledger = created(tmp_path / "ledger.sqlite", clock=HandClock())
    head = ledger.head()
    with pytest.raises(ConfigurationError, match="another key"):
        ledger.change_key(KEY, reason="none")
    with pytest.raises(ConfigurationError, match="reason"):
        ledger.change_key(OTHER_KEY, reason=" ")
    assert ledger.head() == head
