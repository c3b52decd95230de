"""The certificate of one silo for one run: what it released, what that cost, and for which model.

It holds nothing that is not public already: events, digests, figures that follow from events, the silo's terms,
and the head of its ledger. A later ledger that lacks this head was cut or replaced.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from recsys_fed.certificates.terms import LedgerTerms, epsilon_from_record
from recsys_fed.errors import DataFormatError, LedgerIntegrityError
from recsys_fed.privacy.accounting import ACCOUNTANTS, epsilon_of_history
from recsys_fed.privacy.events import PrivacyEvent, ReleaseEvent
from recsys_fed.privacy.guarantee import Guarantee
from recsys_fed.signing import SigningKey, canonical, parse_canonical, require_keys, text_of, verify_signature

_VERSION, _FIRST_VERSION = 2, 1
_PURPOSE = "run certificate"


@dataclass(frozen=True, kw_only=True)
class Head:
    """The last entry of a ledger: who knows it notices when entries are taken away."""

    number: int
    hash: str

    @classmethod
    def from_record(cls, record: object) -> Self:
        """Read a head; raises DataFormatError for anything else."""
        known = require_keys(record, {"number", "hash"}, "a head of a ledger")
        if type(known["number"]) is not int:
            raise DataFormatError("Expected the number of an entry.")
        return cls(number=known["number"], hash=text_of(known, "hash"))


@dataclass(frozen=True, kw_only=True)
class CertifiedRelease:
    """One release of the run: its entry in the ledger, the event, and the digest of its payload."""

    number: int
    hash: str
    payload: str
    event: ReleaseEvent


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """See the module.

    Attributes:
        terms: of the ledger, with the limit that held when this was signed.
        run: id of the run; time: UTC.
        genesis: hash of the ledger's first entry.
        head: of the ledger when this was signed.
        releases: of this run, in order.
        epsilon_of_run, epsilon_in_all: by accountant, at the delta of the terms.
        model: SHA-256 of the released item embeddings file; "" if the run ended without one.
        tables: SHA-256 of the file of released tables that later trainings may pool; "" where the server kept none.
        earlier: the same of each earlier training that this one has pooled, oldest first.
        user_weights: the public rule by which users count in what was released, see `config.user_weights_of`; ""
            where all count alike, and then the record is that of earlier versions.
        versions: of the software that answered.
    """

    terms: LedgerTerms
    run: str
    time: str
    genesis: str
    head: Head
    releases: tuple[CertifiedRelease, ...]
    epsilon_of_run: Mapping[str, float | str]
    epsilon_in_all: Mapping[str, float | str]
    model: str
    versions: Mapping[str, str]
    tables: str = ""
    earlier: tuple[str, ...] = ()
    user_weights: str = ""

    def to_record(self) -> dict[str, Any]:
        """Return the certificate as JSON values."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        if not self.user_weights:
            del plain["user_weights"]
        return plain | {
            "version": _VERSION,
            "terms": self.terms.to_record(),
            "head": vars(self.head),
            "releases": [vars(r) | {"event": r.event.to_dict()} for r in self.releases],
            "epsilon_of_run": dict(self.epsilon_of_run),
            "epsilon_in_all": dict(self.epsilon_in_all),
            "versions": dict(self.versions),
            "earlier": list(self.earlier),
        }

    @classmethod
    def from_record(cls, record: object) -> Self:
        """Read a certificate; raises DataFormatError for anything else."""
        names = {f.name for f in fields(cls)} | {"version"}
        if isinstance(record, Mapping):
            record = {"user_weights": "", **record}
        if isinstance(record, Mapping) and record.get("version") == _FIRST_VERSION:
            record = {**record, "tables": "", "earlier": []} if not {"tables", "earlier"} & record.keys() else record
            known = require_keys(record, names, "a certificate")
        else:
            known = require_keys(record, names, "a certificate")
            if known["version"] != _VERSION:
                raise DataFormatError(f"Expected a certificate of version {_VERSION}, got {known['version']!r}.")
        if not isinstance(known["releases"], list) or not isinstance(known["terms"], Mapping):
            raise DataFormatError("Expected a certificate with its terms and its releases.")
        return cls(
            terms=LedgerTerms.from_record(known["terms"]),
            head=Head.from_record(known["head"]),
            releases=tuple(map(_release, known["releases"])),
            epsilon_of_run=_figures_of(known, "epsilon_of_run"),
            epsilon_in_all=_figures_of(known, "epsilon_in_all"),
            versions={name: str(text) for name, text in _mapping(known, "versions").items()},
            earlier=_texts(known, "earlier"),
            **{name: text_of(known, name) for name in ("run", "time", "genesis", "model", "tables", "user_weights")},
        )


