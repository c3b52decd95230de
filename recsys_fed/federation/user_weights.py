"""Users who count for less by a public rule, so that those whom a model serves worst count for more beside them.

The federation agrees on an attribute and on weights of its values (`user-weights = "gender:F=1,M=0.5"`), each above 0
and at most 1. Every silo looks up its own users' values, which never leave it, and answers a round that trains with

    sum_w  w f(users of weight w)     over the distinct weights w of the rule

in the place of f(users), f being the trainer's clipped sum. Weights come after clipping: what is scaled is a user's
whole bounded contribution. Metrics count all users alike.

Guarantees:
    - Unit: a user, here with the user's rows of the table of attributes too. Neighbouring relation: add or remove one
      user. What a user counts follows from the rule and that user's own rows (`data.readers.users`), so that the user
      is in one of the f(users of weight w), and the others stay as they are. f has L2 sensitivity C, and w <= 1: the
      weighted sum has L2 sensitivity at most C. Noise, accounting and ledger are those without weights.
    - This holds for any f of sensitivity C; that f is a sum over users is not used.
    - Rounding: with k weights each entry is right to k + 1 roundings of float64 of its parts' sizes, which of n users
      add up to n C at most. Two neighbours differ by at most (k + 1) n C 2^-52 beside the above: below 2^-19 C for
      k = 32 and 2^27 users, within the `ARITHMETIC_ERROR` of the mechanism, which trainers keep far below.

Refused, as their meaning would be another: noise that is added step by step within the silo, clip norms that follow a
count of users, and public users, whose attributes nobody knows.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from recsys_fed.config import FederationConfig, user_weights_of
from recsys_fed.errors import ConfigurationError
from recsys_fed.models.histories import UserHistories
from recsys_fed.trainers.trainer import Stage

# Of the settings of a request that say what users count.
_SETTING = "user-weights."
# Which adaptive clipping needs of the number of users.
_COUNTS_USERS = "count_share"

# What each user counts, float64 [n_users].
UserWeights = npt.NDArray[np.float64]


def weight_settings(config: FederationConfig) -> dict[str, float]:
    """The rule as settings of a request: `user-weights.ATTRIBUTE.VALUE`; none without a rule."""
    attribute, weights = user_weights_of(config.user_weights)
    return {f"{_SETTING}{attribute}.{value}": weight for value, weight in weights.items()}


def part_settings(settings: Mapping[str, float]) -> tuple[dict[str, float], tuple[float, ...]]:
    """The settings of a request that are the trainer's, and the distinct weights of its rule, ascending."""
    own = {name: value for name, value in settings.items() if not name.startswith(_SETTING)}
    return own, tuple(sorted({settings[name] for name in settings.keys() - own.keys()}))


def check_weights(config: FederationConfig, stages: Sequence[Stage], *, public_users: bool) -> None:
    """Refuse a rule where weighted sums are not what the rounds are made for.

    Raises:
        ConfigurationError: it says which of the settings to change.
    """
    if not config.user_weights:
        return
    if any(stage.noise_inside for stage in stages):
        raise ConfigurationError(
            "Expected no user-weights with noise inside the silo (dp-sgd.schedule = local): each step's noise is for "
            "users who count in full. Use dp-sgd.schedule = synchronous, or leave user-weights out."
        )
    if any(_COUNTS_USERS in stage.settings for stage in stages):
        raise ConfigurationError(
            "Expected no user-weights with dp-sgd.clipping = adaptive, whose clip norm follows a count of users. Use "
            "dp-sgd.clipping = automatic, or leave user-weights out."
        )
    if public_users:
        raise ConfigurationError(
            "Expected no user-weights with public users: nobody knows their attributes. Take a catalogue without "
            "public users, or leave user-weights out."
        )


def weighted_sum(
    contribute: Callable[[UserHistories], torch.Tensor],
    histories: UserHistories,
    *,
    weights: tuple[float, ...],
    of_users: UserWeights | None,
    chosen: torch.Tensor | None = None,
) -> torch.Tensor:
    """Silo: sum of w contribute(users of weight w), float64; see the module for its guarantees.

    Args:
        contribute: the trainer's clipped sum over some users.
        histories: of the silo's users.
        weights: distinct ones of the rule; () contributes without any.
        of_users: what each user counts, one of `weights`.
        chosen: bool [n_users], the Poisson sample of this round; None takes all.

    Raises:
        ConfigurationError: there is a rule, and nobody looked up what users count, or it was another rule.
    """
    if not weights:
        return contribute(histories if chosen is None else histories.subset(chosen))
    if of_users is None or len(of_users) != histories.n_users or not np.isin(of_users, weights).all():
        raise ConfigurationError("Expected what each user counts by user-weights, got something else.")
    total: torch.Tensor | None = None
    for weight in weights:
        there = torch.from_numpy(of_users == weight).to(histories.device)
        part = contribute(histories.subset(there if chosen is None else there & chosen)).double()
        total = weight * part if total is None else total.add_(part, alpha=weight)
    assert total is not None  # noqa: S101  (there are weights)
    return total
