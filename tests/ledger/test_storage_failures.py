"""What can go wrong around a ledger is a clear error, loses nothing, and is over when its cause is gone."""

import multiprocessing
import os
import resource
import shutil
import sqlite3
import subprocess
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from ledger_kit import KEY, HandClock, charge, charged, created, event, export, kept, settle

from recsys_fed.errors import (
    BudgetExceededError,
    ClockError,
    ConfigurationError,
    DataNotFoundError,
    LedgerError,
    LedgerIntegrityError,
)
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.verification import verify_ledger

NOBODY = 65_534


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "ledger.sqlite"


def opened(path: Path, **options: object) -> Ledger:
    return Ledger.open(str(path), key=KEY, **options)


def fill(ledger: Ledger, path: Path) -> int:
    """Charge and settle until the disk is full; how many releases were charged, all of which must be there."""
    charges = 0
    for number in range(10_000):
        try:
            charge(ledger, "request", run=f"run {number}")
            charges += 1
            settle(ledger, "request", f"{number}".encode() * 5_000, run=f"run {number}")
        except LedgerError as error:
            assert "Nothing was released" in str(error)
            return charges
    raise AssertionError(f"The disk of {path} was never full.")


def test_a_full_disk(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        path = folder / "ledger.sqlite"
        ledger = created(path)
        paid = fill(ledger, path)
        assert verify_ledger(opened(path)).releases == paid > 5
        with pytest.raises(LedgerError, match="full"):
            charge(ledger, "large")
            settle(ledger, "large", b"x" * 500_000)
        assert kept(ledger, "large") is None
        subprocess.run(["mount", "-o", "remount,size=8m", str(folder)], check=True, capture_output=True)
        charge(ledger, "large")
        assert settle(ledger, "large", b"x" * 500_000) == kept(ledger, "large") == b"x" * 500_000
        assert verify_ledger(opened(path)).releases == paid + 1
        ledger.close()
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)


def _limited(path: Path, answer) -> None:
    ledger = opened(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    answer.send(fill(ledger, path))


def test_a_file_that_may_not_grow(path):
    created(path).close()
    answer, sending = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_limited, args=(path, sending))
    child.start()
    child.join(timeout=60)
    assert child.exitcode == 0
    ledger = opened(path)
    assert verify_ledger(ledger).releases == answer.recv()
    charged(ledger, "there is space again")


