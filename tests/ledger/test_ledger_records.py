"""What a ledger says to others: its status, its log, receipts; and the agreements beside its entries."""

import math
from dataclasses import replace

import pytest
import sqlalchemy as sa
from ledger_kit import KEY, OTHER_KEY, HandClock, charge, charged, created, digest, event

from recsys_fed.certificates.certificate import Head
from recsys_fed.certificates.erasure import read_receipt
from recsys_fed.errors import ConfigurationError, DataFormatError, KeyFileError, LedgerIntegrityError
from recsys_fed.ledger.agreements import Agreement
from recsys_fed.ledger.budget import account_spending, budget_after_runs, would_exceed
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.records import certify_erasure, check_receipt, log_record, status_record
from recsys_fed.ledger.storage import agreements_table
from recsys_fed.privacy.accounting import epsilon_of_history
from recsys_fed.privacy.guarantee import Guarantee

DELTA = 1e-6


def spent(releases: int, *, delta: float = DELTA, accountant: str = "") -> float:
    return epsilon_of_history([event()] * releases, delta=delta, accountant=accountant)


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    """Releases of three runs, a limit and a key in between: entries 0 to 6."""
    ledger = created(tmp_path / "ledger.sqlite", 5.0, clock=HandClock())
    charged(ledger, "a0", run="a")
    charged(ledger, "b0", run="b", steps=3, sampling_probability=1.0)
    ledger.set_limit(9.0, reason="another year")
    charged(ledger, "a1", run="a")
    ledger.change_key(OTHER_KEY, reason="a laptop was stolen")
    charged(ledger, "c0", run="c")
    return ledger


def test_the_status_is_what_the_entries_say(ledger):
    found = status_record(ledger, deltas=(1e-5, DELTA), newest_runs=2)
    assert found["ledger"] == ledger.place
    assert found["terms"] == ledger.terms().to_record()
    assert (found["entries"], found["releases"], found["verified"]) == (7, 4, False)
    assert found["last_entry"]["number"] == 6
    assert found["guarantee"] == ledger.terms().guarantee.sentence()
    assert [(one["delta"], one["epsilon"]) for one in found["spending"]] == [
        (delta, max(spent(6, delta=delta, accountant=name) for name in ("pld", "prv"))) for delta in (DELTA, 1e-5)
    ]
    assert [(run["run"], run["releases"]) for run in found["runs"]] == [("c", 1), ("a", 2)]
    assert [run["epsilon"] for run in found["runs"]] == pytest.approx([spent(1), spent(2)], rel=1e-9)
    assert len(status_record(ledger)["runs"]) == 3
    assert [one["delta"] for one in status_record(ledger)["spending"]] == [DELTA]


def test_the_status_says_how_often_a_release_counts(tmp_path):
    words = []
    for k in (1, 3):
        terms = replace(created(tmp_path / f"{k}").terms(), guarantee=Guarantee(epsilon=9.0, max_silos_per_user=k))
        words.append(status_record(Ledger.create(str(tmp_path / f"of {k}"), key=KEY, terms=terms))["over_silos"])
    assert words[0].startswith("a user is in one silo only")
    assert words[1] == (
        "a user may be in 3 silos: every release counts 3 times here, as if 3 silos had released alike"
    )


def test_the_log_has_every_kind_of_entry_in_order(ledger):
    found = log_record(ledger, last=10)
    assert [one["number"] for one in found] == list(range(7))
    assert [one["kind"] for one in found] == ["genesis", *["release"] * 2, "limit", "release", "key", "release"]
    entries = list(ledger.entries())
    assert [(one["time"], one["hash"]) for one in found] == [(entry.time, entry.hash) for entry in entries]
    rest = [{key: one[key] for key in one if key not in ("number", "time", "kind", "hash")} for one in found]
    assert rest[0] == {"epsilon_limit": 5.0, "silo": "north"}
    assert rest[2] == {
        "run": "b", "round": 0, "stage": "item counts", "released": "item counts", "noise_multiplier": 10.0,
        "sampling_probability": 1.0, "steps": 3, "payload": entries[2].draw, "code_version": "1.0",
    }  # fmt: skip
    assert rest[3] == {"epsilon_limit": 9.0, "reason": "another year"}
    assert rest[5] == {"public_key": OTHER_KEY.public_key, "reason": "a laptop was stolen"}


def test_the_log_of_a_run_and_what_was_spent_until_then(ledger):
    found = log_record(ledger, last=2, run="a", epsilon=True)
    assert [one["number"] for one in found] == [1, 4]
    assert [one["epsilon_until_then"] for one in found] == pytest.approx([spent(1), spent(5)], rel=1e-9)
    assert [one["number"] for one in log_record(ledger, last=1)] == [6]


