"""What certificates must agree on: with each other, each within itself, and with the events that a server kept.

Every function yields one sentence for each thing that does not hold.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from recsys_fed.certificates.certificate import Certificate
from recsys_fed.certificates.figures import TOLERANCE, check_figures, counting
from recsys_fed.errors import LedgerIntegrityError
from recsys_fed.privacy.events import ReleaseEvent

# The digest of a payload, and what it cost.
Counted = Counter[tuple[str, ReleaseEvent]]


def disagreements(certificates: Mapping[str, Certificate]) -> Iterator[str]:
    """All are of one run with one promise, and of different silos with different keys and ledgers."""
    shared: dict[str, Callable[[Certificate], object]] = {
        "run": lambda c: c.run,
        "delta": lambda c: c.terms.guarantee.delta,
        "unit": lambda c: c.terms.guarantee.unit,
        "neighbouring relation": lambda c: c.terms.guarantee.neighbouring_relation,
        "number of silos a user may be in": lambda c: c.terms.guarantee.max_silos_per_user,
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


def faults(name: str, certificate: Certificate) -> Iterator[str]:
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
        run, in_all = counting(certificate.epsilon_of_run), counting(certificate.epsilon_in_all)
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


def too_few_masked(lines: Mapping[str, Counted]) -> Iterator[str]:
    """A masked sum that a finished run has used is one of t silos or more, which have all released."""
    silos: Counter[tuple[int, int]] = Counter()
    for counted in lines.values():
        silos.update({(event.round, event.threshold) for _, event in counted if event.threshold})
    for (number, threshold), count in sorted(silos.items()):
        if count < threshold:
            yield f"the events have masked releases of {count} silos in round {number}, its sum needs {threshold}."


def uncounted(certificates: Mapping[str, Certificate], lines: Mapping[str, Counted]) -> Iterator[str]:
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
