"""Whichever write of a ledger's life fails, and in whichever way: nothing is lost, nothing is charged twice.

The life: made, charged and settled, a masked round, a new limit, an agreement, a new key, an export. After a write
that fails the disk is well again, another process opens the ledger and its operator asks for the same once more.
"""

from itertools import count
from pathlib import Path

import pytest
from failing_disk import FULL, ONCE, UNHEARD, FailingDisk, failing
from ledger_kit import KEY, OTHER_KEY, HandClock, charge, created, digest, kept, settle

from recsys_fed.errors import DataNotFoundError, ProtocolError, RecsysFedError
from recsys_fed.ledger.entries import Release
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.records import export_ledger
from recsys_fed.ledger.verification import verification_record, verify_ledger

REQUESTS = ("first", "second", "third")
# In `make test`; every write, until there is none, in the soak.
SOME = {ONCE: range(2, 90, 29), FULL: (5, 40), UNHEARD: (3, 10)}


class Life:
    """The steps of one ledger in a folder, each of which looks first whether it was taken already."""

    def __init__(self, folder: Path) -> None:
        self.path, self.witness, self.export = folder / "ledger.sqlite", folder / "witness", folder / "export.jsonl"
        self.clock, self.answers = HandClock(), 0
        # What has left, by request: bytes that were returned by `settle`.
        self.left: dict[str, set[bytes]] = {name: set() for name in REQUESTS}
        self.steps = [
            self.make,
            *(lambda name=name: self.answer(name) for name in REQUESTS[:2]),
            self.masked_round,
            self.raise_limit,
            self.agree,
            self.change_key,
            lambda: self.answer(REQUESTS[2]),
            self.write_export,
        ]

    def open(self) -> Ledger:
        key = OTHER_KEY if Ledger.open(str(self.path)).terms().public_key == OTHER_KEY.public_key else KEY
        return Ledger.open(str(self.path), key=key, clock=self.clock, witness=self.witness)

    def make(self) -> None:
        if not self.path.is_file() or not self.path.stat().st_size:
            created(self.path, 5.0, clock=self.clock, witness=self.witness)
            return
        try:
            self.open()
        except DataNotFoundError:  # there is a file, and no ledger in it
            created(self.path, 5.0, clock=self.clock, witness=self.witness)

    def answer(self, name: str) -> None:
        """Charged, computed with noise of its own, settled: what is settled already leaves again."""
        ledger = self.open()
        found = kept(ledger, name)
        if found is None:
            charge(ledger, name, round=REQUESTS.index(name) + (name == "third"))
            self.answers += 1
            found = settle(ledger, name, f"{name}, noise of draw {self.answers}".encode())
        self.left[name].add(found)

    def masked_round(self) -> None:
        ledger = self.open()
        if ledger.newest(1)[0].body.event.round < 2:
            charge(ledger, "masked", round=2, keep=False)
        ledger.begin_states(run="masked", state=digest("0"))
        ledger.consume_state(run="masked", used=digest("0"), after="")
        with pytest.raises(ProtocolError):
            ledger.consume_state(run="masked", used=digest("0"), after="")

    def raise_limit(self) -> None:
        if self.open().terms().guarantee.epsilon == 5.0:
            self.open().set_limit(8.0, reason="agreed")

    def agree(self) -> None:
        if not self.open().agreements():
            self.open().agree("terms", version=2, digest=digest("terms"))

    def change_key(self) -> None:
        ledger = self.open()
        if ledger.terms().public_key == KEY.public_key:
            ledger.change_key(OTHER_KEY, reason="yearly")

    def write_export(self) -> None:
        if not self.export.is_file():
            export_ledger(self.open(), self.export)

    def live(self, disk: FailingDisk) -> None:
        """All steps; one that fails is taken again on a disk that is well."""
        for step in self.steps:
            try:
                with failing(disk):
                    step()
            except RecsysFedError as error:
                assert disk.failed, error
                step()


def story(life: Life) -> list[tuple]:
    """What the ledger says, without times and what follows from them."""
    ledger = life.open()
    entries = [(e.kind, (e.body.event, e.draw) if isinstance(e.body, Release) else "") for e in ledger.entries()]
    return [*entries, ledger.terms(), [a.digest for a in ledger.agreements()], ledger.spending().epsilon]


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> list[tuple]:
    """The story of a life without a failure."""
    life = Life(tmp_path_factory.mktemp("whole"))
    life.live(FailingDisk(life.path.parent, number=0))
    return story(life)


def check(expected: list[tuple], folder: Path, how: str, number: int) -> bool:
    """A life whose n-th write fails; False where it has no such write."""
    folder.mkdir()
    disk, life = FailingDisk(folder, number=number, how=how), Life(folder)
    life.live(disk)
    assert story(life) == expected, disk.failed
    assert [len(left) for left in life.left.values()] == [1, 1, 1], disk.failed
    assert verify_ledger(life.open()).releases == len(REQUESTS) + 1, disk.failed
    assert verification_record(str(life.export))["holds"], disk.failed
    assert not list(folder.glob(".*")), disk.failed
    return bool(disk.failed)


@pytest.mark.parametrize(("how", "numbers"), SOME.items())
def test_some_writes(how, numbers, expected, tmp_path):
    for number in numbers:
        assert check(expected, tmp_path / f"{number}", how, number)


@pytest.mark.soak
@pytest.mark.parametrize("how", SOME)
def test_every_write(how, expected, tmp_path):
    numbers = count(1)
    last = next(number for number in numbers if not check(expected, tmp_path / f"{number}", how, number)) - 1
    assert last > max(SOME[how]), "every write of the life has failed once"
