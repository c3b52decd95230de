"""The context of an interaction or a request that follows from its time: hour and weekday, UTC."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from recsys_fed.errors import ConfigurationError

_HOUR, _DAY = 3_600 * 10**9, 24 * 3_600 * 10**9
_HOURS_A_BAND = 4
_WEEKDAYS = np.array(["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"], dtype=object)
_BANDS = np.array([f"{first} to {first + _HOURS_A_BAND - 1}" for first in range(0, 24, _HOURS_A_BAND)], dtype=object)

Times = npt.NDArray[np.int64]
Texts = npt.NDArray[np.object_]

_VALUES: dict[str, Callable[[Times], Texts]] = {
    "hour": lambda time: _BANDS[time % _DAY // (_HOURS_A_BAND * _HOUR)],
    # 1970 began on a Thursday.
    "weekday": lambda time: _WEEKDAYS[(time // _DAY + 3) % 7],
}
"""Name -> value of each time, int64 nanoseconds since 1970; what is before 1970 is no time, and has the value ""."""
TIMED = tuple(_VALUES)


def parse_contexts(text: str) -> tuple[str, ...]:
    """Names of contexts that follow from the time.

    >>> parse_contexts("hour, weekday")
    ('hour', 'weekday')

    Raises:
        ConfigurationError: another name.
    """
    names = tuple(filter(None, (name.strip() for name in text.split(","))))
    for name in names:
        if name not in TIMED:
            raise ConfigurationError(f"Expected contexts of {', '.join(TIMED)}, got {name!r}.")
    return names


def contexts_at(time: Times, names: tuple[str, ...]) -> dict[str, Texts]:
    """Values of the named contexts at each time, object arrays of str [n].

    >>> contexts_at(np.array([0]), ("hour", "weekday"))
    {'hour': array(['0 to 3'], dtype=object), 'weekday': array(['Thursday'], dtype=object)}
    """
    return {name: np.where(time >= 0, _VALUES[name](np.maximum(time, 0)), "") for name in names}
