"""All conformance checks on one mechanism, for each kind of release of a run: those of the noise, and two more.

*Sensitivity*: neighbouring inputs, one user more, without the noise that would hide the difference.

*Distinguishing*: many releases of one round, with and without one maximal user; the exact likelihood ratio against
its promise. With the difference d of the two sums (known to the auditor) and noise of deviation s,
<release, d> / (s ||d||) is normal with deviation 1 and its mean moves by ||d|| / s, which may be 1 / noise_multiplier
at most.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.stats import norm

from recsys_fed.audit._mechanism import Mechanism, promised_deviation, quiet
from recsys_fed.audit.bounds import epsilon_of_mu, many_run_epsilon
from recsys_fed.audit.checks._noise import (
    Bench,
    Finding,
    dropout,
    independence,
    known_seed,
    maximal_users,
    no_users,
    noise_scale,
    repeating_user,
    silo_of,
)
from recsys_fed.federation.messages import Request
from recsys_fed.federation.schedule import Schedule
from recsys_fed.trainers.ordered import STAGE as ORDERED_STAGE
from recsys_fed.trainers.popularity import STAGE as COUNTS_STAGE

# A dithered entry is one of two neighbouring integers.
_DITHER = 1.0
# Users of the ordinary silo of the benches, and releases of each kind for the likelihood ratio.
SILO_USERS = 40
RUNS = 100


def _sensitivity(bench: Bench, *, ordinary: sparse.csr_matrix) -> Iterator[Finding]:
    """One maximal user more, in an empty silo and in an ordinary one; and the same input twice.

    ||release with - release without|| may be at most D, the sensitivity that the noise is scaled to (all but 1e-15
    of the time), whoever the user is.
    """
    asked = quiet(bench.request)
    limit = asked.mechanism.sensitivity
    for where, base in (("an empty silo", no_users(ordinary.shape[1])), ("an ordinary silo", ordinary)):
        before = bench.mechanism.release(asked, silo_of(base))
        more = {
            who: silo_of(sparse.vstack([base, user], format="csr")) for who, user in maximal_users(ordinary).items()
        }
        if bench.request.stage == ORDERED_STAGE:
            more["who has two items again and again"] = repeating_user(silo_of(base))
        for who, joined in more.items():
            distance = float(np.linalg.norm((bench.mechanism.release(asked, joined) - before).astype(np.float64)))
            yield Finding(
                instrument=f"sensitivity, one user {who} in {where}",
                stage=bench.request.stage,
                measured=distance / limit,
                promised=1.0,
                unit="sensitivities, at most",
                p_value=0.0 if distance > limit else 1.0,
            )
    yield _repeat(bench, ordinary)


def _repeat(bench: Bench, ordinary: sparse.csr_matrix) -> Finding:
    """The sum of the same users is the same, whatever the release number is: only the dither differs."""
    asked = quiet(bench.request)
    one, two = (bench.mechanism.release(asked, silo_of(ordinary), release=number) for number in (0, 1))
    distance = float(np.abs(one - two).max(initial=0))
    # Settings of the request, not the silo, decide what else is drawn; local steps may add a dither a step.
    return Finding(
        instrument="same input twice",
        stage=bench.request.stage,
        measured=distance,
        promised=_DITHER,
        unit="grid steps, at most",
        p_value=0.0 if distance > _DITHER and not bench.request.noise_inside else 1.0,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scores:
    """Scores of independent releases with and without the user."""

    with_user: npt.NDArray[np.float64]
    without_user: npt.NDArray[np.float64]


def _likelihood_scores(bench: Bench, *, ordinary: sparse.csr_matrix, runs: int) -> _Scores:
    """`runs` releases of each kind, scored; no key is used twice, so no two share noise."""
    user = maximal_users(ordinary)["who has every item"]
    asked = quiet(bench.request)
    silos = [silo_of(matrix) for matrix in (sparse.vstack([ordinary, user], format="csr"), ordinary)]
    sums = [bench.mechanism.release(asked, users).astype(np.float64) for users in silos]
    difference = (sums[0] - sums[1]).ravel()
    length = max(float(np.linalg.norm(difference)), 1.0)
    deviation = promised_deviation(bench.request) * bench.request.noise_share**0.5
    found = [
        np.array([
            float((bench.mechanism.release(bench.request, users, release=number) - sums[1]).ravel() @ difference)
            for number in range(first, first + 2 * runs, 2)
        ]) / (length * deviation)
        for first, users in ((2_000, silos[0]), (4_000 + 2 * runs, silos[1]))
    ]  # fmt: skip
    return _Scores(with_user=found[0], without_user=found[1])


def _distinguishing(bench: Bench, *, ordinary: sparse.csr_matrix, runs: int, delta: float) -> Iterator[Finding]:
    """Whether the user can be told more clearly than promised, by the distance and by error rates."""
    scores = _likelihood_scores(bench, ordinary=ordinary, runs=runs)
    promised = 1 / (bench.request.noise_multiplier * bench.request.noise_share**0.5)
    n, inside, outside = runs, scores.with_user, scores.without_user
    spread = float(np.sqrt((inside.var(ddof=1) + outside.var(ddof=1)) / 2))
    mu = float(inside.mean() - outside.mean()) / max(spread, 1e-300)
    # Of two means and a pooled deviation; the deviation of mu at mu = promised.
    deviation = np.sqrt(2 / n + promised**2 / (4 * (n - 1)))
    yield Finding(
        instrument="many releases of one round, distance",
        stage=bench.request.stage,
        measured=mu,
        promised=promised,
        unit="standard deviations, at most",
        p_value=float(norm.sf((mu - promised) / deviation)),
    )
    claimed = epsilon_of_mu(promised, delta=delta)
    # The bound at the confidence of a single test decides; the p-value is what that leaves.
    strict = many_run_epsilon(inside, outside, delta=delta, confidence=1 - 1e-6)
    shown = many_run_epsilon(inside, outside, delta=delta, confidence=0.95)
    yield Finding(
        instrument="many releases of one round, Clopper-Pearson bound (95%)",
        stage=bench.request.stage,
        measured=shown,
        promised=claimed,
        unit="epsilon of this release, at most",
        p_value=1e-6 if strict > claimed else 1.0,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Stand:
    """What the checks need beside the mechanism.

    Attributes:
        rounds: a request of each kind of release, and the server's schedule when it asks.
        ordinary: csr, histories of ordinary users.
        silos: of the federation.
        delta: of the guarantee.
        public_seed: of the run's configuration.
        runs: releases of each kind for the likelihood ratio.
    """

    rounds: Sequence[tuple[Schedule, Request]]
    ordinary: sparse.csr_matrix
    silos: int
    delta: float
    public_seed: int
    runs: int = RUNS


def conformance(mechanism: Mechanism, stand: Stand) -> list[Finding]:
    """Every check on every kind of release (the likelihood ratio on the counts); without noise there are none.

    Guarantees: a mechanism that does what its events say is flagged with probability FAMILY_ERROR at most, all
    findings together.
    """
    findings: list[Finding] = []
    for schedule, request in stand.rounds:
        if not request.noise_multiplier:
            continue
        bench = Bench(
            mechanism=mechanism,
            schedule=schedule,
            request=request,
            users=silo_of(stand.ordinary),
            silos=stand.silos,
        )
        findings += noise_scale(bench)
        findings += independence(bench)
        findings += _sensitivity(bench, ordinary=stand.ordinary)
        findings += known_seed(bench, seed=stand.public_seed)
        findings += dropout(bench)
        if request.stage == COUNTS_STAGE:
            findings += _distinguishing(bench, ordinary=stand.ordinary, runs=stand.runs, delta=stand.delta)
    return findings
