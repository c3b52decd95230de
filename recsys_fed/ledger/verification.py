"""Check a ledger without trusting it: format, chain, signatures, times, stored copies, limits, certificates.

One pass, and memory that does not grow with the ledger. The first entry that does not hold is named.

A hash covers content and signature, so a signature that is checked vouches for everything before it, signatures
included. Of the first 10,000 entries each is checked by itself; beyond, every fourth, every new limit and the last
entry are: Ed25519 is most of the time. If anything does not hold, those between are checked too.

A certificate is a statement about one moment of a ledger: it holds if the entries up to its head say the same terms
and limit, the same releases of its run, and the same epsilon by every accountant.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recsys_fed.certificates.certificate import Certificate, CertifiedRelease, Head, check_figures
from recsys_fed.certificates.run import read_certificates
from recsys_fed.certificates.terms import LedgerTerms
from recsys_fed.errors import DataFormatError, DataNotFoundError, LedgerError, LedgerIntegrityError
from recsys_fed.ledger.budget import ROUNDING, Spending, account_spending
from recsys_fed.ledger.entries import (
    NOTHING_BEFORE,
    Entry,
    KeyChange,
    Limit,
    Release,
    read_entry,
    read_entry_line,
    training_in,
)
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.storage import Storage
from recsys_fed.ledger.transactions import row_of
from recsys_fed.privacy.accounting.composition import Kinds, kinds_of
from recsys_fed.privacy.events import PrivacyEvent
from recsys_fed.signing import parse_public_key

# Events that are held before they are merged into their kinds.
_MOST_PENDING = 1_000
# Entries whose signatures are each checked; beyond them every so many.
_EACH_SIGNATURE, STRIDE = 10_000, 4


@dataclass(frozen=True, kw_only=True)
class _VerifiedLedger:
    """A ledger that holds.

    Attributes:
        terms: with the limit that holds at the end.
        head: its last entry.
        releases: how many there are.
        first, last: times of the first and the last entry.
        spending: recomputed from the events by all accountants.
    """

    terms: LedgerTerms
    head: Head
    releases: int
    first: str
    last: str
    spending: Spending


def verify_entries(
    entries: Iterable[Entry],
    *,
    public_key: str | None = None,
    named_hashes: Mapping[int, str] | None = None,
    each: Callable[[Entry], None] | None = None,
    each_signature: int | None = _EACH_SIGNATURE,
) -> _VerifiedLedger:
    """Verify a whole ledger.

    Args:
        entries: from the genesis on.
        public_key: whose ledger it must be, now or before a change of its key; by default that of its own terms.
        named_hashes: hashes of entries by number that certificates know of.
        each: called with every entry that holds.
        each_signature: up to which entry signatures are each checked by themselves; None is all of them.

    Raises:
        LedgerIntegrityError: names the first bad entry and what is wrong with it.
    """
    chain = _Chain(public_key=public_key, named_hashes=dict(named_hashes or {}), each_signature=each_signature)
    try:
        for entry in entries:
            chain.add(entry)
            if each is not None:
                each(entry)
        return chain.end()
    except LedgerIntegrityError:
        # The first that does not hold may be one of those whose signature was left to a later one.
        chain.check_signatures()
        raise


def verify_ledger(
    ledger: Ledger,
    *,
    public_key: str | None = None,
    named_hashes: Mapping[int, str] | None = None,
    each_signature: int | None = _EACH_SIGNATURE,
) -> _VerifiedLedger:
    """Verify a stored ledger, the stored copies of its fields and agreements too; raises LedgerIntegrityError."""
    found = verify_entries(
        _stored_entries(ledger), public_key=public_key, named_hashes=named_hashes, each_signature=each_signature
    )
    ledger.agreements()
    return found


def entries_of_export(content: Iterable[bytes]) -> Iterator[Entry]:
    """Read the lines of an export, each with its line end.

    Raises:
        LedgerIntegrityError: names the line that is no entry.
    """
    for number, line in enumerate(content):
        if not line.endswith(b"\n"):
            raise LedgerIntegrityError(f"Expected entry {number} to end its line, it is cut off.")
        try:
            yield read_entry_line(line[:-1])
        except DataFormatError as error:
            raise LedgerIntegrityError(f"Entry {number} cannot be read: {error}") from error


def _stored_entries(ledger: Ledger) -> Iterator[Entry]:
    """Read all entries of a stored ledger.

    Raises:
        LedgerIntegrityError: names the entry that cannot be read, or whose stored copies are not its own.
    """
    for number, row in enumerate(ledger.rows()):
        stored: dict[str, Any] = dict(row._mapping)
        if not isinstance(stored["content"], bytes) or not isinstance(stored["signature"], str):
            raise LedgerIntegrityError(f"Entry {number} cannot be read: expected bytes and a text.")
        try:
            entry = read_entry(stored["content"], stored["signature"])
        except DataFormatError as error:
            raise LedgerIntegrityError(f"Entry {number} cannot be read: {error}") from error
        expected = row_of(entry)
        if {name: value for name, value in stored.items() if value is not None} != expected:
            wrong = sorted(name for name, value in stored.items() if value != expected.get(name))
            raise LedgerIntegrityError(f"Expected the stored copies of entry {number} to be its own, not {wrong}.")
        yield entry


@dataclass(kw_only=True)
class _Chain:
    """What must be remembered of the entries so far."""

    public_key: str | None
    named_hashes: dict[int, str]
    terms: LedgerTerms | None = None
    head: Head | None = None
    first: str = ""
    last: str = ""
    releases: int = 0
    kinds: Kinds = ()
    keys: list[str] = field(default_factory=list)
    pending: list[PrivacyEvent] = field(default_factory=list)
    each_signature: int | None = _EACH_SIGNATURE
    unchecked: list[Entry] = field(default_factory=list)

    def add(self, entry: Entry) -> None:
        number = self.head.number + 1 if self.head else 0
        if entry.number != number:
            raise LedgerIntegrityError(f"Expected entry {number}, got entry {entry.number}: one is missing or moved.")
        if entry.previous != (self.head.hash if self.head else NOTHING_BEFORE):
            raise LedgerIntegrityError(f"Expected entry {number} to follow the one before it, its hash differs.")
        if (entry.kind == "genesis") != (number == 0):
            raise LedgerIntegrityError(f"Expected entry {number} to hold {'no ' if number else 'the '}terms.")
        if entry.time < self.last:
            raise LedgerIntegrityError(f"Expected entry {number} not to be older than the one before it, it is.")
        self._take(entry)
        if self.named_hashes.pop(number, entry.hash) != entry.hash:
            raise LedgerIntegrityError(f"The hash of entry {number} is not the one that a certificate names.")
        self.head, self.last = Head(number=number, hash=entry.hash), entry.time
        self.first = self.first or entry.time

    def _take(self, entry: Entry) -> None:
        if isinstance(entry.body, LedgerTerms):
            self.terms = entry.body
            self.keys.append(entry.body.public_key)
        if self.terms is None:
            raise LedgerIntegrityError(f"Expected the terms before entry {entry.number}.")
        self.unchecked.append(entry)
        few = self.each_signature is None or entry.number < self.each_signature
        if few or not isinstance(entry.body, Release) or entry.number % STRIDE == 0:
            self._vouch(entry, self.terms)
        if isinstance(entry.body, Limit):
            # Epsilon only grows: looking before every new limit and at the end sees every excess.
            self._check_limit(self.terms, before=entry.number)
            self.terms = self.terms.with_limit(entry.body.epsilon)
        elif isinstance(entry.body, KeyChange):
            entry.body.check_proof(entry.previous)
            self.terms = self.terms.with_key(entry.body.public_key)
            self.keys.append(entry.body.public_key)
        elif isinstance(entry.body, Release):
            self.pending.append(entry.body.event)
            self.releases += 1
            if len(self.pending) >= _MOST_PENDING:
                self._kinds()

    def _vouch(self, entry: Entry, terms: LedgerTerms) -> None:
        """Check a signature; the chain up to the entry holds, so everything before is vouched for."""
        entry.check_signature(terms.public_key)
        self.unchecked.clear()

    def check_signatures(self) -> None:
        """Check those that nothing has vouched for yet, in order."""
        if self.terms is not None:
            for entry in self.unchecked:
                entry.check_signature(self.terms.public_key)

    def end(self) -> _VerifiedLedger:
        if self.terms is None or self.head is None:
            raise LedgerIntegrityError("Expected a ledger with its genesis entry, got no entry at all.")
        if self.public_key is not None and self.public_key not in self.keys:
            raise LedgerIntegrityError(
                f"Expected the ledger of the key {self.public_key[:16]}..., entry 0 names {self.keys[0][:16]}...."
            )
        if self.unchecked:
            self._vouch(self.unchecked[-1], self.terms)
        if self.named_hashes:
            raise LedgerIntegrityError(
                f"Expected entry {min(self.named_hashes)} that a certificate names; the ledger ends with entry "
                f"{self.head.number}: its tail was cut off."
            )
        return _VerifiedLedger(
            terms=self.terms,
            head=self.head,
            releases=self.releases,
            first=self.first,
            last=self.last,
            spending=self._check_limit(self.terms, before=self.head.number + 1),
        )

    def _check_limit(self, terms: LedgerTerms, *, before: int) -> Spending:
        spent = account_spending(self._kinds(), terms.guarantee)
        if spent.epsilon > terms.guarantee.epsilon * (1 + ROUNDING):
            raise LedgerIntegrityError(
                f"Expected the entries before entry {before} to keep to epsilon {terms.guarantee.epsilon:g}, their "
                f"events have spent {spent.epsilon:.4f}."
            )
        return spent

    def _kinds(self) -> Kinds:
        self.kinds, self.pending = kinds_of((*self.kinds, *self.pending)), []
        return self.kinds


def _named_hashes(certificates: Mapping[str, Certificate]) -> dict[int, str]:
    """Hashes of the entries that certificates name; two certificates that contradict each other are refused."""
    known: dict[int, str] = {}
    for name, certificate in certificates.items():
        named = [(0, certificate.genesis), (certificate.head.number, certificate.head.hash)]
        for number, digest in (*named, *((r.number, r.hash) for r in certificate.releases)):
            if known.setdefault(number, digest) != digest:
                raise LedgerIntegrityError(
                    f"Expected certificates that agree, {name} names another entry {number} than one before it. "
                    "Two ledgers were kept, or one was replaced."
                )
    return known


@dataclass(kw_only=True)
class _CertificateCheck:
    """A certificate beside what the entries so far say; `see` is called with each of them in order.

    Raises:
        LedgerIntegrityError: at the entry that is the certificate's head, if it does not hold.
    """

    name: str
    certificate: Certificate
    terms: LedgerTerms | None = None
    kinds: Kinds = ()
    pending: list[PrivacyEvent] = field(default_factory=list)
    # By run: those of another federation may have the same name.
    held: dict[str, list[CertifiedRelease]] = field(default_factory=dict)

    def see(self, entry: Entry) -> None:
        """Take an entry; at the certificate's head, compare."""
        head = self.certificate.head.number
        if entry.number > head:
            return
        if isinstance(entry.body, LedgerTerms):
            self.terms = entry.body
        elif isinstance(entry.body, Limit) and self.terms is not None:
            self.terms = self.terms.with_limit(entry.body.epsilon)
        elif isinstance(entry.body, KeyChange) and self.terms is not None:
            self.terms = self.terms.with_key(entry.body.public_key)
        elif isinstance(entry.body, Release):
            event = entry.body.event
            self.pending.append(event)
            if len(self.pending) >= _MOST_PENDING:
                self._merge()
            if training_in(entry.body.run) == self.certificate.run:
                release = CertifiedRelease(
                    number=entry.number, hash=entry.hash, payload=entry.body.payload, event=event
                )
                self.held.setdefault(entry.body.run, []).append(release)
        if entry.number == head:
            self._check()

    def _check(self) -> None:
        if self.terms != self.certificate.terms:
            raise LedgerIntegrityError(
                f"Expected the terms of {self.name} to be the ledger's at entry {self.certificate.head.number}, "
                "they are not."
            )
        listed = {release.number for release in self.certificate.releases}
        of_run = sorted(self.held.values(), key=lambda run: -len(listed & {release.number for release in run}))
        releases = of_run[0] if of_run else []
        if tuple(releases) != self.certificate.releases:
            raise LedgerIntegrityError(
                f"Expected {self.name} to list the {len(releases)} releases of run {self.certificate.run} that "
                f"the ledger holds up to entry {self.certificate.head.number}, it lists "
                f"{len(self.certificate.releases)}: {_differing(releases, self.certificate.releases)}."
            )
        guarantee = self.certificate.terms.guarantee
        run = [release.event for release in releases]
        check_figures(self.certificate.epsilon_of_run, run, guarantee, what=f"epsilon of the run in {self.name}")
        check_figures(
            self.certificate.epsilon_in_all, self._merge(), guarantee, what=f"epsilon in all in {self.name}"
        )

    def _merge(self) -> Kinds:
        self.kinds, self.pending = kinds_of((*self.kinds, *self.pending)), []
        return self.kinds


