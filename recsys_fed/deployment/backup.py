"""Backups of the folders of silos and federations, and what a silo has to say before it goes on from one.

A backup is a tar file, mode 0600, with the private keys in it (encrypted where a passphrase encrypts them). What is
made anew is left out (logs, Flower's own state, blocks of interactions), and so is a service's log of events: whoever
is forgotten there must not come back from a copy.

A ledger that is put back has forgotten what was charged since. So a silo is restored only beside a witness that has
seen no later entry, or with a statement of the most that was spent since: the ledger's limit falls by so much, in an
entry with this reason. What the ledger knows then keeps to (limit - spent, delta), what it lost to (spent, delta): by
basic composition a user has lost (limit, 2 delta) at most.
"""

import io
import json
import math
import sqlite3
import tarfile
import tempfile
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from recsys_fed.certificates.certificate import Head
from recsys_fed.deployment.federation import FILE as FEDERATION_FILE
from recsys_fed.deployment.federation import FederationFolder
from recsys_fed.errors import ConfigurationError, DataFormatError, DataNotFoundError
from recsys_fed.files import OWNER_ONLY, whole_file
from recsys_fed.ledger.ledger import Ledger, RollbackGuard
from recsys_fed.ledger.verification import verify_ledger
from recsys_fed.signing import SigningKey
from recsys_fed.silo.settings import FILE as SILO_FILE
from recsys_fed.silo.settings import read_silo_settings

_MARK, _FORMAT = "BACKUP.json", 1
_MADE_ANEW = (".log", ".jsonl", ".lock", "-wal", "-shm", "-journal", ".sock")
_LOG_OF_EVENTS = "feedback.sqlite"


def back_up_silo(path: Path, file: Path) -> int:
    """Write a backup of a silo's folder to a new file; returns how many files it holds. The silo may go on meanwhile.

    A ledger in PostgreSQL is not in it: the database has backups of its own.

    Raises:
        ConfigurationError: there is a file already.
        DataError: the folder is none of a silo.
    """
    settings = read_silo_settings(path)
    folder = path.resolve()
    left_out = [Path(settings.witness)] if settings.witness else []
    left_out += [Path(settings.data.blocks)] if settings.data.blocks else []
    return _write(folder, file, mark=SILO_FILE, left_out=left_out, ledger=Path(settings.ledger))


def back_up_federation(path: Path, file: Path) -> int:
    """Write a backup of a federation's folder to a new file; returns how many files it holds."""
    folder = FederationFolder(path)
    folder.settings()
    return _write(folder.path, file, mark=FEDERATION_FILE, left_out=[folder.flower_home])


def restore_federation(file: Path, path: Path) -> None:
    """Put a federation's folder back in a new one; `federation serve` and `--resume` go on from there.

    Raises:
        ConfigurationError: the folder is not empty.
        DataError: the file is no such backup.
    """
    with _extract(file, path, mark=FEDERATION_FILE):
        pass


def restore_silo(
    file: Path, path: Path, *, witness: Path | None = None, spent: float | None = None, passphrase: str | None = None
) -> Head:
    """Put a silo's folder back in a new one; returns the head of its ledger, which holds.

    Args:
        file: that `back_up_silo` wrote. path: a new or empty folder.
        witness: the file that has noted the newest entry; needed where `spent` is not given.
        spent: the most epsilon that was charged after the backup; the ledger's limit falls by it.
        passphrase: of the keys.

    Raises:
        ConfigurationError: the folder is not empty; or nothing says what was spent since.
        DataError: the file is no such backup.
        LedgerIntegrityError: the ledger does not hold, or the witness has seen a later entry.
    """
    if (witness is None) == (spent is None):
        raise ConfigurationError(
            "Expected either --witness, the file that has noted the ledger's newest entry, or --spent, the most "
            "epsilon that was charged after the backup: the federation's trainings since then tell."
        )
    if not 0 <= (spent or 0.0) < math.inf:
        raise ConfigurationError(f"Expected an epsilon of 0 or more for --spent, got {spent}.")
    with _extract(file, path, mark=SILO_FILE) as place:
        settings = read_silo_settings(place)
        key = SigningKey.load(Path(settings.ledger_key), passphrase=passphrase)
        with closing(Ledger.open(settings.ledger, key=key, witness=witness)) as ledger:
            verify_ledger(ledger, public_key=key.public_key)
            if spent is not None:
                _lower_limit(ledger, spent)
            head = ledger.head()
        if settings.witness:
            RollbackGuard(Path(settings.witness)).write(head.number, head.hash)
    return head


