"""Checks of arguments, whose messages name the argument, say expected and got.

>>> positive(noise_multiplier=1.5)
>>> positive(noise_multiplier=-1.0)
Traceback (most recent call last):
...
recsys_fed.errors.ConfigurationError: Expected noise_multiplier > 0, got -1.0.
"""

import math
from collections.abc import Collection

from recsys_fed.errors import ConfigurationError

# A century: dates that are further off overflow.
MOST_DAYS = 36_525


def positive(**values: float) -> None:
    """Refuse values that are not finite and above zero."""
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ConfigurationError(f"Expected {name} > 0, got {value}.")


def positive_or_inf(**values: float) -> None:
    """Refuse values that are not above zero; infinity is allowed, NaN is not."""
    for name, value in values.items():
        if not value > 0:
            raise ConfigurationError(f"Expected {name} > 0 (or inf), got {value}.")


def non_negative(**values: float) -> None:
    """Refuse values that are not finite and zero or above."""
    for name, value in values.items():
        if not (math.isfinite(value) and value >= 0):
            raise ConfigurationError(f"Expected {name} >= 0, got {value}.")


def at_least(minimum: int, **values: int) -> None:
    """Refuse integers below `minimum`."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise ConfigurationError(f"Expected {name} to be an integer >= {minimum}, got {value!r}.")


def at_most(maximum: int, **values: int) -> None:
    """Refuse integers above `maximum`."""
    for name, value in values.items():
        if value > maximum:
            raise ConfigurationError(f"Expected {name} to be an integer <= {maximum}, got {value!r}.")


def probability(**values: float) -> None:
    """Refuse values outside (0, 1]."""
    for name, value in values.items():
        if not 0 < value <= 1:
            raise ConfigurationError(f"Expected 0 < {name} <= 1, got {value}.")


def fraction(**values: float) -> None:
    """Refuse values outside (0, 1)."""
    for name, value in values.items():
        if not 0 < value < 1:
            raise ConfigurationError(f"Expected 0 < {name} < 1, got {value}.")


def one_of(allowed: Collection[str], **values: str) -> None:
    """Refuse names that are not in `allowed`."""
    for name, value in values.items():
        if value not in allowed:
            listed = ", ".join(sorted(allowed))
            raise ConfigurationError(f"Expected {name} to be one of {listed}, got {value!r}.")
