"""The same behaviour on SQLite and on a real PostgreSQL server."""

import pytest
import sqlalchemy as sa
from ledger_kit import KEY, OTHER_KEY, charge, charged, created, event, export, kept, terms
from spending_processes import spent_by_processes, spent_by_threads

from recsys_fed.errors import (
    BudgetExceededError,
    ConfigurationError,
    DataNotFoundError,
    KeyFileError,
    LedgerError,
    PrivacyError,
)
from recsys_fed.ledger.agreed_schedule import AgreedSchedule
from recsys_fed.ledger.budget import Allowance
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.storage import Storage, entries_table, ledger_table
from recsys_fed.ledger.verification import verify_ledger
from recsys_fed.privacy.accounting import epsilon_of_history

# One release costs about 1.05, two 1.5, three 1.9 at delta 1e-6.
NOISE, LIMIT, MOST = 4.5, 1.6, 2


def test_what_is_charged_is_there_when_it_is_opened_again(url):
    ledger = created(url, 5.0)
    entries = [charged(ledger, f"payload {number}", round=number) for number in range(3)]
    ledger.close()
    again = Ledger.open(url, key=KEY)
    assert list(again.entries())[1:] == entries
    assert [entry.number for entry in entries] == [1, 2, 3]
    assert again.terms() == terms(5.0)
    assert again.releases() == 3
    assert again.head().hash == entries[-1].hash
    assert [e.body.event for e in again.releases_of("run")] == [event(round=number) for number in range(3)]
    assert again.releases_of("another run") == []
    verified = verify_ledger(again, public_key=KEY.public_key)
    assert verified.spending.epsilon == again.spending().epsilon == epsilon_of_history([event(steps=3)], delta=1e-6)


def test_the_newest_payload_of_a_run_is_kept(url):
    ledger = created(url)
    charged(ledger, "payload")
    assert kept(Ledger.open(url), "payload") == b"payload"
    assert kept(ledger, "payload", run="another run") is None
    charged(ledger, "payload", run="another run")
    charged(ledger, "next payload")
    assert kept(ledger, "payload") is None, "only the newest of a run is kept"
    assert kept(ledger, "next payload") == b"next payload"
    assert kept(ledger, "payload", run="another run") == b"payload"


def test_federations_that_share_a_ledger_spend_one_limit_and_begin_trainings_each_for_itself(url):
    ledger = created(url, LIMIT)
    plans = {"a-training": [NOISE] * 3, "other/a-training": [NOISE] * 3}
    paid = spent_by_processes(url, plans)
    assert sum(map(len, paid.values())) == MOST, "both at once, whoever comes first"
    events = [event(NOISE)] * MOST
    assert ledger.spending().epsilon == pytest.approx(epsilon_of_history(events, delta=1e-6))
    assert verify_ledger(ledger).releases == MOST
    # One training a day for each federation.
    ledger.set_limit(20.0, reason="room")
    daily = Allowance(trainings=1, days=1.0)
    for run in ("third/x", "fourth/x"):
        charge(ledger, run, run=run, allowance=daily)
        with pytest.raises(BudgetExceededError, match="at most 1 trainings"):
            charge(ledger, run, run=run.replace("x", "y"), allowance=daily)
    schedule = AgreedSchedule(trainings=2, spacing_days=0.0, epsilon=3.0)
    with pytest.raises(BudgetExceededError, match="schedule"):
        charge(ledger, "dear", run="fifth/x", noise_multiplier=1.0, schedule=schedule)
    charge(ledger, "cheap", run="fifth/x", noise_multiplier=4.0, schedule=schedule)


def test_the_limit_holds_and_a_signed_entry_raises_it(url):
    ledger = created(url, LIMIT)
    for number in range(MOST):
        charged(ledger, f"payload {number}", noise_multiplier=NOISE)
    before = export(ledger)
    with pytest.raises(BudgetExceededError, match=r"limit epsilon 1\.6 at delta 1e-06, .* ever spent to \d"):
        charged(ledger, "one more", noise_multiplier=NOISE)
    assert export(ledger) == before
    assert kept(ledger, "one more") is None
    ledger.set_limit(2.5, reason="the board's decision of May")
    charged(ledger, "one more", noise_multiplier=NOISE)
    verified = verify_ledger(ledger)
    assert (verified.terms.guarantee.epsilon, verified.releases) == (2.5, MOST + 1)
    assert ledger.entry(MOST + 1).body.reason == "the board's decision of May"