def _lower_limit(ledger: Ledger, spent: float) -> None:
    """Take what was spent and is not known off the ledger's limit; where that much is not left, nothing is."""
    known, limit = ledger.spending().epsilon, ledger.terms().guarantee.epsilon
    least = max(known, math.ulp(1.0))  # a limit is above 0
    reason = f"put back from a backup; epsilon {spent:g} at most was spent since"
    ledger.set_limit(max(limit - spent, least), reason=reason)


def _write(folder: Path, file: Path, *, mark: str, left_out: Collection[Path], ledger: Path | None = None) -> int:
    if file.exists():
        raise ConfigurationError(f"There is a file at {file} already. Choose another name.")
    about = {"format": _FORMAT, "of": mark, "time": datetime.now(UTC).isoformat(timespec="seconds")}
    written = 0
    with (
        tempfile.TemporaryDirectory(prefix="recsys-fed-") as place,
        whole_file(file, mode=OWNER_ONLY, new=True) as stream,
        tarfile.open(fileobj=stream, mode="w:gz") as archive,
    ):
        entry, content = tarfile.TarInfo(_MARK), json.dumps(about).encode()
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
        for found in _files(folder, {*left_out, file}):
            source = _copy_of_database(found, Path(place)) if found == ledger else found
            try:
                archive.add(source, arcname=str(found.relative_to(folder)), recursive=False)
            except FileNotFoundError:
                continue  # an older checkpoint or state, replaced meanwhile
            written += 1
    return written


def _files(folder: Path, left_out: Collection[Path]) -> Iterator[Path]:
    beyond = {path.resolve() for path in left_out}
    for found in sorted(folder.rglob("*")):
        made_anew = found.name.endswith(_MADE_ANEW) or found.name == _LOG_OF_EVENTS
        in_trainings = found.name.endswith(".jsonl") and found.parent != folder
        if not found.is_file() or found.is_symlink() or (made_anew and not in_trainings):
            continue
        if not beyond.intersection((found, *found.parents)):
            yield found


def _copy_of_database(path: Path, folder: Path) -> Path:
    """A copy of an SQLite file as it is at one moment, whoever writes meanwhile."""
    copy = folder / path.name
    with (
        closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as source,
        closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)
    copy.chmod(OWNER_ONLY)
    return copy


@contextmanager
def _extract(file: Path, path: Path, *, mark: str) -> Iterator[Path]:
    """A folder beside `path` with what is in a backup; it becomes `path` if the block ends well."""
    if path.exists() and any(path.iterdir()):
        raise ConfigurationError(f"Expected a new or empty folder, {path} holds something. Move it away first.")
    if not file.is_file():
        raise DataNotFoundError(f"Cannot find a backup at {file}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as above:
        place = Path(above) / path.name
        place.mkdir(mode=0o700)
        try:
            with tarfile.open(file, mode="r:gz") as archive:
                archive.extractall(place, filter="data")
            about = json.loads((place / _MARK).read_bytes())
            if about["format"] != _FORMAT or about["of"] != mark or not (place / mark).is_file():
                raise DataFormatError(f"Expected a backup with a {mark}, {file} is another one.")
        except (tarfile.TarError, OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise DataFormatError(f"Expected a backup at {file}: {error}") from error
        (place / _MARK).unlink()
        yield place
        if path.exists():
            path.rmdir()
        place.rename(path)
