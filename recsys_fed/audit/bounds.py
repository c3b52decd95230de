"""From guesses and scores to statements about epsilon; nothing here knows what was attacked.

*The Gaussian view*: mu of the scores, its lower confidence limit, and epsilon. An estimate, no bound. For releases
that are Gaussian mechanisms without sampling, the log-likelihood ratio of one canary is N(-mu^2/2, mu^2) without it
and N(mu^2/2, mu^2) with it, so mu = (mean with - mean without) / standard deviation. If other canaries blur the
score, or the score is not the best one, the estimate is too low; if scores are not normal it means nothing.

*A lower bound of epsilon from one run*: Steinke, Nasr and Jagielski, arXiv 2305.08846, Theorem 5.2. If the mechanism
is (epsilon, delta)-differentially private, the number of right guesses out of r among m canaries is stochastically
dominated by W + F, where W ~ Binomial(r, e^epsilon / (e^epsilon + 1)) and F counts how often delta "fails". So

    P[correct >= v] <= beta + 2 m delta alpha,   beta = P[W >= v],   alpha = max_{1 <= i <= v} P[v - i <= W < v] / i

and the bound is the largest epsilon at which this p-value is at most 1 - confidence.

*A lower bound from one run for Gaussian mechanisms*: Mahloujifar, Melis and Chaudhuri, arXiv 2410.22235. Hypothesis:
the mechanism is f-DP for the trade-off curve f of a Gaussian mechanism with parameter mu (arXiv 1905.02383). The
paper's Algorithm 3 (with its cap for abstentions) bounds by a recursion how probable it is to guess v or more of r
right among m canaries. With g(x) = Phi(Phi^-1(x) - mu), alpha = 1 - confidence,

    r_v = alpha v / m,   h_v = alpha (r - v) / m
    h_{i-1} = max(h_i, g(r_i)),   r_{i-1} = r_i + (i - 1) / (r - i + 1) (h_{i-1} - h_i),   i = v, ..., 1

and mu is refuted if r_0 + h_0 > r / m. Many candidates mu are worked on at once.

*A lower bound of epsilon from many runs*: error rates of a test between two neighbours, Clopper and Pearson. An
(epsilon, delta)-private mechanism lets no test have a true positive rate above e^epsilon times its false positive
rate plus delta, nor a true negative rate above e^epsilon times the false negative rate plus delta (arXiv 1311.0776).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import betaincinv, expit, ndtr, ndtri
from scipy.stats import binom, norm

from recsys_fed import checks
from recsys_fed.errors import ConfigurationError
from recsys_fed.privacy.accounting.closed_forms import gaussian_delta, largest_mu

_LEAST_GROUP = 2
_LARGEST_EPSILON = 64.0
_CANDIDATES = 33
_LARGEST_MU = 12.0
_REFINEMENTS = 3
Counts = npt.NDArray[np.int64]
Rates = npt.NDArray[np.float64]
CONFIDENCES = (0.95, 0.99)
# Shares of the canaries that may be guessed about; the plan takes one of them before any score is seen.
_SHARES = (0.02, 0.04, 0.06, 0.1, 0.15, 0.2, 0.3, 0.5)


@dataclass(frozen=True, kw_only=True)
class Guesses:
    """Outcome of a guessing game in which every canary was in with probability one half, independently.

    Attributes:
        canaries: how many took part, m.
        made: guesses made, r; the auditor abstained from the others.
        correct: right guesses, v.
    """

    canaries: int
    made: int
    correct: int

    def __post_init__(self) -> None:
        checks.at_least(0, canaries=self.canaries, made=self.made, correct=self.correct)
        if not self.correct <= self.made <= self.canaries:
            raise ConfigurationError(
                f"Expected correct <= made <= canaries, got {self.correct}, {self.made} and {self.canaries}."
            )


def _extreme_guesses(scores: npt.NDArray[np.float64], included: npt.NDArray[np.bool_], *, made: int) -> Guesses:
    """Guess "in" for the highest scores and "out" for the lowest, half of `made` each (the odd one is "in").

    The number must be fixed before the scores are seen. Ties go by position, which the coins do not know. A score
    that is not finite counts as the lowest.
    """
    if scores.shape != included.shape or scores.ndim != 1:
        raise ConfigurationError(f"Expected a score a canary, got shapes {scores.shape} and {included.shape}.")
    checks.at_least(0, made=made)
    made = min(made, len(scores))
    order = np.argsort(np.where(np.isfinite(scores), scores, -np.inf), kind="stable")
    out = made // 2
    correct = np.count_nonzero(included[order[len(order) - (made - out) :]])
    correct += np.count_nonzero(~included[order[:out]])
    return Guesses(canaries=len(scores), made=made, correct=int(correct))


@dataclass(frozen=True, kw_only=True)
class _GaussianEstimate:
    """mu as estimated, its lower confidence limit, and the epsilon of each at delta."""

    mu: float
    mu_low: float
    epsilon: float
    epsilon_low: float


def epsilon_of_mu(mu: float, *, delta: float) -> float:
    """Epsilon at `delta` of a Gaussian mechanism with parameter mu; 0 where delta alone covers it."""
    checks.fraction(delta=delta)
    if not mu > 0 or gaussian_delta(mu, epsilon=0.0) <= delta:
        return 0.0
    high = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta)) + 1.0
    return float(brentq(lambda epsilon: gaussian_delta(mu, epsilon=epsilon) - delta, 0.0, high, xtol=1e-9))


def gaussian_estimate(
    scores: npt.NDArray[np.float64], included: npt.NDArray[np.bool_], *, delta: float, confidence: float
) -> _GaussianEstimate:
    """mu from the two groups of scores, one-sided.

    mu is the difference of means over the pooled standard deviation; its variance is 1/n_in + 1/n_out +
    mu^2 / (2 (n - 2)). A group of fewer than two, or no spread, gives zeros.
    """
    checks.fraction(confidence=confidence)
    inside, outside = scores[included], scores[~included]
    n_in, n_out = len(inside), len(outside)
    if min(n_in, n_out) < _LEAST_GROUP:
        return _GaussianEstimate(mu=0.0, mu_low=0.0, epsilon=0.0, epsilon_low=0.0)
    left = float(inside.var(ddof=1) * (n_in - 1) + outside.var(ddof=1) * (n_out - 1)) / (n_in + n_out - 2)
    if not (math.isfinite(left) and left > 0):
        return _GaussianEstimate(mu=0.0, mu_low=0.0, epsilon=0.0, epsilon_low=0.0)
    mu = float(inside.mean() - outside.mean()) / math.sqrt(left)
    deviation = math.sqrt(1 / n_in + 1 / n_out + mu**2 / (2 * (n_in + n_out - 2)))
    low = max(0.0, mu - float(norm.ppf(confidence)) * deviation)
    mu = max(0.0, mu)
    return _GaussianEstimate(
        mu=mu,
        mu_low=low,
        epsilon=epsilon_of_mu(mu, delta=delta),
        epsilon_low=epsilon_of_mu(low, delta=delta),
    )


def one_run_p_value(guesses: Guesses, *, epsilon: float, delta: float) -> float:
    """Upper bound on the probability of so many right guesses if the mechanism is (epsilon, delta)-private."""
    checks.non_negative(epsilon=epsilon, delta=delta)
    made, correct = guesses.made, guesses.correct
    if not correct:
        return 1.0
    q = expit(epsilon)
    beta = float(binom.sf(correct - 1, made, q))
    number = np.arange(1, correct + 1)
    below = np.cumsum(binom.pmf(correct - number, made, q))
    alpha = float(np.max(below / number))
    return min(1.0, beta + 2 * guesses.canaries * delta * alpha)


def one_run_epsilon(guesses: Guesses, *, delta: float, confidence: float) -> float:
    """The largest epsilon that the guesses refute at this confidence; 0 if they refute none.

    Guarantees: for any (epsilon, delta)-private mechanism (add or remove one canary, each in with probability one
    half) the result exceeds epsilon with probability at most 1 - confidence, whatever the guesser does. m right
    guesses out of m refute at most about log(m / log(1 / (1 - confidence))).
    """
    checks.fraction(confidence=confidence)

    def excess(epsilon: float) -> float:
        return one_run_p_value(guesses, epsilon=epsilon, delta=delta) - (1 - confidence)

    if not guesses.made or excess(0.0) > 0:
        return 0.0
    # With delta > 0 the p-value need not fall below alpha again beyond the first crossing: take the first.
    high = 0.5
    while high < _LARGEST_EPSILON and excess(high) <= 0:
        high += 0.5
    return float(brentq(excess, high - 0.5, high, xtol=1e-6)) if high < _LARGEST_EPSILON else _LARGEST_EPSILON


def _find_refuted(guesses: Guesses, mu: npt.NDArray[np.float64], *, confidence: float) -> npt.NDArray[np.bool_]:
    """Which of the parameters mu >= 0 the guesses refute at this confidence, bool [len(mu)]."""
    checks.fraction(confidence=confidence)
    alpha, total = 1 - confidence, guesses.canaries
    if not guesses.made or not guesses.correct:
        return np.zeros(mu.shape, dtype=bool)
    right = np.full(mu.shape, alpha * guesses.correct / total)
    wrong = np.full(mu.shape, alpha * (guesses.made - guesses.correct) / total)
    for i in range(guesses.correct - 1, -1, -1):
        before = wrong
        wrong = np.maximum(wrong, ndtr(ndtri(np.minimum(right, 1.0)) - mu))
        if np.array_equal(wrong, before):
            # Nothing changes any more, as h can only grow by what r has grown.
            break
        right = np.minimum(right + i / (guesses.made - i) * (wrong - before), 1.0)
    found: npt.NDArray[np.bool_] = right + wrong > guesses.made / total
    return found


def _largest_refuted_mu(guesses: Guesses, *, confidence: float) -> float:
    """The largest mu that the guesses refute, to 1e-3 from below; 0 if they refute none."""
    low, high = 0.0, _LARGEST_MU
    for _ in range(_REFINEMENTS):
        candidates = np.linspace(low, high, _CANDIDATES)
        kept = _find_refuted(guesses, candidates, confidence=confidence)
        # The first that stands: refutation is monotone in mu.
        first = int(np.argmin(kept)) if not kept.all() else len(kept) - 1
        if not first:
            return 0.0
        low, high = float(candidates[first - 1]), float(candidates[first])
    return low


def _one_run_fdp_epsilon(guesses: Guesses, *, delta: float, confidence: float) -> float:
    """Epsilon at `delta` of the largest refuted Gaussian parameter.

    Guarantees: if the releases together are mu-GDP for the canaries (compositions of Gaussian mechanisms without
    sampling are, exactly), the result exceeds their epsilon(delta) with probability at most 1 - confidence. Of other
    mechanisms it refutes the Gaussian claim, not (epsilon, delta) as such.
    """
    return epsilon_of_mu(_largest_refuted_mu(guesses, confidence=confidence), delta=delta)


def binomial_limits(successes: Counts, trials: int, *, confidence: float) -> tuple[Rates, Rates]:
    """Clopper and Pearson's limits of probabilities [n] from successes [n], each limit one-sided at `confidence`."""
    checks.fraction(confidence=confidence)
    checks.at_least(1, trials=trials)
    if successes.min(initial=0) < 0 or successes.max(initial=0) > trials:
        raise ConfigurationError(f"Expected successes from 0 to the {trials} trials, got {successes}.")
    low = betaincinv(np.maximum(successes, 1), trials - successes + 1, 1 - confidence)
    high = betaincinv(successes + 1, np.maximum(trials - successes, 1), confidence)
    return np.where(successes > 0, low, 0.0), np.where(successes < trials, high, 1.0)