def test_no_release_without_noise_and_none_with_noise_from_a_seed(url):
    ledger = created(url, 100.0)
    before = export(ledger)
    with pytest.raises(BudgetExceededError, match="infinity"):
        charged(ledger, "bare", noise_multiplier=0.0)
    with pytest.raises(PrivacyError, match="noise from the operating system"):
        charged(ledger, "seeded", noise_source="seeded-simulation")
    assert export(ledger) == before


def test_the_last_budget_is_spent_once_by_processes(url):
    created(url, LIMIT).close()
    paid = spent_by_processes(url, {"first": [NOISE] * 2, "second": [NOISE] * 2})
    verified = verify_ledger(Ledger.open(url))
    assert len(paid["first"]) + len(paid["second"]) == verified.releases == MOST
    assert verified.spending.epsilon <= LIMIT


def test_the_last_budget_is_spent_once_by_threads(url, tmp_path):
    ledger = created(url, LIMIT, witness=tmp_path / "witness")
    paid = spent_by_threads(ledger, {name: [NOISE] for name in "abcdef"})
    assert len(paid) == 6, "all threads came to their end"
    assert sum(map(len, paid.values())) == verify_ledger(ledger).releases == MOST


def test_many_writers_make_one_chain(url):
    ledger = created(url)
    plans = {name: [10.0] * 6 for name in "abcdef"}
    assert spent_by_threads(ledger, plans) == plans
    assert verify_ledger(ledger).releases == 36


@pytest.mark.parametrize("verb", ["update", "delete"])
def test_entries_cannot_be_changed_by_an_ordinary_statement(verb, url):
    ledger = created(url)
    charged(ledger, "payload")
    before = export(ledger)
    statement = {
        "update": entries_table.update().values(steps=2).where(entries_table.c.number == 1),
        "delete": entries_table.delete(),
    }[verb]
    with pytest.raises(LedgerError, match="append-only"), Storage(url).writing() as connection:
        connection.execute(statement)
    assert export(ledger) == before


def test_a_second_ledger_in_the_same_place_is_refused(url):
    ledger = created(url)
    before = export(ledger)
    with pytest.raises(ConfigurationError, match=r"There is a ledger at .* already\. Open it"):
        created(url)
    assert export(ledger) == before


def test_a_ledger_that_was_not_finished_is_none(url):
    """The tables come with the genesis entry or not at all."""
    with pytest.raises(RuntimeError), Storage(url).creating():
        raise RuntimeError("killed")
    with pytest.raises(DataNotFoundError, match="Create it first"):
        Ledger.open(url)
    charged(created(url), "payload")


def test_another_key_is_refused(url):
    ledger = created(url)
    with pytest.raises(KeyFileError, match="silo's own key"):
        Ledger.open(url, key=OTHER_KEY)
    with pytest.raises(KeyFileError, match="opened without its key"):
        charged(Ledger.open(url), "payload")
    with pytest.raises(ConfigurationError, match="public half"):
        Ledger.create(url, key=OTHER_KEY, terms=terms())
    assert ledger.releases() == 0


def test_a_ledger_of_a_newer_version_is_left_alone(url):
    ledger = created(url)
    with Storage(url).writing() as connection:
        connection.execute(ledger_table.update().values(schema_version=99))
    with pytest.raises(LedgerError, match=r"has schema 99, .* schemas 1 to 2\. Install the version that wrote it"):
        Ledger.open(url, key=KEY)
    with Storage(url).writing() as connection:
        connection.execute(ledger_table.update().values(schema_version=2))
    charged(Ledger.open(url, key=KEY), "payload")
    assert ledger.releases() == 1


def test_a_write_that_fails_half_way_leaves_nothing(url, monkeypatch):
    """The entry goes in, its pending payload does not: neither is there."""
    ledger = created(url)
    before = export(ledger)

    def failing(connection, **_):
        connection.execute(sa.text("INSERT INTO gone VALUES (1)"))

    with monkeypatch.context() as patch:
        patch.setattr("recsys_fed.ledger.ledger.begin_payload", failing)
        with pytest.raises(LedgerError, match="gone"):
            charged(ledger, "payload")
    assert export(ledger) == before
    charged(ledger, "payload")


def test_a_password_is_in_no_message():
    url = "postgresql://ledger:topsecret@127.0.0.1:1/ledger"
    pytest.importorskip("psycopg")
    assert "topsecret" not in Storage(url).place
    with pytest.raises(LedgerError) as caught:
        Ledger.open(url)
    assert "127.0.0.1" in str(caught.value)
    assert "topsecret" not in str(caught.value)
