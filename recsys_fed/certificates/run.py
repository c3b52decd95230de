"""All certificates of one run together, against the run's events and its model: what the federation promises.

parallel composition   a user is in one silo: what counts is the worst silo
k silos a user         what counts is the composition of the k most expensive silos

Checks yield one sentence for each thing that does not hold.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import nlargest
from pathlib import Path
from typing import Any

from recsys_fed.certificates.certificate import (
    TOLERANCE,
    Certificate,
    check_figures,
    epsilon_that_counts,
    read_certificate,
)
from recsys_fed.errors import DataFormatError, DataNotFoundError, LedgerError, LedgerIntegrityError
from recsys_fed.privacy.accounting import epsilon_of_history
from recsys_fed.privacy.accounting.composition import Kinds, kinds_of
from recsys_fed.privacy.events import PrivacyEvent, ReleaseEvent
from recsys_fed.privacy.guarantee import Guarantee
from recsys_fed.signing import sha256


def _worst_composition(histories: Iterable[Iterable[PrivacyEvent]], silos_per_user: int) -> Kinds:
    """Return events that cost at least as much as any `silos_per_user` of the histories together.

    Guarantees: an upper bound. Of every sampled kind it takes the steps of the histories that have most of it,
    without sampling those with the largest sum of steps / noise^2, and the largest slacks. It is exact where the
    same histories have most of every kind, above all where all are alike.
    """
    precisions: list[float] = []
    slacks: list[float] = []
    sampled: defaultdict[tuple[float, float], list[int]] = defaultdict(list)
    for history in histories:
        kinds = kinds_of(history)
        if any(kind.noise_multiplier == 0 for kind in kinds):
            return (PrivacyEvent(noise_multiplier=0.0),)
        precisions.append(sum(k.steps / k.noise_multiplier**2 for k in kinds if k.sampling_probability == 1))
        slacks.append(sum(kind.slack for kind in kinds))
        for kind in kinds:
            if kind.sampling_probability < 1:
                sampled[(kind.noise_multiplier, kind.sampling_probability)].append(kind.steps)
    worst = [
        PrivacyEvent(noise_multiplier=noise, sampling_probability=q, steps=sum(nlargest(silos_per_user, steps)))
        for (noise, q), steps in sampled.items()
    ]
    most = sum(nlargest(silos_per_user, precisions))
    kinds = kinds_of([*worst, PrivacyEvent(noise_multiplier=most**-0.5)] if most else worst)
    if not kinds:
        return ()
    return (replace(kinds[0], slack=sum(nlargest(silos_per_user, slacks))), *kinds[1:])


# The digest of a payload, and what it cost.
_Counted = Counter[tuple[str, ReleaseEvent]]


def _disagreements(certificates: Mapping[str, Certificate]) -> Iterator[str]:
    """All are of one run with one promise, and of different silos with different keys and ledgers."""
    shared: dict[str, Callable[[Certificate], object]] = {
        "run": lambda c: c.run,
        "delta": lambda c: c.terms.guarantee.delta,
        "unit": lambda c: c.terms.guarantee.unit,
        "neighbouring relation": lambda c: c.terms.guarantee.neighbouring_relation,
        "number of silos a user may be in": lambda c: c.terms.guarantee.max_silos_per_user,
        "rule of what users count": lambda c: c.user_weights or "that all count alike",
    }
    for what, of in shared.items():
        values = Counter(map(of, certificates.values()))
        usual = values.most_common(1)[0][0] if values else None
        for name, certificate in certificates.items():
            if of(certificate) != usual:
                yield f"{name}: its {what} is {of(certificate)}, others say {usual}."
    own: dict[str, Callable[[Certificate], object]] = {
        "silo": lambda c: c.terms.silo,
        "key": lambda c: c.terms.public_key,
        "ledger": lambda c: c.genesis,
    }
    for what, of in own.items():
        counts = Counter(map(of, certificates.values()))
        for name, certificate in certificates.items():
            if counts[of(certificate)] > 1:
                yield f"{name}: another certificate has the same {what}."


def _faults(name: str, certificate: Certificate) -> Iterator[str]:
    """Entries in order up to the head, and an epsilon that follows from the events and keeps to the limit."""
    numbers = [release.number for release in certificate.releases]
    if any(before >= after for before, after in zip([0, *numbers], numbers, strict=False)):
        yield f"{name}: its releases are not entries in order."
    if numbers and numbers[-1] > certificate.head.number:
        yield f"{name}: it lists a release after its head."
    known = {0: certificate.genesis, **{release.number: release.hash for release in certificate.releases}}
    if known.get(certificate.head.number, certificate.head.hash) != certificate.head.hash:
        yield f"{name}: its head is another entry than the one it lists there."
    guarantee = certificate.terms.guarantee
    events = [release.event for release in certificate.releases]
    yield from _weak_shares(name, events, guarantee.max_silos_per_user)
    try:
        check_figures(certificate.epsilon_of_run, events, guarantee, what=f"epsilon of the run in {name}")
        run, in_all = epsilon_that_counts(certificate.epsilon_of_run), epsilon_that_counts(certificate.epsilon_in_all)
    except LedgerIntegrityError as error:
        yield str(error)
        return
    if run > in_all * (1 + TOLERANCE):
        yield f"{name}: the run cost epsilon {run:.4f}, more than the {in_all:.4f} that its silo says it ever spent."
    if in_all > guarantee.epsilon * (1 + TOLERANCE):
        yield f"{name}: epsilon {in_all:.4f} is beyond its silo's own limit of {guarantee.epsilon:g}."


def _weak_shares(name: str, events: Sequence[ReleaseEvent], k: int) -> Iterator[str]:
    """The noise shares of t - c silos must add up to what is charged, see `federation.noise_split`."""
    for event in events:
        contributors = event.threshold - event.colluding
        if event.threshold and event.noise_share * contributors < min(k, contributors) * (1 - TOLERANCE):
            yield (
                f"{name}: in round {event.round} its share of the noise, {event.noise_share:.4g}, is too small for "
                f"masked sums of {event.threshold} silos, {event.colluding} of which may collude."
            )


def _too_few_masked(lines: Mapping[str, _Counted]) -> Iterator[str]:
    """A masked sum that a finished run has used is one of t silos or more, which have all released."""
    silos: Counter[tuple[int, int]] = Counter()
    for counted in lines.values():
        silos.update({(event.round, event.threshold) for _, event in counted if event.threshold})
    for (number, threshold), count in sorted(silos.items()):
        if count < threshold:
            yield f"the events have masked releases of {count} silos in round {number}, its sum needs {threshold}."


def _missing_releases(certificates: Mapping[str, Certificate], lines: Mapping[str, _Counted]) -> Iterator[str]:
    """The silos of `certificates` have signed exactly the releases of the lines; both are by silo."""
    for silo, counted in sorted(lines.items()):
        if silo not in certificates:
            yield f"{silo}: {counted.total()} releases in the events, and no certificate that holds."
    for silo, certificate in sorted(certificates.items()):
        counted = lines.get(silo, Counter())
        signed = Counter((release.payload, release.event) for release in certificate.releases)
        for payload, event in counted - signed:
            yield f"{silo}: the events have a release of round {event.round} ({payload[:12]}) that it did not sign."
        for payload, event in signed - counted:
            yield f"{silo}: it signed a release of round {event.round} ({payload[:12]}) that the events lack."


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
        events: the server's lines, one a release that silos have charged, counted or not.
        model: the file of the released item embeddings.

    Raises:
        DataNotFoundError: one of the three is not there.
        LedgerError: a file cannot be read.
    """
    digest = sha256(_content(model))
    found, problems = read_certificates(certificates)
    lines, unread = _lines(_content(events))
    problems += unread
    problems += _disagreements(found)
    for name, certificate in found.items():
        problems += _faults(name, certificate)
        if certificate.model != digest:
            problems.append(f"{name}: it is about another model than {model.name}.")
    by_silo = {certificate.terms.silo: certificate for certificate in found.values()}
    problems += _missing_releases(by_silo, lines)
    problems += _too_few_masked(lines)
    return _summarise(by_silo, problems)


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise DataNotFoundError(f"Cannot find {path.name} of a finished run in {path.parent}.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise LedgerError(f"Cannot read {path}: {error}.") from error


def _lines(content: bytes) -> tuple[dict[str, _Counted], list[str]]:
    """The releases that the server lists, by silo, and the lines that are none."""
    by_silo: defaultdict[str, _Counted] = defaultdict(Counter)
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


def _summarise(by_silo: Mapping[str, Certificate], problems: list[str]) -> VerifiedRun:
    certificates = list(by_silo.values())
    terms, of_run, in_all = None, float("inf"), float("inf")
    if certificates:
        promises = [certificate.terms.guarantee for certificate in certificates]
        terms = max(promises, key=lambda promise: (promise.max_silos_per_user, promise.delta))
        histories = [[release.event for release in certificate.releases] for certificate in certificates]
        if terms.max_silos_per_user == 1:
            of_run = max(epsilon_of_history(history, delta=terms.delta) for history in histories)
        else:
            worst = _worst_composition(histories, terms.max_silos_per_user)
            of_run = epsilon_of_history(worst, delta=terms.delta)
        in_all = max(epsilon_that_counts(certificate.epsilon_in_all) for certificate in certificates)
    return VerifiedRun(
        problems=tuple(problems),
        certificates=dict(by_silo),
        terms=terms,
        epsilon_of_run=of_run,
        epsilon_in_all=in_all,
    )
