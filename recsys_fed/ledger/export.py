"""A ledger as JSON lines: one entry a line, which anybody can keep, move and verify without a database."""

import os
from collections.abc import Iterator
from pathlib import Path

from recsys_fed.errors import ConfigurationError, LedgerError
from recsys_fed.ledger.ledger import Ledger


def export_lines(ledger: Ledger) -> Iterator[bytes]:
    """Yield the lines, each with its end, byte for byte what is stored: verifying them verifies the ledger."""
    for row in ledger.rows():
        # The canonical record of entry and signature, see `entries.Entry.line`.
        yield b'{"entry":' + bytes(row.content) + b',"signature":"' + str(row.signature).encode() + b'"}\n'


def export_ledger(ledger: Ledger, path: Path) -> int:
    """Write all lines to a new file and return how many there are; the file is there once it is complete.

    Raises:
        ConfigurationError: there is a file already.
        LedgerError: it cannot be written.
    """
    if path.exists():
        raise ConfigurationError(f"Expected no file at {path} yet, there is one. Choose another name.")
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as file:
            count = sum(1 for line in export_lines(ledger) if file.write(line))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise LedgerError(f"Expected to write the export {path}: {error}. The ledger is as it was.") from error
    return count