def many_run_epsilon(with_user: Rates, without_user: Rates, *, delta: float, confidence: float) -> float:
    """Lower bound from the scores of independent runs with and without one user.

    The first half of each chooses the threshold and the direction, the second half measures: two limits, each at
    (1 + confidence) / 2.

    Guarantees: for any (epsilon, delta)-private mechanism the result exceeds epsilon with probability at most
    1 - confidence. n runs of each kind refute at most about log(n / 2 / log(2 / (1 - confidence))).
    """
    checks.non_negative(delta=delta)
    halves = [(scores[: len(scores) // 2], scores[len(scores) // 2 :]) for scores in (with_user, without_user)]
    (chosen_in, test_in), (chosen_out, test_out) = halves
    if not min(len(chosen_in), len(chosen_out)):
        raise ConfigurationError(
            f"Expected two runs or more of each kind, got {len(with_user)} and {len(without_user)}."
        )
    level = (1 + confidence) / 2
    candidates = np.unique(np.concatenate([chosen_in, chosen_out]))
    found = [
        _refute_epsilons(chosen_in, chosen_out, candidates, above=above, delta=delta, level=level)
        for above in (True, False)
    ]
    above = bool(found[0].max() >= found[1].max())
    best = candidates[[int(np.argmax(found[0 if above else 1]))]]
    return float(_refute_epsilons(test_in, test_out, best, above=above, delta=delta, level=level)[0])


def _refute_epsilons(
    inside: Rates, outside: Rates, thresholds: Rates, *, above: bool, delta: float, level: float
) -> Rates:
    """max(0, log((p - delta) / q)) by threshold: p the rate of the side's own group on it, q that of the other."""
    likely, other = (inside, outside) if above else (outside, inside)
    hits = []
    for group in (likely, other):
        below = np.searchsorted(np.sort(group), thresholds, side="left")
        hits.append(len(group) - below if above else below)
    low, _ = binomial_limits(hits[0], len(likely), confidence=level)
    _, high = binomial_limits(hits[1], len(other), confidence=level)
    refuted = low - delta > high
    return np.log(np.where(refuted, low - delta, 1.0) / np.where(refuted, high, 1.0))


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What the scores of one run say at one confidence.

    Attributes:
        confidence: of each figure by itself.
        guesses: the game that was played.
        one_run: lower bound for any (epsilon, delta)-private mechanism.
        one_run_fdp: lower bound for Gaussian mechanisms.
        gaussian: an estimate for Gaussian mechanisms, no bound.
    """

    confidence: float
    guesses: Guesses
    one_run: float
    one_run_fdp: float
    gaussian: _GaussianEstimate

    @property
    def strongest(self) -> float:
        """The larger of the two bounds: what is held against a claim (at twice the chance of error)."""
        return max(self.one_run, self.one_run_fdp)

    def to_record(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return asdict(self)


def bounds_of(
    scores: npt.NDArray[np.float64],
    included: npt.NDArray[np.bool_],
    *,
    made: int,
    delta: float,
    confidences: Sequence[float] = CONFIDENCES,
) -> tuple[Bounds, ...]:
    """Bounds at each confidence; `made`, how many guesses, must not depend on the scores (see `plan_guesses`)."""
    guesses = _extreme_guesses(scores, included, made=made)
    return tuple(
        Bounds(
            confidence=confidence,
            guesses=guesses,
            one_run=one_run_epsilon(guesses, delta=delta, confidence=confidence),
            one_run_fdp=_one_run_fdp_epsilon(guesses, delta=delta, confidence=confidence),
            gaussian=gaussian_estimate(scores, included, delta=delta, confidence=confidence),
        )
        for confidence in confidences
    )


@lru_cache(maxsize=256)
def plan_guesses(canaries: int, *, epsilon: float, delta: float) -> int:
    """How many guesses to make about `canaries` of a mechanism that claims epsilon: public numbers decide.

    It is the share with which canaries that nothing blurs would give the best f-DP bound at 95%.
    """
    mu = largest_mu(epsilon=min(epsilon, 64.0), delta=delta)
    plans = {max(1, round(share * canaries)) for share in _SHARES}
    return max(sorted(plans), key=lambda made: _expected_bound(canaries, made, mu=mu, delta=delta))


def ceiling(canaries: int, *, epsilon: float, delta: float) -> float:
    """The f-DP bound at 95% that ideal canaries of a Gaussian mechanism give in the middle."""
    mu = largest_mu(epsilon=min(epsilon, 64.0), delta=delta)
    made = plan_guesses(canaries, epsilon=epsilon, delta=delta)
    return _expected_bound(canaries, made, mu=mu, delta=delta)


def _expected_bound(canaries: int, made: int, *, mu: float, delta: float) -> float:
    """The bound if as many of the extreme guesses are right as expected of N(0, 1) against N(mu, 1)."""
    share = min(made / canaries, 1.0) / 2
    threshold = brentq(lambda t: (ndtr(-t) + ndtr(mu - t)) / 2 - share, -40.0, 40.0)
    precision = float(ndtr(mu - threshold)) / 2 / share
    guesses = Guesses(canaries=canaries, made=made, correct=int(made * precision))
    return _one_run_fdp_epsilon(guesses, delta=delta, confidence=0.95)