def test_a_receipt_agrees_with_its_ledger_and_with_no_other(ledger, tmp_path):
    receipt = read_receipt(certify_erasure(ledger, OTHER_KEY, user="pseudonym"))
    charged(ledger, "c1", run="c")
    check_receipt(receipt, ledger)
    assert [(one.run, one.releases) for one in receipt.trainings] == [("a", 2), ("b", 1), ("c", 1)]
    times = {entry.number: entry.time for entry in ledger.entries()}
    assert (receipt.trainings[0].first, receipt.trainings[0].last) == (times[1], times[4])
    assert [one.epsilon for one in receipt.trainings] == pytest.approx([spent(2), spent(3), spent(1)], rel=1e-9)
    assert receipt.epsilon_in_all == pytest.approx(spent(6), rel=1e-9)
    other = receipt.trainings[0]
    for wrong, said in (
        ({"terms": replace(receipt.terms, silo="south")}, "another silo"),
        ({"terms": replace(receipt.terms, declared_users=7)}, "other trainings, or other terms"),
        ({"head": Head(number=99, hash=receipt.head.hash)}, "entry 99 as the receipt names it"),
        ({"head": Head(number=6, hash="0" * 64)}, "entry 6 as the receipt names it"),
        ({"trainings": receipt.trainings[1:]}, "other trainings, or other terms"),
        ({"trainings": (replace(other, last=other.first), *receipt.trainings[1:])}, "other trainings"),
        ({"trainings": (replace(other, epsilon=other.epsilon / 1.1), *receipt.trainings[1:])}, "by the ledger it is"),
        ({"epsilon_in_all": receipt.epsilon_in_all * 1.01}, "by the ledger it is"),
    ):
        with pytest.raises(LedgerIntegrityError, match=said):
            check_receipt(replace(receipt, **wrong), ledger)
    check_receipt(replace(receipt, epsilon_in_all=receipt.epsilon_in_all * 1.0001), ledger)


def agreed(ledger: Ledger, number: int) -> Agreement:
    return ledger.agree("terms", version=number, digest=digest(f"{number}"))


def test_agreements_are_a_signed_chain_over_a_change_of_the_key(tmp_path):
    ledger = created(tmp_path / "ledger.sqlite", clock=HandClock())
    made = [agreed(ledger, 0)]
    ledger.change_key(OTHER_KEY, reason="yearly")
    made += [agreed(ledger, number) for number in (1, 2)]
    assert ledger.agreements() == made
    assert [one.previous for one in made] == ["0" * 64, made[0].hash, made[1].hash]
    assert [one.public_key for one in made] == [KEY.public_key, *[OTHER_KEY.public_key] * 2]
    assert (made[1].what, made[1].version, made[1].digest) == ("terms", 1, digest("1"))
    assert made[0].time == "2026-01-31T12:00:02.000000Z"
    with pytest.raises(KeyFileError):
        agreed(Ledger.open(str(tmp_path / "ledger.sqlite")), 3)


@pytest.mark.parametrize("change", ["signature", "content", "order", "gap", "another key"])
def test_agreements_that_were_tampered_with_are_refused(change, tmp_path):
    ledger = created(tmp_path / "ledger.sqlite", clock=HandClock())
    made = [agreed(ledger, number) for number in range(3)]
    columns = agreements_table.c
    stranger = replace(made[2], public_key=OTHER_KEY.public_key)
    statements = {
        "signature": agreements_table.update().where(columns.number == 2).values(signature="00" * 64),
        "content": agreements_table.update()
        .where(columns.number == 2)
        .values(content=replace(made[2], version=9).content),
        "order": agreements_table.update().values(number=sa.case((columns.number == 0, 7), else_=columns.number)),
        "gap": agreements_table.delete().where(columns.number == 1),
        "another key": agreements_table.update()
        .where(columns.number == 2)
        .values(content=stranger.content, signature=OTHER_KEY.sign("agreement", stranger.content)),
    }
    with ledger._storage.writing() as connection:
        connection.execute(statements[change])
    with pytest.raises(LedgerIntegrityError, match=r"Agreement \d of the ledger is not as the silo signed it"):
        ledger.agreements()


def test_what_is_no_agreement_is_refused():
    fields = {"what": "roster", "version": 0, "digest": "", "time": "", "public_key": "", "previous": ""}
    right = Agreement(**fields)
    assert Agreement.from_content(right.content) == right
    for wrong in ({"what": "rosters"}, {"version": -1}):
        with pytest.raises(ConfigurationError):
            Agreement(**(fields | wrong))
    for content in (right.content.replace(b":0", b":0.0"), right.content.replace(b'"time"', b'"tide"'), b"{}"):
        with pytest.raises(DataFormatError):
            Agreement.from_content(content)


def test_spending_says_what_is_left_and_by_whom():
    found = account_spending([event()], Guarantee(epsilon=2.0, max_silos_per_user=2))
    figures = {
        name: epsilon_of_history([event()] * 2, delta=DELTA, accountant=name) for name in ("pld", "prv", "rdp")
    }
    assert found.to_dict() == {
        "epsilon": max(figures["pld"], figures["prv"]), "epsilon_limit": 2.0, "epsilon_left": found.left,
        "delta": DELTA, "max_silos_per_user": 2, **{f"epsilon_{name}": value for name, value in figures.items()},
    }  # fmt: skip
    assert found.left == 2.0 - found.epsilon
    assert account_spending([event()], Guarantee(epsilon=0.1)).left == 0.0
    open_ended = account_spending([event(0.0)], Guarantee(epsilon=math.inf)).to_dict()
    assert (open_ended["epsilon"], open_ended["epsilon_left"], open_ended["epsilon_limit"]) == ("inf", "inf", "inf")


def test_a_limit_is_met_to_a_millionth():
    total = epsilon_of_history([event()] * 2, delta=DELTA)
    for limit, exceeds in ((total, False), (total / (1 + 5e-7), False), (total / (1 + 2e-6), True)):
        guarantee = Guarantee(epsilon=limit)
        assert would_exceed([event()], [event()], guarantee) == exceeds
        last = list(budget_after_runs([event()], [event()], guarantee, runs=1))[-1]
        assert (last.fits, last.run) == (not exceeds, 1)


def test_a_masked_round_is_no_payload(tmp_path):
    ledger = created(tmp_path / "ledger.sqlite")
    charge(ledger, "attempt", keep=False)
    assert ledger.runs(newest=5) == [("run", 1)]
    assert ledger.kept_payload(run="run", request=digest("attempt")) is None
