"""Checks of the noise: its scale and shape, its independence, whether a seed predicts it, and what a dropout leaves.

All look at residuals: what is left of releases when the sum over users is taken off, over the noise that is promised.
Where noise is split over silos, a round that completes has all of it, whoever is missing. The same tests are made on
a run that took place, less its known sums. A finding has the probability of such a one if the mechanism is right.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from scipy.stats import chi2, kstest, norm

from recsys_fed.audit._mechanism import SUM, Mechanism, promised_deviation, quiet
from recsys_fed.errors import PrivacyError
from recsys_fed.federation.messages import Request
from recsys_fed.federation.release import SiloUsers
from recsys_fed.federation.schedule import Schedule
from recsys_fed.models.histories import Histories, Signals, histories_of
from recsys_fed.privacy.integer_mechanism import add_noise
from recsys_fed.privacy.noise import SeededNoise

# Chance that a whole set of checks flags a mechanism that is right, shared equally by its tests.
FAMILY_ERROR = 1e-3
# Entries of all repetitions together: the scale is then known to 0.7%.
WANTED_ENTRIES = 10_000
MOST_RELEASES = 32
_IN_TURN = 4
_SILOS = 3
_REPEATED = 60
Table = npt.NDArray[np.float64]
# Purposes and release numbers that the attacker tries: those of a simulated silo's keys, and a few more.
_PURPOSES = range(1, 4)
_RELEASES = range(3)
_LEAST_SILOS = 2
Integers = npt.NDArray[np.int64]
RunResiduals = Sequence[tuple[Request, Mapping[str, npt.NDArray[np.float64]]]]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One test.

    Attributes:
        instrument: the check's name, as audit.json has it.
        stage: of the release that was tested.
        measured, promised: the figure and what it should be (or be at most, or at least), in `unit`.
        unit: of both.
        p_value: chance of a figure at least as far off if the mechanism is right; 0 or 1 where chance has no part.
    """

    instrument: str
    stage: str
    measured: float
    promised: float
    unit: str
    p_value: float

    def flagged(self, tests: int) -> bool:
        """Whether the figure is too far off for one of `tests` tests."""
        return self.p_value < FAMILY_ERROR / max(tests, 1)

    def to_record(self, tests: int) -> dict[str, Any]:
        """All fields and the verdict as JSON values."""
        return asdict(self) | {"flagged": self.flagged(tests)}


def flagged_findings(findings: list[Finding]) -> list[Finding]:
    """Those that a set of checks flags."""
    return [finding for finding in findings if finding.flagged(len(findings))]


def silo_of(matrix: sparse.csr_matrix) -> SiloUsers:
    """A silo of these users, in some order; each holds out one item, so that metrics are about them too."""
    csr = sparse.csr_matrix(matrix)
    csr.sort_indices()
    users = np.repeat(np.arange(csr.shape[0]), np.diff(csr.indptr))
    # The last of an item's digits in base 7 come first: an order that is none of the catalogue.
    order = np.lexsort((csr.indices, csr.indices % 7, users))
    rank = np.empty(csr.nnz, dtype=np.int32)
    rank[order] = np.arange(csr.nnz) - np.repeat(csr.indptr[:-1], np.diff(csr.indptr))
    histories = histories_of(csr, signals=Signals(rank=torch.from_numpy(rank)))
    return SiloUsers(histories=histories, test=_held_out(csr))


def repeating_user(users: SiloUsers) -> SiloUsers:
    """The silo with one user more, who has the first two items of the catalogue again and again."""
    before, n = cast("Histories", users.histories), _REPEATED
    starts, rank = before.starts, torch.arange(n, dtype=torch.int32)
    known = rank[:0] if before.signals is None or before.signals.rank is None else before.signals.rank
    items = torch.arange(n, dtype=before.items.dtype) % min(2, before.n_items)
    joined = Histories(
        items=torch.cat([before.items, items]),
        starts=torch.cat([starts, starts[-1:] + n]),
        n_items=before.n_items,
        signals=Signals(rank=torch.cat([known, rank])),
    )
    return SiloUsers(histories=joined)


def no_users(n_items: int) -> sparse.csr_matrix:
    """The histories of no users."""
    return sparse.csr_matrix((0, n_items), dtype=np.float32)


def maximal_users(ordinary: sparse.csr_matrix) -> dict[str, sparse.csr_matrix]:
    """Users who would stretch a sum most if nothing bounded them, each csr [1, n_items]."""
    n_items = ordinary.shape[1]
    found = {
        "who has every item": sparse.csr_matrix(np.ones((1, n_items), dtype=np.float32)),
        "who has one item": sparse.csr_matrix(np.eye(1, n_items, dtype=np.float32)),
    }
    if ordinary.shape[0]:
        found["with the longest ordinary history"] = ordinary[int(np.argmax(np.diff(ordinary.indptr)))]
    return found


