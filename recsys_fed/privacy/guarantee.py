"""The promise made to users: a target (epsilon, delta), its unit, and a sentence that says it."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from recsys_fed import checks
from recsys_fed.config import FederationConfig
from recsys_fed.errors import ConfigurationError
from recsys_fed.privacy.accounting.composition import Kinds, kinds_of
from recsys_fed.privacy.events import NEIGHBOURING_RELATIONS, UNITS, PrivacyEvent

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """Target (epsilon, delta) for everything that leaves a silo over its lifetime.

    `epsilon` > 0; inf means no protection. `delta` in (0, 1), see also `check_delta`.
    `max_silos_per_user` (k): silos hold disjoint users if it is 1; otherwise every event counts k
    times, see `over_silos`. Raises ConfigurationError for values out of range.
    """

    epsilon: float
    delta: float = 1e-6
    unit: str = "user"
    neighbouring_relation: str = "add-or-remove-one-user"
    max_silos_per_user: int = 1

    def __post_init__(self) -> None:
        checks.positive_or_inf(epsilon=self.epsilon)
        checks.fraction(delta=self.delta)
        checks.one_of(UNITS, unit=self.unit)
        checks.one_of(NEIGHBOURING_RELATIONS, neighbouring_relation=self.neighbouring_relation)
        checks.at_least(1, max_silos_per_user=self.max_silos_per_user)

    @property
    def protects(self) -> bool:
        """Whether epsilon is finite."""
        return math.isfinite(self.epsilon)

    def over_silos(self, releases: Sequence[T]) -> tuple[T, ...]:
        """Repeat one silo's events or planned releases for each silo that may hold the same user.

        Composition of k silos that release alike: account or calibrate the returned sequence.
        """
        return tuple(releases) * self.max_silos_per_user

    def over_silos_kinds(self, events: Iterable[PrivacyEvent]) -> Kinds:
        """The kinds of one silo's events, with steps times the number of silos that may hold the same user."""
        k = self.max_silos_per_user
        return tuple(replace(kind, steps=kind.steps * k, slack=kind.slack * k) for kind in kinds_of(events))

    def sentence(self, *, seen: str = "everything that ever leaves") -> str:
        """Say in one sentence what is protected, from whom and how much, or that nothing is."""
        k = self.max_silos_per_user
        place, held = ("a silo", "in it") if k == 1 else (f"up to {k} silos", "in all of them")
        if not self.protects:
            return (
                f"There is no privacy protection (epsilon is infinite): what leaves {place} may reveal any"
                f" interaction of any user {held} to anybody who sees it."
            )
        return (
            f"For anybody who sees {seen} {place}, whatever else they know,"
            f" using all interactions of one user {held} or none of them changes the probability of any"
            f" conclusion by a factor of at most {_factor(self.epsilon)}, beyond an extra probability of at"
            f" most {self.delta:g} (epsilon = {self.epsilon:g}, delta = {self.delta:g})."
        )


def guarantee_of(config: FederationConfig) -> Guarantee:
    """The promise that a configuration makes to every user."""
    return Guarantee(epsilon=config.epsilon, delta=config.delta, max_silos_per_user=config.max_silos_per_user)


def check_delta(delta: float, *, n_users: int) -> None:
    """Refuse a delta that is not below 1 / `n_users`, the number of users over all silos.

    At 1 / n_users a mechanism that publishes one user at random would satisfy the definition.
    Raises ConfigurationError. `n_users` is a public order of magnitude: a count of real users is
    private and must not be passed where the message may leave the silo.
    """
    checks.fraction(delta=delta)
    checks.at_least(1, n_users=n_users)
    if delta >= 1 / n_users:
        raise ConfigurationError(
            f"Expected delta < 1 / n_users = {1 / n_users:g} for n_users = {n_users}, got {delta:g}."
            " Choose a smaller delta, such as 1e-6, well below that bound."
        )


def _factor(epsilon: float) -> str:
    """e^epsilon, rounded up to three figures so that "at most" stays true."""
    if epsilon > 700:
        return f"e^{epsilon:g}"
    factor = math.exp(epsilon)
    unit = 10.0 ** (math.floor(math.log10(factor)) - 2)
    rounded = math.ceil(factor / unit) * unit
    return f"{rounded:,.0f}" if 1000 <= rounded < 1e9 else f"{rounded:.3g}"
