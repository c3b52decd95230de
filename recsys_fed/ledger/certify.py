"""A silo signs what it did in a run; everything in the certificate comes from its ledger."""

from collections.abc import Mapping

from recsys_fed.certificates.certificate import Certificate, CertifiedRelease, Head, sign_certificate
from recsys_fed.certificates.terms import epsilon_to_record
from recsys_fed.ledger.entries import Entry, Release, utc_text
from recsys_fed.ledger.ledger import Ledger, now
from recsys_fed.signing import SigningKey
from recsys_fed.versions import versions


def certify(ledger: Ledger, key: SigningKey, *, run: str, model: str) -> bytes:
    """Return the signed certificate of a run.

    Args:
        ledger: of the silo.
        key: that of the ledger.
        run: id of the run.
        model: SHA-256 of the item embeddings that the run released, "" if there are none.
    """
    # The head first: should another run write meanwhile, all that is said here is about what the head covers.
    head = ledger.head()
    entries = [entry for entry in ledger.releases_of(run) if entry.number <= head.number]
    certificate = Certificate(
        terms=ledger.terms(until=head.number),
        run=run,
        time=utc_text(now()),
        genesis=ledger.entry(0).hash,
        head=Head(number=head.number, hash=head.hash),
        releases=tuple(_certified(entry, entry.body) for entry in entries if isinstance(entry.body, Release)),
        epsilon_of_run=_figures(ledger.spending(run=run, until=head.number).by_accountant),
        epsilon_in_all=_figures(ledger.spending(until=head.number).by_accountant),
        model=model,
        versions=versions(),
    )
    return sign_certificate(certificate, key)


def _certified(entry: Entry, release: Release) -> CertifiedRelease:
    return CertifiedRelease(number=entry.number, hash=entry.hash, payload=release.payload, event=release.event)


def _figures(by_accountant: Mapping[str, float]) -> dict[str, float | str]:
    return {name: epsilon_to_record(value) for name, value in by_accountant.items()}
