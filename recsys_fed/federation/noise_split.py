"""How the noise of a round is split over silos: whole in each, once over all, or once under secure aggregation.

    noise = own            each silo adds all of it                           n times on the sum
    noise = central        variance 1 / (n - c) each, unprotected on the way  n / (n - c) times
    secure aggregation     variance 1 / (t - c) each, only sums are seen      n / (t - c) times if all n stay

t is the least number of silos with which a sum is unmasked, c the number of those whose noise counts for nothing (see
`secure_aggregation.noise_share`): silos that tell the server what they know, and silos that listen, since a silo
knows its own share of the noise and can take it off whatever is published. By default c is 1.

A user who may be in k silos changes the sum by up to k terms at once, so its noise has k times the variance, or the
whole in each silo. The sum is then a post-processing of k silos' releases with whole noise each, which is what is
charged (`Guarantee.over_silos`), with sampling of users as well.
"""

from dataclasses import dataclass, replace

from recsys_fed.config import FederationConfig
from recsys_fed.errors import ConfigurationError
from recsys_fed.federation.secure_aggregation.noise_share import noise_share
from recsys_fed.federation.secure_aggregation.terms import LEAST_SILOS, least_threshold
from recsys_fed.trainers.registry import configured_trainer

# By the rule one silo in ten may drop out of a deployed round, and at least one.
_ONE_IN = 10


@dataclass(frozen=True, kw_only=True)
class Masking:
    """Masked rounds: t silos must stay, c of them may collude."""

    threshold: int
    colluding: int

    @property
    def contributors(self) -> int:
        """t - c: silos whose noise counts."""
        return self.threshold - self.colluding


def settled(config: FederationConfig, *, simulated: bool) -> FederationConfig:
    """The configuration with what its number of silos decides: whether rounds are masked, and t.

    "auto" is on for three or more deployed silos that add noise of their own and whose trainer can split it. With
    the rule for t one deployed silo in ten may drop out; simulated silos all stay.
    """
    mode, threshold = config.secure_aggregation, config.secure_aggregation_threshold
    if mode == "auto":
        local = configured_trainer(config).noise_inside
        possible = config.noise == "own" and not local and config.silos >= LEAST_SILOS and config.robust == "none"
        mode = "on" if possible and not simulated else "off"
    if mode == "on" and not threshold:
        spared = 0 if simulated else max(1, config.silos // _ONE_IN)
        least = least_threshold(config.silos, config.secure_aggregation_colluders)
        threshold = max(config.silos - spared, min(least, config.silos))
    return replace(config, secure_aggregation=mode, secure_aggregation_threshold=threshold)


def masking_of(config: FederationConfig) -> Masking | None:
    """The masked rounds of a settled configuration, or None.

    Raises:
        ConfigurationError: too few silos, a threshold that does not hold, or settings that contradict it.
    """
    if config.secure_aggregation != "on":
        return None
    if config.noise != "own":
        raise ConfigurationError(
            "Expected noise = own with secure aggregation, which splits it by itself, got noise = central. "
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
    return Masking(threshold=threshold, colluding=colluding)


def share_of_silo(config: FederationConfig) -> float:
    """Share of the noise's variance that each silo adds, in a settled configuration.

    Guarantees: over every set of silos with which a round completes, those that count add at least the whole
    variance, times the number of silos that a user may be in or the number of those that count.
    """
    masking, k = masking_of(config), config.max_silos_per_user
    if masking is not None:
        return noise_share(threshold=masking.threshold, colluding=masking.colluding, max_silos_per_user=k)
    if config.noise == "own":
        return 1.0
    listening = min(config.secure_aggregation_colluders, config.silos - 1)
    return noise_share(threshold=config.silos, colluding=listening, max_silos_per_user=k)