def sign_certificate(certificate: Certificate, key: SigningKey) -> bytes:
    """Return the certificate as the one text that its signature covers."""
    record = certificate.to_record()
    return canonical({"certificate": record, "signature": key.sign(_PURPOSE, canonical(record))})


def read_certificate(text: bytes) -> Certificate:
    """Read a signed certificate and check that the key in its terms signed it.

    Raises:
        DataFormatError: it is something else.
        LedgerIntegrityError: the signature does not hold.
    """
    record = require_keys(parse_canonical(text.strip()), {"certificate", "signature"}, "a signed certificate")
    certificate = Certificate.from_record(record["certificate"])
    content = canonical(record["certificate"])
    if not verify_signature(certificate.terms.public_key, _PURPOSE, content, text_of(record, "signature")):
        raise LedgerIntegrityError(f"The certificate of {certificate.terms.silo} is not signed by its key.")
    return certificate


def _release(record: object) -> CertifiedRelease:
    known = require_keys(record, {f.name for f in fields(CertifiedRelease)}, "a certified release")
    if type(known["number"]) is not int:
        raise DataFormatError("Expected the number of an entry.")
    return CertifiedRelease(
        number=known["number"],
        hash=text_of(known, "hash"),
        payload=text_of(known, "payload"),
        event=ReleaseEvent.from_dict(known["event"]),
    )


def _texts(record: Mapping[str, Any], name: str) -> tuple[str, ...]:
    if not isinstance(record[name], list) or not all(type(text) is str for text in record[name]):
        raise DataFormatError(f"Expected {name} to be a list of texts.")
    return tuple(record[name])


def _mapping(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    if not isinstance(record[name], Mapping):
        raise DataFormatError(f"Expected {name} to be a mapping, got {type(record[name]).__name__}.")
    found: Mapping[str, Any] = record[name]
    return found


def _figures_of(record: Mapping[str, Any], name: str) -> Mapping[str, float | str]:
    figures = _mapping(record, name)
    for value in figures.values():
        if type(value) is not float and value != "inf":
            raise DataFormatError(f'Expected {name} to hold decimal numbers or "inf", got {value!r}.')
    return dict(figures)


# Another machine, or another version of an accountant, gives another last digit, not another figure.
TOLERANCE = 1e-3
# The accountants whose larger figure counts.
_COUNTING = ("pld", "prv")


def check_figures(
    stated: Mapping[str, float | str], events: Iterable[PrivacyEvent], guarantee: Guarantee, *, what: str
) -> dict[str, float]:
    """Recompute a certificate's figures by every accountant and return them.

    Raises:
        LedgerIntegrityError: an accountant is missing, or a figure is not that of the events.
    """
    if stated.keys() != ACCOUNTANTS.keys():
        raise LedgerIntegrityError(f"Expected the {what} by {sorted(ACCOUNTANTS)}, got {sorted(stated)}.")
    history = guarantee.over_silos_kinds(events)
    found = {
        name: epsilon_of_history(history, delta=guarantee.delta, accountant=name) for name in sorted(ACCOUNTANTS)
    }
    for name, epsilon in found.items():
        said = epsilon_from_record(stated[name])
        if not (said == epsilon or math.isclose(said, epsilon, rel_tol=TOLERANCE, abs_tol=TOLERANCE)):
            raise LedgerIntegrityError(
                f"Expected the {what} to be {epsilon:.4f} by {name.upper()}, as its events say, it is {said:.4f}."
            )
    return found


def epsilon_that_counts(figures: Mapping[str, float | str]) -> float:
    """The figure that counts: the larger of PLD and PRV."""
    return max(epsilon_from_record(figures[name]) for name in _COUNTING)