def _differing(held: Sequence[CertifiedRelease], listed: Sequence[CertifiedRelease]) -> str:
    first = {release.number: release for release in held}
    second = {release.number: release for release in listed}
    numbers = [n for n in sorted({*first, *second}) if first.get(n) != second.get(n)]
    return f"entry {numbers[0]} differs" if numbers else "their order differs"


JSON_LINES = ".jsonl"


def _verify_address(
    address: str,
    *,
    json_lines: bool = False,
    public_key: str | None = None,
    certificates: Mapping[str, Certificate] | None = None,
    every_signature: bool = False,
) -> _VerifiedLedger:
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
    statements = [_CertificateCheck(name=name, certificate=found) for name, found in (certificates or {}).items()]

    def each(entry: Entry) -> None:
        for statement in statements:
            statement.see(entry)

    with _entries(address, json_lines=json_lines) as entries:
        return verify_entries(
            entries,
            public_key=public_key,
            named_hashes=_named_hashes(certificates or {}),
            each=each,
            each_signature=None if every_signature else _EACH_SIGNATURE,
        )


@contextmanager
def _entries(address: str, *, json_lines: bool) -> Iterator[Iterator[Entry]]:
    if json_lines or ("://" not in address and address.endswith(JSON_LINES)):
        path = Path(address).expanduser()
        if not path.is_file():
            raise DataNotFoundError(f"Cannot find an exported ledger at {path}.")
        try:
            with path.open("rb") as file:
                yield entries_of_export(file)
        except OSError as error:
            raise LedgerError(f"Cannot read the exported ledger {path}: {error}.") from error
        return
    # Not `Ledger.open`, which looks at the last entry: the first bad one is to be named.
    storage = Storage(address)
    try:
        storage.check()
        ledger = Ledger(storage)
        yield _stored_entries(ledger)
        # Last: the first bad entry is to be named.
        ledger.agreements()
    finally:
        storage.close()


def verification_record(
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
        found = _verify_address(
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
    genesis = first.hash if first is not None else ""
    own: dict[str, Certificate] = {}
    for place in places:
        found, problems = read_certificates(place)
        if problems:
            raise LedgerIntegrityError(f"Expected certificates that hold: {problems[0]}")
        own |= {
            str(place / name) if place.is_dir() else str(place): c
            for name, c in found.items()
            if c.terms.public_key == key or c.genesis == genesis  # the latter after a change of the key
        }
    if not own:
        raise LedgerIntegrityError(f"Expected a certificate of the ledger's key {key[:16]}..., none of them is.")
    return own


def _place(address: str) -> str:
    return Storage(address).place if "://" in address else address
