"""Of several processes that start from copies of one state of a masked round, one goes on."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from ledger_kit import KEY, charge, charged, created, kept

from recsys_fed.errors import ProtocolError
from recsys_fed.ledger.ledger import Ledger


def test_a_state_is_used_once_and_in_order(url):
    ledger = created(url)
    ledger.begin_states(run="7", state="a")
    ledger.consume_state(run="7", used="a", after="b")
    with pytest.raises(ProtocolError, match="taken already"):
        ledger.consume_state(run="7", used="a", after="c")
    with pytest.raises(ProtocolError, match="taken already"):
        ledger.consume_state(run="8", used="b", after="c")
    Ledger.open(url, key=KEY).consume_state(run="7", used="b", after="")
    with pytest.raises(ProtocolError, match="taken already"):
        ledger.consume_state(run="7", used="b", after="")


def test_a_round_that_begins_anew_ends_the_one_before(url):
    ledger = created(url)
    ledger.begin_states(run="7", state="a")
    ledger.begin_states(run="7", state="b")
    with pytest.raises(ProtocolError, match="taken already"):
        ledger.consume_state(run="7", used="a", after="c")
    ledger.consume_state(run="7", used="b", after="c")


def test_one_of_many_at_once_goes_on(url):
    created(url).begin_states(run="7", state="a")

    def attempt(number: int) -> bool:
        try:
            Ledger.open(url, key=KEY).consume_state(run="7", used="a", after=f"b{number}")
        except ProtocolError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(attempt, range(12))) == 1


def test_turns_are_no_entries(url):
    ledger = created(url)
    entry = charged(ledger, "payload")
    ledger.begin_states(run="7", state="a")
    assert ledger.head().hash == entry.hash


def test_what_is_charged_without_being_kept_cannot_be_had_again(url):
    ledger = created(url)
    charged(ledger, "first")
    charge(ledger, "second", round=1, keep=False)
    assert ledger.releases() == 2
    assert [kept(ledger, name) for name in ("first", "second")] == [None, None]
