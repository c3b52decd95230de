"""Robots and absurd bursts: whose events come faster than a person acts, they are put aside and reported."""

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from recsys_fed.serving.settings import FeedbackSettings

_DAY = 86_400.0
_USERS = 100_000


@dataclass(kw_only=True)
class _Recent:
    times: deque[float] = field(default_factory=deque)
    day_started: float = 0.0
    day_count: int = 0
    until: float = 0.0


@dataclass(frozen=True, kw_only=True)
class _Verdict:
    """Whether an event counts; `since` is set where a robot was just found: its events from then on do not either."""

    accepted: bool
    since: float | None = None
    reason: str = ""


class BotFilter:
    """Looks at when each user's new events arrive, at nothing else: what is sent again is no behaviour.

    Users that are quiet for long are dropped first.
    """

    def __init__(self, settings: FeedbackSettings) -> None:
        self._settings = settings
        self._users: OrderedDict[str, _Recent] = OrderedDict()
        self.found: OrderedDict[str, str] = OrderedDict()

    def is_quarantined(self, user: str, *, now: float) -> bool:
        """Whether what the user does now is put aside; asking changes nothing."""
        recent = self._users.get(user)
        return recent is not None and now < recent.until

    def judge(self, user: str, *, now: float) -> _Verdict:
        """Count an event of a user at `now` (seconds); further events extend a quarantine."""
        settings, recent = self._settings, self._recent(user)
        if now < recent.until:
            recent.until = now + settings.quarantine_seconds
            return _Verdict(accepted=False, reason="in quarantine")
        recent.times.append(now)
        while recent.times[0] <= now - settings.burst_seconds:
            recent.times.popleft()
        if now - recent.day_started >= _DAY:
            recent.day_started, recent.day_count = now, 0
        recent.day_count += 1
        if len(recent.times) > settings.burst_events:
            found = f"more than {settings.burst_events} events in {settings.burst_seconds:g} s"
            return self._quarantine(user, recent, now=now, since=recent.times[0], reason=found)
        if recent.day_count > settings.daily_events:
            found = f"more than {settings.daily_events} events in a day"
            return self._quarantine(user, recent, now=now, since=recent.day_started, reason=found)
        return _Verdict(accepted=True)

    def forget(self, user: str) -> None:
        """Drop what is known of a user."""
        self._users.pop(user, None)
        self.found.pop(user, None)

    def _recent(self, user: str) -> _Recent:
        recent = self._users.setdefault(user, _Recent())
        self._users.move_to_end(user)
        if len(self._users) > _USERS:
            self._users.popitem(last=False)
        return recent

    def _quarantine(self, user: str, recent: _Recent, *, now: float, since: float, reason: str) -> _Verdict:
        recent.until = now + self._settings.quarantine_seconds
        recent.times.clear()
        self.found[user] = reason
        if len(self.found) > _USERS:
            self.found.popitem(last=False)
        return _Verdict(accepted=False, since=since, reason=reason)
