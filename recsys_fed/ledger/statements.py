"""A certificate is a statement about one moment of a ledger: it holds if the entries up to its head say the same.

The same terms and limit, the same releases of its run, and the same epsilon by every accountant.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from recsys_fed.certificates.certificate import Certificate, CertifiedRelease, check_figures
from recsys_fed.certificates.terms import LedgerTerms
from recsys_fed.errors import LedgerIntegrityError
from recsys_fed.ledger.entries import Entry, Limit, Release
from recsys_fed.privacy.accounting.composition import Kinds, kinds_of
from recsys_fed.privacy.events import PrivacyEvent

# Events are merged by kind so many at a time.
_MOST_PENDING = 1_000


def witnessed(certificates: Mapping[str, Certificate]) -> dict[int, str]:
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
class Statement:
    """A certificate beside what the entries so far say; `see` is called with each of them in order.

    Raises:
        LedgerIntegrityError: at the entry that is the certificate's head, if it does not hold.
    """

    name: str
    certificate: Certificate
    terms: LedgerTerms | None = None
    kinds: Kinds = ()
    pending: list[PrivacyEvent] = field(default_factory=list)
    releases: list[CertifiedRelease] = field(default_factory=list)

    def see(self, entry: Entry) -> None:
        """Take an entry; at the certificate's head, compare."""
        head = self.certificate.head.number
        if entry.number > head:
            return
        if isinstance(entry.body, LedgerTerms):
            self.terms = entry.body
        elif isinstance(entry.body, Limit) and self.terms is not None:
            self.terms = self.terms.with_limit(entry.body.epsilon)
        elif isinstance(entry.body, Release):
            event = entry.body.event
            self.pending.append(event)
            if len(self.pending) >= _MOST_PENDING:
                self._merge()
            if entry.body.run == self.certificate.run:
                release = CertifiedRelease(
                    number=entry.number, hash=entry.hash, payload=entry.body.payload, event=event
                )
                self.releases.append(release)
        if entry.number == head:
            self._check()

    def _check(self) -> None:
        if self.terms != self.certificate.terms:
            raise LedgerIntegrityError(
                f"Expected the terms of {self.name} to be the ledger's at entry {self.certificate.head.number}, "
                "they are not."
            )
        if tuple(self.releases) != self.certificate.releases:
            raise LedgerIntegrityError(
                f"Expected {self.name} to list the {len(self.releases)} releases of run {self.certificate.run} that "
                f"the ledger holds up to entry {self.certificate.head.number}, it lists "
                f"{len(self.certificate.releases)}: {_differing(self.releases, self.certificate.releases)}."
            )
        guarantee = self.certificate.terms.guarantee
        run = [release.event for release in self.releases]
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