def _held_out(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """The first item that is not in the history, nothing of who has all: csr of the same shape."""
    held = sparse.lil_matrix(matrix.shape, dtype=np.float32)
    for row in range(matrix.shape[0]):
        items = np.sort(matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]])
        gap = np.flatnonzero(items != np.arange(len(items)))
        first = int(gap[0]) if len(gap) else len(items)
        if first < matrix.shape[1]:
            held[row, first] = 1.0
    return held.tocsr()


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """A mechanism and one release to test it on.

    Attributes:
        mechanism: under audit.
        schedule: of the server, at the round that asks; its rule decides which rounds are accepted.
        request: what is asked.
        users: an ordinary silo.
        silos: how many silos share the noise, where it is split.
    """

    mechanism: Mechanism
    schedule: Schedule
    request: Request
    users: SiloUsers
    silos: int

    def residuals(self, users: SiloUsers, *, releases: Sequence[int], silo: int = 0) -> npt.NDArray[np.float64]:
        """Of one silo's releases of these numbers, in promised deviations of one silo: float64 [n, rows, columns]."""
        expected = self.mechanism.release(quiet(self.request), users, silo=silo)
        deviation = promised_deviation(self.request) * self.request.noise_share**0.5
        found = [
            (self.mechanism.release(self.request, users, silo=silo, release=number) - expected) / deviation
            for number in releases
        ]
        return np.array(found)

    @property
    def repetitions(self) -> int:
        """Releases that give enough entries, two at least."""
        entries = self.request.shape[0] * self.request.shape[1]
        return int(np.clip(-(-WANTED_ENTRIES // max(1, entries)), 2, MOST_RELEASES))


def noise_scale(bench: Bench) -> Iterator[Finding]:
    """Releases of an empty silo, which are noise and nothing else, and of an ordinary silo less its sum."""
    numbers = range(0, 2 * bench.repetitions, 2)
    for name, users in (("empty silo", _empty_silo(bench)), ("ordinary silo", bench.users)):
        residuals = bench.residuals(users, releases=list(numbers))
        yield from _scale_findings(residuals, stage=bench.request.stage, name=name)


def _empty_silo(bench: Bench) -> SiloUsers:
    """A silo without users over the same catalogue."""
    return silo_of(no_users(bench.users.histories.n_items))


def _scale_findings(residuals: npt.NDArray[np.float64], *, stage: str, name: str) -> Iterator[Finding]:
    """Whether residuals of independent noise have deviation 1 or more, and a normal shape.

    n times their mean square is chi^2 with n degrees of freedom; more noise than promised is no breach. The shape is
    tested at the deviation that was found (at 8 grid steps and more the discrete Gaussian is normal to this test).
    """
    flat = residuals.ravel()
    found = float(np.sqrt(np.mean(flat**2)))
    yield Finding(
        instrument=f"scale of the noise, {name}",
        stage=stage,
        measured=found,
        promised=1.0,
        unit="promised standard deviations, at least",
        p_value=float(chi2.cdf(flat @ flat, len(flat))),
    )
    shape = kstest(flat / max(found, 1e-300), "norm")
    yield Finding(
        instrument=f"shape of the noise, {name}",
        stage=stage,
        measured=float(shape.statistic),
        promised=0.0,
        unit="distance of the distribution functions",
        p_value=float(shape.pvalue),
    )


def independence(bench: Bench) -> Iterator[Finding]:
    """The same request four times in a row, of three silos; noise that comes back shows as a correlation."""
    nobody, stage = _empty_silo(bench), bench.request.stage
    by_silo = [bench.residuals(nobody, releases=range(_IN_TURN), silo=silo) for silo in range(_SILOS)]
    in_turn = [(one, two) for one, two in pairwise(by_silo[0])]
    yield _correlation_finding(in_turn, stage=stage, name="releases")
    across = [(one[0], two[0]) for one, two in pairwise(by_silo)]
    yield _correlation_finding(across, stage=stage, name="silos")
    # A silo's release against another silo's later one: keys that differ by silo + release only.
    shifted = [(one[number + 1], two[number]) for one, two in pairwise(by_silo) for number in range(2)]
    yield _correlation_finding(shifted, stage=stage, name="silos one release apart")
    yield from _entries_findings(by_silo[0], stage=stage)


def _correlation_finding(pairs: list[tuple[Table, Table]], *, stage: str, name: str) -> Finding:
    """The largest correlation of two tables: normal with deviation 1 / sqrt(entries) if they share nothing."""
    found = [(_correlation(one, two), one.size) for one, two in pairs]
    worst, size = max(found, key=lambda pair: abs(pair[0]))
    p_value = min(1.0, len(found) * float(2 * norm.sf(abs(worst) * np.sqrt(size))))
    return Finding(
        instrument=f"independence of the noise between {name}",
        stage=stage,
        measured=worst,
        promised=0.0,
        unit="correlation",
        p_value=p_value,
    )


def _entries_findings(residuals: Table, *, stage: str) -> Iterator[Finding]:
    """Whether entries of a table share noise: sums over columns have the variance of independent entries."""
    _, rows, columns = residuals.shape
    for name, axis, length in (("rows", 1, rows), ("columns", 2, columns)):
        if length == 1:
            continue
        sums = residuals.sum(axis=axis).ravel()
        square = float(sums @ sums) / length / float(np.mean(residuals**2))
        p_value = 2 * min(float(chi2.sf(square, len(sums))), float(chi2.cdf(square, len(sums))))
        yield Finding(
            instrument=f"independence of the noise between {name}",
            stage=stage,
            measured=square / len(sums),
            promised=1.0,
            unit="variance of sums over that of independent entries",
            p_value=min(1.0, p_value),
        )
    neighbours = [(residuals[:, :-1].ravel(), residuals[:, 1:].ravel())] if rows > 1 else []
    if neighbours:
        yield _correlation_finding(neighbours, stage=stage, name="neighbouring rows")


def _correlation(one: Table, two: Table) -> float:
    left, right = one.ravel(), two.ravel()
    length = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / length if length else 0.0


def predicted_noise(request: Request, *, purpose: int, seed: int, silo: int, release: int) -> npt.NDArray[np.float64]:
    """The integers that a silo would add if its key followed from these numbers, dither included."""
    zeros = np.zeros(request.shape)
    drawn = add_noise(zeros, mechanism=request.mechanism, noise=SeededNoise(purpose, seed, silo, release))
    return drawn.astype(np.float64)


def known_seed(bench: Bench, *, seed: int) -> Iterator[Finding]:
    """The largest correlation of an empty silo's release with what the public seed predicts."""
    if bench.request.noise_inside:
        return
    release = 1
    found = bench.residuals(_empty_silo(bench), releases=[release], silo=0)[0].ravel()
    tried = []
    for purpose in _PURPOSES:
        for number in _RELEASES:
            guess = predicted_noise(bench.request, purpose=purpose, seed=seed, silo=0, release=number).ravel()
            length = float(np.linalg.norm(guess) * np.linalg.norm(found))
            tried.append(float(guess @ found) / length if length else 0.0)
    worst = max(tried, key=abs)
    yield Finding(
        instrument="noise that the public seed predicts",
        stage=bench.request.stage,
        measured=worst,
        promised=0.0,
        unit="correlation",
        p_value=min(1.0, len(tried) * float(2 * norm.sf(abs(worst) * np.sqrt(found.size)))),
    )


def dropout(bench: Bench) -> Iterator[Finding]:
    """Empty silos of which more and more do not answer: the noise on every sum that the server accepts."""
    if bench.request.noise_inside:
        return
    silos = max(bench.silos, _LEAST_SILOS)
    shared = bench.request
    if not shared.masked:
        shared = replace(shared, noise_share=min(shared.noise_share, 1 / silos))
    schedule = replace(bench.schedule, config=replace(bench.schedule.config, silos=silos))
    nobody, promised = [_empty_silo(bench)] * silos, promised_deviation(shared)
    for lost in sorted({0, 1, silos // 2, silos - (shared.threshold or silos)}):
        try:
            sums = [bench.mechanism.observed(schedule, shared, nobody, lost=range(lost))[SUM]]
        except PrivacyError:
            # The round is not accepted, so nothing is seen.
            continue
        # Whether a round is accepted does not depend on the noise: the others need no server.
        for number in range(2, 2 * bench.repetitions, 2):
            there = range(lost, silos)
            releases = [bench.mechanism.release(shared, nobody[n], silo=n, release=number) for n in there]
            sums.append(np.sum(releases, axis=0, dtype=np.int64))
        name = f"sum of which {lost} of {silos} silos are missing"
        yield next(_scale_findings(np.array(sums) / promised, stage=bench.request.stage, name=name))


def residuals_of_run(
    rounds: Iterable[tuple[Request, Mapping[str, Integers], Mapping[str, Integers]]],
) -> RunResiduals:
    """By round and view, in promised deviations: from what was asked, what was seen, and the sums without noise.

    Rounds without noise, and rounds of local steps, whose sums follow from their noise, are left out.
    """
    return [
        (request, {view: (seen[view] - sums[view]) / promised_deviation(request) for view in seen})
        for request, seen, sums in rounds
        if request.noise_multiplier and not request.noise_inside
    ]


def run_findings(residuals: RunResiduals) -> Iterator[Finding]:
    """Scale and shape in every round, over all views; independence between views and between rounds alike."""
    alike: defaultdict[tuple[str, tuple[int, ...], str], list[npt.NDArray[np.float64]]] = defaultdict(list)
    for request, by_view in residuals:
        stage = f"round {request.round}: {request.stage}"
        tables = list(by_view.values())
        yield from _scale_findings(np.array(tables), stage=stage, name="the run itself")
        if len(tables) > 1:
            pairs = list(pairwise(tables))
            yield _correlation_finding(pairs, stage=stage, name="silos, the run itself")
        for view, table in by_view.items():
            alike[(view, table.shape, request.stage)].append(table)
    in_turn = [pair for tables in alike.values() for pair in pairwise(tables)]
    if in_turn:
        yield _correlation_finding(in_turn, stage="all rounds alike", name="rounds, the run itself")
