"""Attributes of a user and contexts of a request: those that follow from the time, and their effects on scores.

Contexts are the hour and the weekday, UTC. Effects of what a request tells (an age band, the hour) on a silo's scores
are a file of arrays, as `silo residual` writes it: effects.NAME, float32 [n_values, n_items], and values.NAME, the
values as JSON in bytes. They are fitted to the silo's users, as the residual is, and as private between them; see
`personalisation.fusion`.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from recsys_fed.errors import ConfigurationError, DataFormatError

_EFFECTS, _TEXTS = "effects.", "values."
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


def key_of(value: str, keys: Iterable[str]) -> str | None:
    """The key that is a value, or the band that a whole number is in; None where there is none.

    >>> key_of("F", ["F", "M"]), key_of("25", ["10 to 19", "20 to 29"]), key_of("30", ["20 to 29"])
    ('F', '20 to 29', None)
    """
    bands = []
    for key in keys:
        if key == value:
            return key
        first, _, last = key.partition(" to ")
        if first.isdecimal() and last.isdecimal():
            bands.append((int(first), int(last), key))
    if not (value.isascii() and value.isdecimal()):
        return None
    return next((key for first, last, key in bands if first <= int(value) <= last), None)


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedEffects:
    """Of one attribute or context.

    Attributes:
        values: row of each value, in order. table: float32 [n_values, n_items], added to the scores.
    """

    values: Mapping[str, int]
    table: npt.NDArray[np.float32]

    def row(self, value: str) -> int | None:
        """The row of a value, or of the band that a whole number is in; None where there is none.

        >>> effects = PackedEffects(values={"20 to 29": 0}, table=np.zeros((1, 2), dtype=np.float32))
        >>> effects.row("25"), effects.row("30")
        (0, None)
        """
        key = key_of(value, self.values)
        return None if key is None else self.values[key]


def write_effects(file: IO[bytes], effects: Mapping[str, PackedEffects]) -> None:
    """Write what `read_effects` reads."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, one in effects.items():
        values = json.dumps(list(one.values)).encode()
        arrays |= {_EFFECTS + name: one.table, _TEXTS + name: np.frombuffer(values, dtype=np.uint8)}
    np.savez(file, allow_pickle=False, **arrays)


def read_effects(path: Path, *, n_items: int) -> Mapping[str, PackedEffects]:
    """Effects by name; none where there is no file.

    Raises:
        DataFormatError: it is damaged, or of other items.
    """
    if not path.is_file():
        return {}
    found = {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for name in [one.removeprefix(_EFFECTS) for one in arrays.files if one.startswith(_EFFECTS)]:
                values = json.loads(arrays[_TEXTS + name].tobytes())
                table = np.asarray(arrays[_EFFECTS + name], dtype=np.float32)
                if table.shape != (len(values), n_items) or not np.isfinite(table).all():
                    raise DataFormatError(f"Expected effects of {n_items} items in {path}, got {table.shape}.")
                found[name] = PackedEffects(values={str(value): row for row, value in enumerate(values)}, table=table)
    except (OSError, ValueError, KeyError) as error:
        raise DataFormatError(f"Expected effects of attributes in {path}, it is damaged: {error}.") from error
    return found


def used_effects(effects: Mapping[str, PackedEffects], told: Mapping[str, str]) -> list[str]:
    """Names of what is told that has effects."""
    return [name for name, one in effects.items() if one.row(told.get(name, "")) is not None]


def sum_effects(effects: Mapping[str, PackedEffects], told: Mapping[str, str]) -> npt.NDArray[np.float32] | None:
    """What is added to the scores of all items, [n_items], by what is told; None where nothing of it has effects."""
    parts = [effects[name].table[effects[name].row(told[name])] for name in used_effects(effects, told)]
    return np.asarray(np.sum(parts, axis=0), dtype=np.float32) if parts else None
