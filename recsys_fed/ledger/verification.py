"""Check a ledger without trusting it: format, chain, signatures, times, stored copies, limits, certificates.

One pass, and memory that does not grow with the ledger. The first entry that does not hold is named.

A hash covers content and signature, so a signature that is checked vouches for everything before it, signatures
included. Of the first 10,000 entries each is checked by itself; beyond, every fourth, every new limit and the last
entry are: Ed25519 is most of the time. If anything does not hold, those between are checked too.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from recsys_fed.certificates.certificate import Head
from recsys_fed.certificates.terms import LedgerTerms
from recsys_fed.errors import DataFormatError, LedgerIntegrityError
from recsys_fed.ledger.budget import ROUNDING, Spending, spending
from recsys_fed.ledger.entries import NOTHING_BEFORE, Entry, Limit, Release, entry_of, entry_of_line
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.queries import row_of
from recsys_fed.privacy.accounting.composition import Kinds, kinds_of
from recsys_fed.privacy.events import PrivacyEvent

# Events that are held before they are merged into their kinds.
_MOST_PENDING = 1_000
# Entries whose signatures are each checked; beyond them every so many.
EACH_SIGNATURE, STRIDE = 10_000, 4


@dataclass(frozen=True, kw_only=True)
class Verified:
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
    witnessed: Mapping[int, str] | None = None,
    each: Callable[[Entry], None] | None = None,
    each_signature: int | None = EACH_SIGNATURE,
) -> Verified:
    """Verify a whole ledger.

    Args:
        entries: from the genesis on.
        public_key: whose ledger it must be; by default that of its own terms.
        witnessed: hashes of entries by number that certificates know of.
        each: called with every entry that holds.
        each_signature: up to which entry signatures are each checked by themselves; None is all of them.

    Raises:
        LedgerIntegrityError: names the first bad entry and what is wrong with it.
    """
    chain = _Chain(public_key=public_key, witnessed=dict(witnessed or {}), each_signature=each_signature)
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
    witnessed: Mapping[int, str] | None = None,
    each_signature: int | None = EACH_SIGNATURE,
) -> Verified:
    """Verify a stored ledger, the stored copies of its fields too; raises LedgerIntegrityError."""
    return verify_entries(
        stored_entries(ledger), public_key=public_key, witnessed=witnessed, each_signature=each_signature
    )


def entries_of_export(content: Iterable[bytes]) -> Iterator[Entry]:
    """Read the lines of an export, each with its line end.

    Raises:
        LedgerIntegrityError: names the line that is no entry.
    """
    for number, line in enumerate(content):
        if not line.endswith(b"\n"):
            raise LedgerIntegrityError(f"Expected entry {number} to end its line, it is cut off.")
        try:
            yield entry_of_line(line[:-1])
        except DataFormatError as error:
            raise LedgerIntegrityError(f"Entry {number} cannot be read: {error}") from error


def stored_entries(ledger: Ledger) -> Iterator[Entry]:
    """Read all entries of a stored ledger.

    Raises:
        LedgerIntegrityError: names the entry that cannot be read, or whose stored copies are not its own.
    """
    for number, row in enumerate(ledger.rows()):
        stored: dict[str, Any] = dict(row._mapping)
        if not isinstance(stored["content"], bytes) or not isinstance(stored["signature"], str):
            raise LedgerIntegrityError(f"Entry {number} cannot be read: expected bytes and a text.")
        try:
            entry = entry_of(stored["content"], stored["signature"])
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
    witnessed: dict[int, str]
    terms: LedgerTerms | None = None
    head: Head | None = None
    first: str = ""
    last: str = ""
    releases: int = 0
    kinds: Kinds = ()
    pending: list[PrivacyEvent] = field(default_factory=list)
    each_signature: int | None = EACH_SIGNATURE
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
        if self.witnessed.pop(number, entry.hash) != entry.hash:
            raise LedgerIntegrityError(f"Expected entry {number} to be the one that a certificate names, it is not.")
        self.head, self.last = Head(number=number, hash=entry.hash), entry.time
        self.first = self.first or entry.time

    def _take(self, entry: Entry) -> None:
        if isinstance(entry.body, LedgerTerms):
            if self.public_key is not None and entry.body.public_key != self.public_key:
                raise LedgerIntegrityError(
                    f"Expected the ledger of the key {self.public_key[:16]}..., entry 0 names "
                    f"{entry.body.public_key[:16]}...."
                )
            self.terms = entry.body
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

    def end(self) -> Verified:
        if self.terms is None or self.head is None:
            raise LedgerIntegrityError("Expected a ledger with its genesis entry, got no entry at all.")
        if self.unchecked:
            self._vouch(self.unchecked[-1], self.terms)
        if self.witnessed:
            raise LedgerIntegrityError(
                f"Expected entry {min(self.witnessed)} that a certificate names; the ledger ends with entry "
                f"{self.head.number}: its tail was cut off."
            )
        return Verified(
            terms=self.terms,
            head=self.head,
            releases=self.releases,
            first=self.first,
            last=self.last,
            spending=self._check_limit(self.terms, before=self.head.number + 1),
        )

    def _check_limit(self, terms: LedgerTerms, *, before: int) -> Spending:
        spent = spending(self._kinds(), terms.guarantee)
        if spent.epsilon > terms.guarantee.epsilon * (1 + ROUNDING):
            raise LedgerIntegrityError(
                f"Expected the entries before entry {before} to keep to epsilon {terms.guarantee.epsilon:g}, their "
                f"events have spent {spent.epsilon:.4f}."
            )
        return spent

    def _kinds(self) -> Kinds:
        self.kinds, self.pending = kinds_of((*self.kinds, *self.pending)), []
        return self.kinds
