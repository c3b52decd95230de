"""How the noise of a round is split over silos: whole in each, once over all, or once under secure aggregation.

    noise = per-silo       each silo adds all of it                           n times on the sum
    noise = distributed    variance 1 / (n - c) each, unprotected on the way  n / (n - c) times
    secure aggregation     variance 1 / (t - c) each, only sums are seen      n / (t - c) times if all n stay

t is the least number of silos with which a sum is unmasked, c the number of those whose noise counts for nothing:
silos that tell the server what they know, and silos that listen, since a silo knows its own share of the noise and
can take it off whatever is published. By default c is 1.

A user who may be in k silos changes the sum by up to k terms at once, so its noise has k times the variance, or the
whole in each silo. The sum is then a post-processing of k silos' releases with whole noise each, which is what is
charged (`Guarantee.over_silos`), with sampling of users as well.

The sum has enough noise whoever drops out or colludes. With t the least number of survivors and c colluding silos,
whose noise does not count, each silo adds discrete Gaussian noise of variance s^2 = sigma^2 / (t - c). A sum that is
unmasked has at least t survivors, hence noise of variance sigma^2 or more from silos that tell nobody theirs; with
all n of them it has n / (t - c) times that.

The sum of k discrete Gaussians is not one discrete Gaussian, but nearly (arXiv 2102.06387, Theorem 1, whose constant
is 10). In our notation, with rho_v(y) = exp(-y^2 / 2v) and X ~ N_Z(0, j s^2), Y ~ N_Z(0, s^2) independent,

    P[X + Y = y] ~ sum_x rho_(j s^2)(x) rho_(s^2)(y - x) = rho_((j + 1) s^2)(y) S(y)
    S(y) = sum_x exp(-(x - a y)^2 / 2 u^2),      u^2 = s^2 j / (j + 1),      a = j / (j + 1)

by completing the square. By Poisson summation, over m = 1, 2, ...,

    S(y) = u sqrt(2 pi) (1 + 2 sum_m exp(-2 pi^2 u^2 m^2) cos(2 pi m a y))

so S stays within a constant times 1 +- h_j with h_j = 2 sum_m exp(-2 pi^2 u^2 m^2). After normalisation every
probability of X + Y is that of N_Z(0, (j + 1) s^2) up to a factor within e^-+2 artanh(h_j). If X has its law only up
to a factor within e^-+tau, X + Y has it up to e^-+(tau + 2 artanh(h_j)), as convolution keeps bounds on ratios. Hence

    tau = 2 sum_(j=1)^(k-1) artanh(h_j)

for one entry, and m tau for m independent ones. Noise of more survivors is added independently, which is
post-processing. tau bounds laws of the noise, whatever it is shifted by, so no group privacy is involved: if the
release with one discrete Gaussian is (epsilon, delta)-DP and eta = 1 - e^(-m tau) bounds the total variation between
the two, the real one is (epsilon, delta + (1 + e^epsilon) eta)-DP. That is charged as the event's slack.

The terms of a masked round follow from the request that it answers: the server makes them, silos check them.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from recsys_fed import checks
from recsys_fed.config import FederationConfig
from recsys_fed.errors import ConfigurationError
from recsys_fed.federation.messages import Request, request_digest
from recsys_fed.federation.secure_aggregation.encoding import Modulus, modulus_for
from recsys_fed.federation.secure_aggregation.errors import TermsError
from recsys_fed.federation.secure_aggregation.terms import LEAST_SILOS, RoundTerms, least_threshold
from recsys_fed.trainers.registry import configured_trainer

# By the rule one silo in ten may drop out of a deployed round, and at least one.
_ONE_IN = 10
# Epsilon up to which the slack covers the difference; nothing beyond it is a promise to anybody.
_LARGEST_EPSILON = 64.0


@dataclass(frozen=True, kw_only=True)
class _Masking:
    """Masked rounds: t silos must stay, c of them may collude."""

    threshold: int
    colluding: int

    @property
    def contributors(self) -> int:
        """t - c: silos whose noise counts."""
        return self.threshold - self.colluding


def resolve_masking(config: FederationConfig, *, simulated: bool) -> FederationConfig:
    """The configuration with what its number of silos decides: whether rounds are masked, and t.

    "auto" is on for three or more deployed silos that add noise of their own and whose trainer can split it. With
    the rule for t one deployed silo in ten may drop out; simulated silos all stay.
    """
    mode, threshold = config.secure_aggregation, config.secure_aggregation_threshold
    if mode == "auto":
        local = configured_trainer(config).noise_inside
        possible = (
            config.noise == "per-silo" and not local and config.silos >= LEAST_SILOS and config.robust == "none"
        )
        mode = "on" if possible and not simulated else "off"
    if mode == "on" and not threshold:
        spared = 0 if simulated else max(1, config.silos // _ONE_IN)
        least = least_threshold(config.silos, config.secure_aggregation_colluders)
        threshold = max(config.silos - spared, min(least, config.silos))
    return replace(config, secure_aggregation=mode, secure_aggregation_threshold=threshold)


def masking_of(config: FederationConfig) -> _Masking | None:
    """The masked rounds of a settled configuration, or None.

    Raises:
        ConfigurationError: too few silos, a threshold that does not hold, or settings that contradict it.
    """
    if config.secure_aggregation != "on":
        return None
    if config.noise != "per-silo":
        raise ConfigurationError(
            "Expected noise = per-silo with secure aggregation, which splits it by itself, got noise = distributed. "
            "Choose one of the two."
        )
    if config.silos < LEAST_SILOS:
        raise ConfigurationError(
            f"Expected at least {LEAST_SILOS} silos for secure aggregation, got {config.silos}: of two, each would "
            "learn the other's part from the sum. Use secure-aggregation = off."
        )
    threshold, colluding = config.secure_aggregation_threshold, config.secure_aggregation_colluders
    least = least_threshold(config.silos, colluding)
    if not least <= threshold <= config.silos:
        raise ConfigurationError(
            f"Expected secure-aggregation-threshold of {least} to {config.silos} for {config.silos} silos of which "
            f"{colluding} may collude, got {threshold}."
        )
    return _Masking(threshold=threshold, colluding=colluding)


def share_of_silo(config: FederationConfig) -> float:
    """Share of the noise's variance that each silo adds, in a settled configuration.

    Guarantees: over every set of silos with which a round completes, those that count add at least the whole
    variance, times the number of silos that a user may be in or the number of those that count.
    """
    masking, k = masking_of(config), config.max_silos_per_user
    if masking is not None:
        return noise_share(threshold=masking.threshold, colluding=masking.colluding, max_silos_per_user=k)
    if config.noise == "per-silo":
        return 1.0
    listening = min(config.secure_aggregation_colluders, config.silos - 1)
    return noise_share(threshold=config.silos, colluding=listening, max_silos_per_user=k)


def noise_share(*, threshold: int, colluding: int = 0, max_silos_per_user: int = 1) -> float:
    """Share of the noise's variance that each silo adds: k / (t - c), or all of it where k is larger.

    Guarantees: the noise of the survivors that do not collude has at least k times the whole variance, or the whole
    in each of them, whoever they are, as there are t - c of them or more.
    """
    checks.at_least(0, colluding=colluding)
    checks.at_least(1, max_silos_per_user=max_silos_per_user)
    if threshold - colluding < 1:
        raise ConfigurationError(f"Expected threshold > colluding, got {threshold} and {colluding}.")
    return min(1.0, max_silos_per_user / (threshold - colluding))


def _distance_to_one_gaussian(standard_deviation: float, *, silos: int) -> float:
    """tau: the sum of the silos' discrete Gaussians against one, as a bound on log ratios of probabilities.

    Infinite where the noise of a silo is so small (below 0.4 grid steps) that nothing is known.
    """
    checks.at_least(1, silos=silos)
    checks.positive(standard_deviation=standard_deviation)
    steps = [_distance_of_step(standard_deviation**2 * j / (j + 1)) for j in range(1, silos)]
    return math.fsum(steps) if steps else 0.0


def slack_of_sum(standard_deviation: float, *, silos: int, entries: int) -> float:
    """What the difference between the sum of the silos' noise and one discrete Gaussian costs in delta.

    Guarantees: (1 + e^epsilon) eta for every epsilon up to 64 of the release; 0 without noise, whose epsilon is
    infinite anyway.
    """
    if standard_deviation == 0:
        return 0.0
    tau = _distance_to_one_gaussian(standard_deviation, silos=silos)
    return min(1.0, (1 + math.exp(_LARGEST_EPSILON)) * -math.expm1(-entries * tau))


def _distance_of_step(squared: float) -> float:
    """2 artanh(h) for u^2 = `squared`; the sum over m is bounded by that of m^2 >= 1 + 3 (m - 1)."""
    first = math.exp(-2 * math.pi**2 * squared)
    away = 2 * first / (1 - first**3)
    return 2 * math.atanh(away) if away < 1 else math.inf


def modulus_of(asked: Request, *, declared_users: int, n_silos: int) -> Modulus:
    """The bits that the sum over silos needs; `declared_users` are those of all silos together."""
    return modulus_for(
        declared_users=declared_users,
        clip_steps=asked.l2_clip_norm / asked.grid_step,
        n_silos=n_silos,
        noise_steps=asked.mechanism.standard_deviation,
        entries=asked.mechanism.entries,
    )


def round_terms(asked: Request, *, run: str, silos: Iterable[str], declared_users: int) -> RoundTerms:
    """Server: the terms of one attempt at a masked round among silos with these identity keys."""
    invited = tuple(sorted(silos))
    return RoundTerms(
        run=run,
        round=asked.round,
        attempt=asked.attempt,
        request=request_digest(asked),
        silos=invited,
        threshold=asked.threshold,
        colluding=asked.colluding,
        entries=asked.mechanism.entries,
        bits=modulus_of(asked, declared_users=declared_users, n_silos=len(invited)).bits,
    )


def check_terms_of(asked: Request, terms: RoundTerms) -> None:
    """Silo: the request must be the one that all silos of the round have agreed to answer.

    Raises:
        TermsError: it is another one.
    """
    facts: dict[str, tuple[object, object]] = {
        "request": (terms.request, request_digest(asked)),
        "round": (terms.round, asked.round),
        "attempt": (terms.attempt, asked.attempt),
        "threshold": (terms.threshold, asked.threshold),
        "number of colluding silos": (terms.colluding, asked.colluding),
        "number of entries": (terms.entries, asked.mechanism.entries),
    }
    for name, (expected, got) in facts.items():
        if expected != got:
            raise TermsError(f"Expected the {name} {expected} that all silos agreed to in this round, got {got}.")
