"""A note of the ledger's head beside the key, so that a silo notices when an older copy of its ledger is put back.

The chain alone cannot tell: an older copy is a good ledger of an earlier day, with more budget left. The note is
written after each entry; after a crash in between it is one entry behind, which is fine.
"""

import os
import threading
from dataclasses import dataclass
from pathlib import Path

from recsys_fed.errors import DataFormatError, LedgerError, LedgerIntegrityError
from recsys_fed.signing import canonical, parse_canonical


@dataclass(frozen=True, kw_only=True)
class Noted:
    """An entry that was in the ledger."""

    number: int
    hash: str


@dataclass(frozen=True)
class Witness:
    """The file of the note."""

    path: Path

    def read(self) -> Noted | None:
        """Return the note, or None if there is none yet; raises LedgerIntegrityError for anything else."""
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LedgerError(f"Expected to read the ledger's witness {self.path}: {error}.") from error
        try:
            record = parse_canonical(text)
            return Noted(number=int(record["number"]), hash=str(record["hash"]))
        except (DataFormatError, KeyError, TypeError, ValueError) as error:
            raise LedgerIntegrityError(f"Expected the note of an entry in {self.path}: {error}") from error

    def write(self, number: int, hash: str) -> None:
        """Replace the note; raises LedgerError."""
        part = self.path.with_name(f"{self.path.name}.{os.getpid()}.{threading.get_ident()}.part")
        try:
            with part.open("wb") as file:
                file.write(canonical({"number": number, "hash": hash}))
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path)
        except OSError as error:
            raise LedgerError(
                f"Expected to note the ledger's head in {self.path}: {error}. The entry itself is in the ledger."
            ) from error
