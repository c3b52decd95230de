"""What users do, how much each kind of it counts, and a user's history: one level an item, the strongest event."""

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recsys_fed.serving.packed_model import PackedModel, Rows
from recsys_fed.serving.settings import FeedbackSettings

IMPORTED = "imported"
# Seconds since 1970 at the start of 1990. No shop had a log before: a smaller number is a position, not a time.
EARLIEST = 631_152_000.0
# Stands in the log where an imported interaction has no time: all that have one come after it.
UNTIMED = -(2.0**63)
# What a user has done with an item so that it is not recommended any more; "view", "click" and "cart"
# only if so configured.
_CONSUMED = frozenset({"like", "buy", "rating", "dislike", IMPORTED})
SECONDS_A_DAY = 86_400.0


class Event(NamedTuple):
    """One act of one user. It never leaves the silo. A tuple, because histories are made of thousands of them.

    Attributes:
        user, item: ids as the silo's application has them.
        kind: one that `FeedbackSettings` weighs ("imported" from the silo's interactions), or "dislike".
        value: of a rating. received: when it came in, seconds since 1970.
        time: when it happened, seconds since 1970; of an imported one below EARLIEST its position, or UNTIMED.
        key: what makes the event one: the same key twice, of one user and source, is one event. None if imported.
        request: of the recommendation that it answers, or None.
        number: its place in the silo's log, 0 before it is there.
        accepted: False where it was put aside as a robot's.
        source: who reported it: the name of a token, "" for imported ones and those of the version before.
    """

    user: str
    item: str
    kind: str
    time: float
    value: float | None = None
    key: str | None = None
    request: str | None = None
    number: int = 0
    accepted: bool = True
    received: float = 0.0
    source: str = ""


def _is_dislike(event: Event, settings: FeedbackSettings) -> bool:
    """Whether the event says that the user does not want the item."""
    rated_low = event.kind == "rating" and event.value is not None and event.value < settings.rating_minimum
    return event.kind == "dislike" or rated_low


def _level_of(event: Event, settings: FeedbackSettings) -> float:
    """log2 of what the event weighs, seen from time 0: all events age alike, so their order never changes.

        weight at time t = 2^(level - t / half life)

    >>> _level_of(Event(user="u", item="i", kind="view", time=0.0), FeedbackSettings(view=0.25))
    -2.0
    """
    age = half_lives(event_time(event), settings)
    weight = float(getattr(settings, event.kind))
    return age if weight == 1.0 else math.log2(weight) + age


def event_time(event: Event) -> float:
    """Since when the event ages, seconds since 1970: since it came in where it has no time, or one later than that.

    >>> event_time(Event(user="u", item="i", kind="imported", time=7.0, received=1.7e9))
    1700000000.0
    """
    if event.time < EARLIEST:
        return event.received
    return min(event.time, event.received) if event.received else event.time


def half_lives(time: float, settings: FeedbackSettings) -> float:
    """How many half lives lie between time 0 and `time`; 0 where events do not age."""
    if not settings.half_life_days:
        return 0.0
    return time / (settings.half_life_days * SECONDS_A_DAY)


def _consumes(event: Event, settings: FeedbackSettings) -> bool:
    """Whether the item is not to be recommended to this user after the event."""
    return settings.exclude_viewed or event.kind in _CONSUMED


def _last_seen(event: Event) -> float:
    """When it happened, seconds since 1970; UNTIMED for an imported one without a time."""
    return UNTIMED if event.kind == IMPORTED and event.time < EARLIEST else event_time(event)


# Side by side in an experiment, and the one before.
_VERSIONS = 4


@dataclass(frozen=True, kw_only=True)
class Change:
    """What an event changed: the item's level before and after (None is not in the history), and its place."""

    item: str
    before: float | None
    after: float | None
    place_before: int = 0
    place_after: int = 0


@dataclass(kw_only=True)
class UserHistory:
    """What one user did.

    Attributes:
        levels: by item id, log2 of its weight seen from time 0 (see `_level_of`).
        places: by item id, which event of the history was its last, counted from 1. A model with a half-life in
            positions weighs by them (`fold_in.known_levels`).
        times: by place - 1, when the item of that event was last seen by then, seconds since 1970, or UNTIMED. A
            model with a half-life in days weighs by them.
        consumed: items that are not to be recommended; a dict, which the garbage collector does not walk through.
        last_number: of the newest event in it.
        rows_of: rows of the consumed items under model versions, kept until there is one more.
    """

    levels: dict[str, float] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)
    times: "array[float]" = field(default_factory=lambda: array("d"))
    consumed: dict[str, None] = field(default_factory=dict)
    last_number: int = 0
    rows_of: dict[str, Rows] = field(default_factory=dict)

    @property
    def newest(self) -> int:
        """The place of the newest event."""
        return len(self.times)

    def times_of(self, items: Iterable[str]) -> npt.NDArray[np.float64]:
        """When each was last seen, seconds since 1970, float64 [n]; UNTIMED where no event of it has a time."""
        return np.array([self.times[self.places[item] - 1] for item in items], dtype=np.float64)

    def consumed_rows(self, release: PackedModel) -> Rows:
        """Rows of the consumed items that the catalogue has, ascending."""
        rows = self.rows_of.get(release.version)
        if rows is None:
            if len(self.rows_of) >= _VERSIONS:
                self.rows_of.clear()
            rows = self.rows_of[release.version] = release.rows(self.consumed)
        return rows

    def answered_rows(self, release: PackedModel) -> Rows:
        """Rows of the items of which anything is known, liked or not, ascending."""
        return np.union1d(self.consumed_rows(release), release.rows(set(self.levels)))

    def apply(self, event: Event, settings: FeedbackSettings) -> Change | None:
        """Take in an event; None where it changed nothing, was put aside or is in already.

        A dislike takes the item out of the history. Otherwise the strongest event since the last dislike counts, so
        that a thousand clicks on one item weigh as one.
        """
        if event.number and event.number <= self.last_number:
            return None
        self.last_number = max(self.last_number, event.number)
        if not event.accepted:
            return None
        if event.item not in self.consumed and _consumes(event, settings):
            self.consumed[event.item] = None
            self.rows_of.clear()
        before, place = self.levels.get(event.item), self.places.get(event.item, 0)
        if _is_dislike(event, settings):
            self.levels.pop(event.item, None)
            self.places.pop(event.item, None)
            return None if before is None else Change(item=event.item, before=before, after=None, place_before=place)
        new = _level_of(event, settings)
        after = new if before is None else max(before, new)
        seen = _last_seen(event)
        # An event may come later than one that happened after it.
        self.times.append(max(seen, self.times[place - 1]) if place else seen)
        self.levels[event.item], self.places[event.item] = after, self.newest
        return Change(item=event.item, before=before, after=after, place_before=place, place_after=self.newest)


def build_history(events: Sequence[Event], settings: FeedbackSettings) -> UserHistory:
    """The history of one user's events, in the order of the log."""
    history, first = UserHistory(), 0
    if not settings.half_life_days:
        # A log begins with what was imported, all of one weight: most of a history, taken in at once.
        first = next((n for n, e in enumerate(events) if e.kind != IMPORTED or not e.accepted), len(events))
    if first:
        items = [event.item for event in events[:first]]
        history.levels = dict.fromkeys(items, _level_of(events[0], settings))
        history.places = {item: place for place, item in enumerate(items, start=1)}
        history.times = array("d", map(_last_seen, events[:first]))
        history.consumed.update(dict.fromkeys(items))
        history.last_number = max(event.number for event in events[:first])
    for event in events[first:]:
        history.apply(event, settings)
    return history
