"""A release is charged, then computed, then settled: each rule of the charge, and which bytes may leave."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from ledger_kit import KEY, HandClock, charge, charged, created, digest, event, export, kept, settle

from recsys_fed.errors import (
    BudgetExceededError,
    ConfigurationError,
    LedgerIntegrityError,
    PrivacyError,
    ProtocolError,
)
from recsys_fed.ledger.budget import Allowance
from recsys_fed.ledger.entries import draw_name
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.storage import Storage, payloads_table
from recsys_fed.ledger.verification import verify_ledger
from recsys_fed.privacy.accounting import epsilon_of_history
from recsys_fed.signing import canonical


def test_a_charge_is_durable_before_anything_is_computed_and_names_its_draw(url):
    entry = charge(created(url), "request")
    again = Ledger.open(url, key=KEY)
    assert again.entry(1) == entry
    assert kept(again, "request") is None
    name = canonical({"silo": "north", "number": 1, "request": digest("request")})
    assert entry.draw == entry.body.payload == digest(name)
    assert charge(again, "next", round=1).draw == draw_name(silo="north", number=2, request=digest("next"))
    assert verify_ledger(again).releases == 2


def test_a_request_that_was_charged_and_not_settled_is_not_charged_again(url):
    """The process died in between, or two of them answer: the same entry, until its bytes are there, and after."""
    first = charge(created(url), "request", run="7")
    again = Ledger.open(url, key=KEY)
    assert charge(again, "request", run="7") == first
    assert settle(again, "request", b"bytes", run="7") == b"bytes"
    assert charge(again, "request", run="7") == first
    assert again.releases() == 1
    assert charge(again, "request", run="8").number == 2, "another run pays for itself"
    with pytest.raises(ProtocolError):
        charge(again, "request", run="7", noise_multiplier=20.0)
    with pytest.raises(ProtocolError):
        charge(again, "other words", run="7")
    assert again.releases() == 2


def test_of_two_that_compute_one_draw_leaves(url):
    ledger, other = created(url), Ledger.open(url, key=KEY)
    assert charge(ledger, "request") == charge(other, "request")
    assert settle(other, "request", b"theirs") == b"theirs"
    assert settle(ledger, "request", b"ours") == b"theirs"
    assert settle(other, "request", b"later") == kept(ledger, "request") == b"theirs"


def test_nothing_is_settled_that_was_not_charged(url):
    ledger = created(url)
    charge(ledger, "old")
    charge(ledger, "request", round=1)
    charge(ledger, "masked", run="masked", keep=False)
    for request, run in (("old", "run"), ("unknown", "run"), ("request", "another"), ("masked", "masked")):
        with pytest.raises(ProtocolError, match=r"newest charge pays for.* Nothing leaves"):
            settle(ledger, request, b"bytes", run=run)
    with pytest.raises(ConfigurationError, match="got none"):
        settle(ledger, "request", b"")
    assert kept(ledger, "request") is None
    assert settle(ledger, "request", b"bytes") == b"bytes"


def test_rounds_of_a_run_never_go_back(url):
    ledger = created(url)
    charge(ledger, "third", round=2)
    before = export(ledger)
    for number in (0, 1, 2):
        with pytest.raises(ProtocolError, match=rf"after round 3 of this training, got round {number + 1}"):
            charge(ledger, "in other words", round=number)
    with pytest.raises(ProtocolError):
        charge(ledger, "in other words", round=1, keep=False)
    assert export(ledger) == before
    assert charge(ledger, "first", run="another", round=0).number == 2
    assert charge(ledger, "fourth", round=3).number == 3


def test_each_attempt_at_a_masked_round_is_charged(url):
    ledger = created(url)
    entries = [charge(ledger, f"attempt {number}", round=1, keep=False) for number in (0, 1, 1)]
    assert [entry.number for entry in entries] == [1, 2, 3]
    assert len({entry.draw for entry in entries}) == 3
    with pytest.raises(ProtocolError):
        charge(ledger, "unmasked", round=1)
    assert ledger.spending().kinds[0].steps == 3


def test_a_training_keeps_to_what_one_may_cost(url):
    """The ledger's limit would have room for more; each run has its own allowance."""
    ledger, allowance = created(url), Allowance(epsilon=epsilon_of_history([event(4.5)] * 2, delta=1e-6))
    for run in ("7", "8"):
        for number in range(2):
            charge(ledger, f"round {number}", run=run, round=number, noise_multiplier=4.5, allowance=allowance)
        before = export(ledger)
        for noise in (4.5, 0.0):
            with pytest.raises(BudgetExceededError, match=r"training of at most the agreed epsilon 1\.\d+"):
                charge(ledger, "more", run=run, round=2, noise_multiplier=noise, allowance=allowance)
        assert export(ledger) == before
    charge(ledger, "more", run="7", round=2, noise_multiplier=4.5)
    for wrong in ({"epsilon": 0.0}, {"trainings": -1}, {"days": -1.0}, {"days": float("inf")}, {"days": 1e9}):
        with pytest.raises(ConfigurationError):
            Allowance(**wrong)


