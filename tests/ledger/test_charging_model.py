"""Charge, compute, settle, die, ask again, in any order and by several processes, against a model of a few lines."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from ledger_kit import KEY, charge, created, kept, settle

from recsys_fed.errors import ProtocolError
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.verification import verify_ledger

RUNS = ("7", "8")


class Silo(RuleBasedStateMachine):
    """Two openings of a ledger, and answers that are under way in them.

    Of each run the model knows the newest charge: its round, its request, its entry, and what is kept of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.path = Path(self.folder.name) / "ledger.sqlite"
        self.newest: dict[str, dict] = {}
        self.charges = 0
        # Of each answer that is computed: run, request and the bytes; and what has left, by draw.
        self.computed: list[tuple[str, str, bytes]] = []
        self.left: dict[str, set[bytes]] = {}

    @initialize()
    def begin(self) -> None:
        self.ledgers = [created(self.path, durable=False), Ledger.open(str(self.path), key=KEY, durable=False)]

    def teardown(self) -> None:
        assert verify_ledger(self.ledgers[0]).releases == self.charges
        self.folder.cleanup()

    @rule(
        which=st.integers(0, 1),
        run=st.sampled_from(RUNS),
        number=st.integers(0, 3),
        words=st.sampled_from("ab"),
        keep=st.sampled_from([True, True, False]),
    )
    def ask(self, which: int, run: str, number: int, words: str, keep: bool) -> None:
        """A request: what was settled is sent again, anything else is charged and computed, or refused."""
        request = f"round {number}, {words}, {keep}"
        ledger, newest = self.ledgers[which], self.newest.get(run)
        found = kept(ledger, request, run=run)
        if found is not None:
            assert (newest["request"], newest["kept"]) == (request, found)
            self.left[newest["draw"]].add(found)
            return
        same = newest is not None and keep and newest["request"] == request
        back = newest is not None and (number < newest["round"] or (keep and number == newest["round"]))
        try:
            entry = charge(ledger, request, run=run, round=number, keep=keep)
        except ProtocolError:
            assert back
            assert not same
            return
        assert same or not back
        if same:
            assert entry.draw == newest["draw"]
        else:
            self.charges += 1
            self.newest[run] = {"round": number, "request": request, "draw": entry.draw, "kept": None}
            assert entry.draw not in self.left
            self.left[entry.draw] = set()
        if keep:
            self.computed.append((run, request, f"{entry.draw} {len(self.computed)}".encode()))

    @precondition(lambda self: self.computed)
    @rule(which=st.integers(0, 1), pick=st.integers(0, 10**6))
    def send(self, which: int, pick: int) -> None:
        """One of the answers under way is settled, and what may leave leaves."""
        run, request, payload = self.computed.pop(pick % len(self.computed))
        newest = self.newest[run]
        try:
            found = settle(self.ledgers[which], request, payload, run=run)
        except ProtocolError:
            assert newest["request"] != request
            return
        assert newest["request"] == request
        newest["kept"] = newest["kept"] or payload
        assert found == newest["kept"]
        self.left[newest["draw"]].add(found)

    @precondition(lambda self: self.computed)
    @rule(pick=st.integers(0, 10**6))
    def die(self, pick: int) -> None:
        """The process dies before it settles; what it has computed is gone."""
        self.computed.pop(pick % len(self.computed))

    @rule(which=st.integers(0, 1))
    def open_again(self, which: int) -> None:
        self.ledgers[which] = Ledger.open(str(self.path), key=KEY, durable=False)

    @invariant()
    def one_draw_a_charge(self) -> None:
        for draw, payloads in self.left.items():
            assert len(payloads) <= 1
            assert all(payload.startswith(draw.encode()) for payload in payloads)


def test_one_draw_leaves_for_each_charge_whatever_happens():
    run(examples=8)


@pytest.mark.soak
def test_one_draw_leaves_for_each_charge_in_many_histories():
    run(examples=600)


def run(*, examples: int) -> None:
    """Run the machine so many times."""
    run_state_machine_as_test(Silo, settings=settings(max_examples=examples, stateful_step_count=30, deadline=None))
