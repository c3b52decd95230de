"""What users do, and how much each kind of it counts."""

import math
from typing import NamedTuple

from recsys_fed.serving.settings import FeedbackSettings

FEEDBACK_KINDS = ("view", "click", "like", "buy", "rating", "dislike")
IMPORTED = "imported"
# Seconds since 1970 at the start of 1990. No shop had a log before: a smaller number is a position, not a time.
EARLIEST = 631_152_000.0
# Stands in the log where an imported interaction has no time: all that have one come after it.
UNTIMED = -(2.0**63)
# What a user has done with an item so that it is not recommended any more; "view" and "click" only if so configured.
_CONSUMED = frozenset({"like", "buy", "rating", "dislike", IMPORTED})
_SECONDS_A_DAY = 86_400.0


class Event(NamedTuple):
    """One act of one user. It never leaves the silo. A tuple, because histories are made of thousands of them.

    Attributes:
        user, item: ids as the silo's application has them.
        kind: one of FEEDBACK_KINDS, or "imported" from the silo's interactions.
        value: of a rating. received: when it came in, seconds since 1970.
        time: when it happened, seconds since 1970; of an imported one below EARLIEST its position, or UNTIMED.
        key: what makes the event one: the same key twice is one event. None for imported ones.
        request: of the recommendation that it answers, or None.
        number: its place in the silo's log, 0 before it is there.
        accepted: False where it was put aside as a robot's.
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


def is_dislike(event: Event, settings: FeedbackSettings) -> bool:
    """Whether the event says that the user does not want the item."""
    rated_low = event.kind == "rating" and event.value is not None and event.value < settings.rating_minimum
    return event.kind == "dislike" or rated_low


def level(event: Event, settings: FeedbackSettings) -> float:
    """log2 of what the event weighs, seen from time 0: all events age alike, so their order never changes.

        weight at time t = 2^(level - t / half life)

    >>> level(Event(user="u", item="i", kind="view", time=0.0), FeedbackSettings(view=0.25))
    -2.0
    """
    age = aged(happened(event), settings)
    weight = float(getattr(settings, event.kind))
    return age if weight == 1.0 else math.log2(weight) + age


def happened(event: Event) -> float:
    """Since when the event ages, seconds since 1970: since it came in where it has no time, or one later than that.

    >>> happened(Event(user="u", item="i", kind="imported", time=7.0, received=1.7e9))
    1700000000.0
    """
    if event.time < EARLIEST:
        return event.received
    return min(event.time, event.received) if event.received else event.time


def aged(time: float, settings: FeedbackSettings) -> float:
    """How many half lives lie between time 0 and `time`; 0 where events do not age."""
    if not settings.half_life_days:
        return 0.0
    return time / (settings.half_life_days * _SECONDS_A_DAY)


def consumes(event: Event, settings: FeedbackSettings) -> bool:
    """Whether the item is not to be recommended to this user after the event."""
    return settings.exclude_viewed or event.kind in _CONSUMED