def test_so_many_trainings_begin_in_so_many_days(url):
    clock = HandClock()
    ledger, allowance = created(url, clock=clock), Allowance(trainings=2, days=7.0)
    first = charge(ledger, "request", run="1", allowance=allowance)
    clock.time += timedelta(days=2)
    charge(ledger, "request", run="2", allowance=allowance)
    charge(ledger, "next", run="1", round=1, allowance=allowance)
    before = export(ledger)
    said = (
        r"at most 2 trainings to begin in 7 days, .* begin at 2026-02-07T12:01Z.* trainings and per-days .*silo.toml"
    )
    with pytest.raises(BudgetExceededError, match=said):
        charge(ledger, "request", run="3", allowance=allowance)
    assert first.time == "2026-01-31T12:00:02.000000Z"
    assert export(ledger) == before
    charge(ledger, "next", run="2", round=1, allowance=allowance)
    clock.time += timedelta(days=5, seconds=-10)
    with pytest.raises(BudgetExceededError):
        charge(ledger, "request", run="3", allowance=allowance)
    clock.time += timedelta(seconds=10)
    charge(ledger, "request", run="3", allowance=allowance)
    with pytest.raises(BudgetExceededError, match="begin at 2026-02-09T12:01Z"):
        charge(ledger, "request", run="4", allowance=allowance)
    for open_to_all in (Allowance(trainings=0, days=7.0), Allowance(trainings=4, days=7.0), Allowance(trainings=1)):
        charge(ledger, "request", run=f"more {open_to_all.trainings}", allowance=open_to_all)


def test_an_older_copy_that_is_put_back_while_the_process_runs(tmp_path):
    path, witness = tmp_path / "ledger.sqlite", tmp_path / "witness"
    ledger = created(path, witness=witness)
    charged(ledger, "first")
    ledger.close()
    backup = path.read_bytes()
    charged(ledger, "second")
    path.write_bytes(backup)
    for ask in (lambda: charge(ledger, "third", round=2), lambda: ledger.set_limit(9.0, reason="more")):
        with pytest.raises(LedgerIntegrityError, match=r"entry 2 that the witness .* older copy"):
            ask()
    with pytest.raises(ProtocolError):
        settle(ledger, "second", b"bytes")
    assert Ledger.open(str(path)).releases() == 1


def test_the_witness_does_not_go_back(tmp_path):
    """Of two processes the one whose entry is older may come to note it later."""
    witness = tmp_path / "witness"
    ledger = created(tmp_path / "ledger.sqlite", witness=witness)
    first, second = charged(ledger, "first"), charged(ledger, "second")
    ledger._note(first)
    assert f'"number":{second.number}'.encode() in witness.read_bytes()


def test_noise_from_a_seed_and_a_limit_are_looked_at_before_anything_is_written(url):
    ledger = created(url, 1.6)
    before = export(ledger)
    with pytest.raises(PrivacyError, match="operating system"):
        charge(ledger, "seeded", noise_source="seeded-simulation")
    with pytest.raises(BudgetExceededError, match=r"limit epsilon 1\.6"):
        charge(ledger, "dear", noise_multiplier=2.0)
    assert export(ledger) == before


def test_payloads_of_the_version_before_stay_readable(url):
    """Their entries hold the digest of the bytes, which were there when they were charged."""
    ledger = created(url)
    charge(ledger, "request")
    with Storage(url).writing() as connection:
        connection.execute(payloads_table.update().values(content=b"bytes of that version"))
    again = Ledger.open(url, key=KEY)
    assert kept(again, "request") == b"bytes of that version"
    assert settle(again, "request", b"ours") == b"bytes of that version"
    assert charge(again, "next", round=1).number == 2


def at_once(url: str, answers: int):
    """So many openings answer one request at once; the entries they got and the bytes they may send."""

    def answer(number: int):
        ledger = Ledger.open(url, key=KEY)
        entry = charge(ledger, "request", allowance=Allowance(trainings=1, days=1.0))
        return entry, settle(ledger, "request", f"{entry.draw} {number}".encode())

    with ThreadPoolExecutor(answers) as pool:
        return list(pool.map(answer, range(answers)))


def test_many_that_answer_one_request_at_once_charge_once_and_send_the_same(url):
    created(url).close()
    entries, left = zip(*at_once(url, 8), strict=True)
    assert len({entry.hash for entry in entries}) == len(set(left)) == 1
    assert Ledger.open(url).releases() == 1


def test_of_many_trainings_that_begin_at_once_as_many_as_may(url):
    created(url).close()

    def begin(number: int) -> bool:
        try:
            charge(Ledger.open(url, key=KEY), "request", run=str(number), allowance=Allowance(trainings=3, days=1.0))
        except BudgetExceededError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(begin, range(8))) == Ledger.open(url).releases() == 3
