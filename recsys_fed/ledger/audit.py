"""Verify a ledger by its address, a database or an export, with the certificates that its silo has signed."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recsys_fed.certificates.certificate import Certificate
from recsys_fed.certificates.run import read_certificates
from recsys_fed.certificates.terms import LedgerTerms
from recsys_fed.errors import DataNotFoundError, LedgerError, LedgerIntegrityError
from recsys_fed.ledger.entries import Entry
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.statements import Statement, witnessed
from recsys_fed.ledger.storage import Storage
from recsys_fed.ledger.verification import EACH_SIGNATURE, Verified, entries_of_export, stored_entries, verify_entries
from recsys_fed.signing import parse_public_key

JSON_LINES = ".jsonl"


def audit(
    address: str,
    *,
    json_lines: bool = False,
    public_key: str | None = None,
    certificates: Mapping[str, Certificate] | None = None,
    every_signature: bool = False,
) -> Verified:
    """Verify a whole ledger, and certificates against it.

    Args:
        address: path or URL of a ledger, or path of an export (by its ending, or with `json_lines`).
        json_lines: whatever its ending, the file is an export.
        public_key: whose ledger it must be; by default that of its own terms.
        certificates: of this ledger, by the name that messages call them.
        every_signature: check each by itself, also beyond the first 10,000 entries; see `verification`.

    Raises:
        LedgerIntegrityError: names the first entry, or the certificate, that does not hold.
        DataNotFoundError, LedgerError: there is nothing, or it cannot be read.
    """
    statements = [Statement(name=name, certificate=found) for name, found in (certificates or {}).items()]

    def each(entry: Entry) -> None:
        for statement in statements:
            statement.see(entry)

    with _entries(address, json_lines=json_lines) as entries:
        return verify_entries(
            entries,
            public_key=public_key,
            witnessed=witnessed(certificates or {}),
            each=each,
            each_signature=None if every_signature else EACH_SIGNATURE,
        )


@contextmanager
def _entries(address: str, *, json_lines: bool) -> Iterator[Iterator[Entry]]:
    if json_lines or ("://" not in address and address.endswith(JSON_LINES)):
        path = Path(address).expanduser()
        if not path.is_file():
            raise DataNotFoundError(f"Expected an exported ledger at {path}, there is no such file.")
        try:
            with path.open("rb") as file:
                yield entries_of_export(file)
        except OSError as error:
            raise LedgerError(f"Expected to read the exported ledger {path}: {error}.") from error
        return
    # Not `Ledger.open`, which looks at the last entry: the first bad one is to be named.
    storage = Storage(address)
    try:
        storage.check()
        yield stored_entries(Ledger(storage))
    finally:
        storage.close()


def audit_record(
    address: str,
    *,
    json_lines: bool = False,
    public_key: str | None = None,
    certificates: Sequence[Path] = (),
    every_signature: bool = False,
) -> dict[str, Any]:
    """Verify and return what was found as JSON values; "holds" says whether all of it does, "problem" what does not.

    Args:
        address, json_lines, public_key, every_signature: see `audit`.
        certificates: files or folders; those that another key signed are counted and left alone.
    """
    key = parse_public_key(public_key) if public_key is not None else None
    record: dict[str, Any] = {"holds": False, "ledger": _place(address), "problem": None, "certificates_checked": []}
    try:
        own = _own_certificates(address, json_lines=json_lines, places=certificates) if certificates else {}
        found = audit(
            address, json_lines=json_lines, public_key=key, certificates=own, every_signature=every_signature
        )
    except LedgerIntegrityError as error:
        return record | {"problem": str(error)}
    return record | {
        "holds": True,
        "terms": found.terms.to_record(),
        "entries": found.head.number + 1,
        "releases": found.releases,
        "first": found.first,
        "last": found.last,
        "head": vars(found.head),
        "spending": found.spending.to_dict(),
        "certificates_checked": sorted(own),
    }


def _own_certificates(address: str, *, json_lines: bool, places: Sequence[Path]) -> dict[str, Certificate]:
    """The certificates of the ledger's key by file; raises LedgerIntegrityError if one is bad, or none is of it."""
    with _entries(address, json_lines=json_lines) as entries:
        first = next(entries, None)
    key = first.body.public_key if first is not None and isinstance(first.body, LedgerTerms) else ""
    own: dict[str, Certificate] = {}
    for place in places:
        found, problems = read_certificates(place)
        if problems:
            raise LedgerIntegrityError(f"Expected certificates that hold: {problems[0]}")
        own |= {
            str(place / name) if place.is_dir() else str(place): c
            for name, c in found.items()
            if c.terms.public_key == key
        }
    if not own:
        raise LedgerIntegrityError(f"Expected a certificate of the ledger's key {key[:16]}..., none of them is.")
    return own


def _place(address: str) -> str:
    return Storage(address).place if "://" in address else address
