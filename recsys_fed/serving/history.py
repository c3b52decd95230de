"""A user's history as the service counts it: one level an item, the strongest of its events."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from recsys_fed.serving.events import IMPORTED, Event, consumes, is_dislike, level
from recsys_fed.serving.release import Release, Rows
from recsys_fed.serving.settings import FeedbackSettings

# Side by side in an experiment, and the one before.
_VERSIONS = 4


@dataclass(frozen=True, kw_only=True)
class Change:
    """What an event changed: the item's level before and after; None is not in the history."""

    item: str
    before: float | None
    after: float | None


@dataclass(kw_only=True)
class UserHistory:
    """What one user did.

    Attributes:
        levels: by item id, log2 of its weight seen from time 0 (see `events.level`).
        consumed: items that are not to be recommended.
        last_number: of the newest event in it.
        rows_of: rows of the consumed items under model versions, kept until there is one more.
    """

    levels: dict[str, float] = field(default_factory=dict)
    consumed: set[str] = field(default_factory=set)
    last_number: int = 0
    rows_of: dict[str, Rows] = field(default_factory=dict)

    def consumed_rows(self, release: Release) -> Rows:
        """Rows of the consumed items that the catalogue has, ascending."""
        rows = self.rows_of.get(release.version)
        if rows is None:
            if len(self.rows_of) >= _VERSIONS:
                self.rows_of.clear()
            rows = self.rows_of[release.version] = release.rows(self.consumed)
        return rows

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
        if event.item not in self.consumed and consumes(event, settings):
            self.consumed.add(event.item)
            self.rows_of.clear()
        before = self.levels.get(event.item)
        if is_dislike(event, settings):
            self.levels.pop(event.item, None)
            return Change(item=event.item, before=before, after=None) if before is not None else None
        new = level(event, settings)
        if before is not None and new <= before:
            return None
        self.levels[event.item] = new
        return Change(item=event.item, before=before, after=new)


def history_of(events: Sequence[Event], settings: FeedbackSettings) -> UserHistory:
    """The history of one user's events, in the order of the log."""
    history, first = UserHistory(), 0
    if not settings.half_life_days:
        # A log begins with what was imported, all of one weight: most of a history, taken in at once.
        first = next((n for n, e in enumerate(events) if e.kind != IMPORTED or not e.accepted), len(events))
    if first:
        items = [event.item for event in events[:first]]
        history.levels = dict.fromkeys(items, level(events[0], settings))
        history.consumed.update(items)
        history.last_number = max(event.number for event in events[:first])
    for event in events[first:]:
        history.apply(event, settings)
    return history
