"""All certificates of one run together, against the run's events and its model: what the federation promises.

parallel composition   a user is in one silo: what counts is the worst silo
k silos a user         what counts is the composition of the k most expensive silos
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recsys_fed.certificates.certificate import Certificate, read_certificate
from recsys_fed.certificates.composition import worst_composition
from recsys_fed.certificates.consistency import Counted, disagreements, faults, too_few_masked, uncounted
from recsys_fed.certificates.figures import counting
from recsys_fed.errors import DataFormatError, DataNotFoundError, LedgerError, LedgerIntegrityError
from recsys_fed.privacy.accounting import epsilon_of_history
from recsys_fed.privacy.events import ReleaseEvent
from recsys_fed.privacy.guarantee import Guarantee
from recsys_fed.signing import sha256


@dataclass(frozen=True, kw_only=True)
class VerifiedRun:
    """What the certificates of a run say together.

    Attributes:
        problems: what does not hold, one sentence each; empty if all of it does.
        certificates: those with a signature that holds, by silo.
        terms: what all silos promise, with the largest k and delta if they differ; None without a certificate.
        epsilon_of_run, epsilon_in_all: of a user who is in as many silos as allowed. The first is recomputed from
            events, the second follows from the silos' own statements.
    """

    problems: tuple[str, ...]
    certificates: Mapping[str, Certificate]
    terms: Guarantee | None
    epsilon_of_run: float
    epsilon_in_all: float

    @property
    def holds(self) -> bool:
        """Whether everything holds."""
        return not self.problems

    @property
    def simulated(self) -> bool:
        """Whether some silo's noise follows from a seed, so that it protects nobody."""
        return any(certificate.terms.simulated for certificate in self.certificates.values())

    @property
    def only_the_sum(self) -> bool:
        """Whether some silo sent a sum with a share of the noise openly, so that its own releases are not private."""
        return any(event.noise_share < 1 and not event.threshold for event in self._events())

    @property
    def masked(self) -> tuple[int, int] | None:
        """Least t and largest c of the masked releases, or None where all were sent openly."""
        found = [event for event in self._events() if event.threshold]
        return (min(e.threshold for e in found), max(e.colluding for e in found)) if found else None

    def sentence_of_run(self) -> str:
        """The federation's guarantee for this run, in one sentence."""
        return self._sentence(self.epsilon_of_run, "everything that this run released from")

    def sentence_in_all(self) -> str:
        """The same for all that the silos ever released, as they state it."""
        return self._sentence(self.epsilon_in_all, "everything released until then from")

    def _events(self) -> Iterator[ReleaseEvent]:
        for certificate in self.certificates.values():
            yield from (release.event for release in certificate.releases)

    def _sentence(self, epsilon: float, seen: str) -> str:
        if self.terms is None:
            return "There is no certificate, so there is no guarantee."
        if epsilon == 0:
            return "Nothing was released, so nothing about any user was revealed."
        return replace(self.terms, epsilon=epsilon).sentence(seen=seen)


def read_certificates(place: Path) -> tuple[dict[str, Certificate], list[str]]:
    """Read the certificates of a folder (or one file) by file name, and say what is wrong with the others.

    Raises:
        DataNotFoundError: there is no certificate at all.
        LedgerError: a file cannot be read.
    """
    files = sorted(place.glob("*.json")) if place.is_dir() else [place]
    if not files or not files[0].is_file():
        raise DataNotFoundError(f"Expected certificates (*.json) at {place}, there are none.")
    found: dict[str, Certificate] = {}
    problems = []
    for path in files:
        try:
            found[path.name] = read_certificate(_content(path))
        except (DataFormatError, LedgerIntegrityError) as error:
            problems.append(f"{path.name}: {error}")
    return found, problems


def verify_run(certificates: Path, *, events: Path, model: Path) -> VerifiedRun:
    """Check all certificates of a run against each other, the run's events and its model.

    Args:
        certificates: folder of one file a silo.
        events: the server's lines, one a release that it counted.
        model: the file of the released item embeddings.

    Raises:
        DataNotFoundError: one of the three is not there.
        LedgerError: a file cannot be read.
    """
    digest = sha256(_content(model))
    found, problems = read_certificates(certificates)
    lines, unread = _lines(_content(events))
    problems += unread
    problems += disagreements(found)
    for name, certificate in found.items():
        problems += faults(name, certificate)
        if certificate.model != digest:
            problems.append(f"{name}: it is about another model than {model.name}.")
    by_silo = {certificate.terms.silo: certificate for certificate in found.values()}
    problems += uncounted(by_silo, lines)
    problems += too_few_masked(lines)
    return _verified(by_silo, problems)


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise DataNotFoundError(f"Expected {path.name} of a finished run in {path.parent}, there is no such file.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise LedgerError(f"Expected to read {path}: {error}.") from error


def _lines(content: bytes) -> tuple[dict[str, Counted], list[str]]:
    """The releases that the server counted, by silo, and the lines that are none."""
    by_silo: defaultdict[str, Counted] = defaultdict(Counter)
    problems = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            record: dict[str, Any] = dict(json.loads(line))
            silo, payload = str(record.pop("silo")), str(record.pop("payload"))
            release = payload, ReleaseEvent.from_dict(record)
        except (DataFormatError, KeyError, ValueError, TypeError) as error:
            problems.append(f"line {number} of the events is no release: {error}")
            continue
        by_silo[silo][release] += 1
    return by_silo, problems


def _verified(by_silo: Mapping[str, Certificate], problems: list[str]) -> VerifiedRun:
    certificates = list(by_silo.values())
    terms, of_run, in_all = None, float("inf"), float("inf")
    if certificates:
        promises = [certificate.terms.guarantee for certificate in certificates]
        terms = max(promises, key=lambda promise: (promise.max_silos_per_user, promise.delta))
        histories = [[release.event for release in certificate.releases] for certificate in certificates]
        if terms.max_silos_per_user == 1:
            of_run = max(epsilon_of_history(history, delta=terms.delta) for history in histories)
        else:
            worst = worst_composition(histories, terms.max_silos_per_user)
            of_run = epsilon_of_history(worst, delta=terms.delta)
        in_all = max(counting(certificate.epsilon_in_all) for certificate in certificates)
    return VerifiedRun(
        problems=tuple(problems),
        certificates=dict(by_silo),
        terms=terms,
        epsilon_of_run=of_run,
        epsilon_in_all=in_all,
    )