@contextmanager
def as_nobody():
    """What follows runs as a user that owns nothing."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def test_a_file_that_may_only_be_read(tmp_path):
    folder = Path(shutil.copytree(_made(tmp_path), tmp_path / "copy"))
    # The folders that pytest made on the way, of which there is one more where tests run in several processes.
    made = [parent for parent in tmp_path.parents if parent.stat().st_mode & 0o005 != 0o005]
    for open_to_all in (*made, tmp_path, folder):
        open_to_all.chmod(0o755)
    path = folder / "ledger.sqlite"
    before = export(opened(path))
    for name in folder.iterdir():
        name.chmod(0o444)
    with as_nobody():
        ledger = opened(path)
        assert export(ledger) == before
        assert ledger.spending().kinds[0].steps == 1
        with pytest.raises(LedgerError, match=r"readonly|read-only"):
            charged(ledger, "more")
        with pytest.raises(LedgerError, match="unable to open"):
            created(folder / "another.sqlite")
    assert export(opened(path)) == before
    charged(opened(path), "more")


def test_a_file_and_a_folder_that_may_not_be_read(tmp_path):
    folder = _made(tmp_path)
    path = folder / "ledger.sqlite"
    for open_to_all in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        open_to_all.chmod(0o755)
    path.chmod(0o600)
    folder.chmod(0o755)
    with as_nobody(), pytest.raises(LedgerError, match="Cannot open ledger"):
        opened(path)
    folder.chmod(0o700)
    with as_nobody(), pytest.raises(LedgerError, match="Permission denied"):
        opened(path)
    assert opened(path).releases() == 1


def _made(tmp_path: Path) -> Path:
    """A folder with a closed ledger of one release."""
    folder = tmp_path / "folder"
    folder.mkdir()
    ledger = created(folder / "ledger.sqlite")
    charged(ledger, "payload")
    ledger.close()
    return folder


def test_a_clock_that_went_back(path):
    clock = HandClock()
    ledger = created(path, clock=clock)
    last = charged(ledger, "first")
    before = export(ledger)
    clock.time -= timedelta(hours=1)
    with pytest.raises(ClockError, match=rf"after the last entry's {last.time}.* Set the clock right; nothing"):
        charged(ledger, "second")
    assert export(ledger) == before
    clock.time += timedelta(hours=1)
    charged(ledger, "second")
    assert verify_ledger(ledger).releases == 2


def test_a_clock_that_is_set_right_by_a_second(path):
    clock = HandClock()
    ledger = created(path, clock=clock)
    first = charged(ledger, "first")
    clock.time -= timedelta(seconds=2.9)
    second = charged(ledger, "second")
    assert second.time == first.time
    clock.time -= timedelta(seconds=2)
    with pytest.raises(ClockError):
        charged(ledger, "third")
    assert verify_ledger(ledger).last == first.time


def test_an_older_copy_that_was_put_back(path, tmp_path):
    witness = tmp_path / "witness"
    ledger = created(path, witness=witness)
    charged(ledger, "first")
    ledger.close()
    backup = path.read_bytes()
    charged(opened(path, witness=witness), "second")
    newest = path.read_bytes()
    path.write_bytes(backup)
    with pytest.raises(LedgerIntegrityError, match=r"entry 2 that the witness .* older copy .* Restore the newest"):
        opened(path, witness=witness)
    assert opened(path).releases() == 1, "without its witness nobody can tell"
    charged(opened(path), "another second")
    with pytest.raises(LedgerIntegrityError, match="entry 2 that the witness"):
        opened(path, witness=witness)
    path.write_bytes(newest)
    charged(opened(path, witness=witness), "third")


def test_a_witness_that_is_one_entry_behind_is_fine(path, tmp_path):
    """The silo died between the entry and the note."""
    witness = tmp_path / "witness"
    ledger = created(path, witness=witness)
    charged(ledger, "first")
    note = witness.read_bytes()
    charged(ledger, "second")
    witness.write_bytes(note)
    charged(opened(path, witness=witness), "third")
    assert witness.read_bytes() != note


def test_a_witness_that_cannot_be_written_or_read(path, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    ledger = created(path, witness=folder / "witness")
    shutil.rmtree(folder)
    with pytest.raises(LedgerError, match=r"note the ledger's head .* The entry itself is in the ledger"):
        charged(ledger, "payload")
    # Nothing was computed and it is charged: asked again, the silo computes what it has paid for once that is noted.
    assert ledger.releases() == 1
    assert kept(ledger, "payload") is None
    with pytest.raises(LedgerError, match="note the ledger's head"):
        charge(ledger, "payload")
    folder.mkdir()
    assert charge(ledger, "payload").number == ledger.releases() == 1
    assert (folder / "witness").is_file()
    charged(ledger, "next")
    for content in (b"", b"{}", b'{"hash":"x","number":"y"}', b"\xff"):
        (folder / "witness").write_bytes(content)
        with pytest.raises(LedgerIntegrityError, match="Expected the note of an entry"):
            opened(path, witness=folder / "witness")
    (folder / "witness").unlink()
    (folder / "witness").mkdir()
    with pytest.raises(LedgerError, match="read the ledger's witness"):
        opened(path, witness=folder / "witness")


def test_a_ledger_without_its_first_or_any_entry(path):
    ledger = created(path)
    charged(ledger, "payload")
    for gone, message in (("number = 0", "lacks entry 0"), ("1 = 1", "entry 0|no")):
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("DROP TRIGGER IF EXISTS entries_no_delete")
            connection.execute(f"DELETE FROM entries WHERE {gone}")
        with pytest.raises(LedgerIntegrityError, match=message):
            opened(path)
        with pytest.raises(LedgerIntegrityError, match=message):
            charged(ledger, "another payload")


@pytest.mark.parametrize("where", ["all of it", "its pages", "its end"])
def test_a_file_that_is_damaged(where, path):
    ledger = created(path)
    for number in range(20):
        charged(ledger, f"payload {number}")
    ledger.close()
    good = path.read_bytes()
    damaged = {
        "all of it": b"no database" * 1_000,
        "its pages": good[:4096] + bytes(len(good) - 4096),
        "its end": good[: len(good) // 2],
    }[where]
    path.write_bytes(damaged)
    with pytest.raises(LedgerError, match=r"database|malformed|disk image"):
        charged(opened(path), "one more")
    path.write_bytes(good)
    charged(opened(path), "one more")


def test_nothing_there(tmp_path):
    with pytest.raises(DataNotFoundError, match=r"There is no ledger at .*\. Create it first"):
        Ledger.open(str(tmp_path / "missing.sqlite"))
    (tmp_path / "empty.sqlite").write_bytes(b"")
    with pytest.raises(DataNotFoundError):
        Ledger.open(str(tmp_path / "empty.sqlite"))
    with pytest.raises(DataNotFoundError):
        Ledger.open(str(tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty.sqlite"], "asking makes no files"


@pytest.mark.parametrize(
    "url",
    [
        "nonsense://somewhere",
        "sqlite+nonsense:///file",
        "://",
        "mysql://user@host/name",
        "postgresql://host/name?password=x",
    ],
)
def test_an_address_of_no_database_that_is_known(url):
    with pytest.raises(LedgerError, match=r"(Cannot use this database|Expected a path or a URL|a password among)"):
        Ledger.open(url)


def test_two_that_wait_for_each_other_do_not_fail(path):
    """A writer waits while another one holds the lock."""
    ledger = created(path)
    with ledger._storage.writing(), pytest.raises(LedgerError, match="locked"):
        impatient = sqlite3.connect(path, timeout=0.05, isolation_level=None)
        with closing(impatient), ledger._storage._translate_errors("write to"):
            try:
                impatient.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                raise LedgerError(str(error)) from error
    charged(ledger, "payload")


def test_a_limit_needs_a_reason_and_is_not_below_what_is_spent(path):
    ledger = created(path, 5.0)
    charged(ledger, "payload", noise_multiplier=3.0)
    before = export(ledger)
    for epsilon, reason in ((3.0, " "), (0.0, "why"), (float("nan"), "why"), (-1.0, "why"), (0.5, "less")):
        with pytest.raises(ConfigurationError):
            ledger.set_limit(epsilon, reason=reason)
    assert export(ledger) == before
    ledger.set_limit(float("inf"), reason="no promise any more")
    assert ledger.spending().left == float("inf")


def test_asking_charges_nothing(path):
    ledger = created(path, 2.0)
    before = export(ledger)
    assert ledger.would_spend((event(5.0), event(5.0))) > ledger.would_spend((event(5.0),)) > 0
    with pytest.raises(BudgetExceededError):
        charge(ledger, "too much", noise_multiplier=1.0)
    assert export(ledger) == before
