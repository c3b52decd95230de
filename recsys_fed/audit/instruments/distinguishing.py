"""Many releases of one round, with and without one maximal user: the exact likelihood ratio against its promise.

With the difference d of the two sums (known to the auditor) and noise of deviation s, <release, d> / (s ||d||) is
normal with deviation 1 and its mean moves by ||d|| / s, which may be 1 / noise_multiplier at most.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.stats import norm

from recsys_fed.audit.instruments.finding import Finding
from recsys_fed.audit.instruments.inputs import maximal_users, silo_of
from recsys_fed.audit.instruments.residuals import Bench
from recsys_fed.audit.mechanisms.mechanism import promised_deviation, quiet
from recsys_fed.audit.statistics.gaussian import epsilon_of_mu
from recsys_fed.audit.statistics.many_runs import many_run_epsilon


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """Scores of independent releases with and without the user."""

    with_user: npt.NDArray[np.float64]
    without_user: npt.NDArray[np.float64]


def likelihood_scores(bench: Bench, *, ordinary: sparse.csr_matrix, runs: int) -> Scores:
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
    return Scores(with_user=found[0], without_user=found[1])


def distinguishing(bench: Bench, *, ordinary: sparse.csr_matrix, runs: int, delta: float) -> Iterator[Finding]:
    """Whether the user can be told more clearly than promised, by the distance and by error rates."""
    scores = likelihood_scores(bench, ordinary=ordinary, runs=runs)
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
