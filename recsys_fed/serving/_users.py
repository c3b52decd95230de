"""The users that are held in memory: read from the log when first asked for, kept right with each event."""

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np

from recsys_fed.serving.fold_in import NormalEquations, build_equations
from recsys_fed.serving.history import Event, UserHistory, build_history, half_lives
from recsys_fed.serving.packed_model import Floats, PackedModel
from recsys_fed.serving.settings import FeedbackSettings
from recsys_fed.serving.store import FeedbackStore

# A vector is solved anew when its history has aged by so many half lives.
_FRESH = 1e-3
# Sums take dim^2 numbers a user: those of so many users are held, of the others only the vectors.
_EQUATIONS = 1_000


@dataclass(kw_only=True, eq=False)
class _Folded:
    """A user under one model version."""

    release: PackedModel
    equations: NormalEquations | None
    vector: Floats
    at: float  # half lives


@dataclass(kw_only=True, eq=False)
class _User:
    """One user in memory."""

    history: UserHistory
    folded: dict[str, _Folded] = field(default_factory=dict)
    # Of the running experiment; None before the user's first list.
    variant: str | None = None


class Users:
    """Owned by the event loop's thread; only reading the log happens in others.

    Guarantees: what is held of a user follows from the released model and that user's own events. An event that was
    handed to `apply` is in every vector that is asked for afterwards. `drop` leaves nothing behind.
    """

    def __init__(
        self, store: FeedbackStore, settings: FeedbackSettings, *, cached: int, experiment: str = ""
    ) -> None:
        self._store, self._settings, self._cached, self._experiment = store, settings, cached, experiment
        self._users: OrderedDict[str, _User] = OrderedDict()
        self._with_equations: OrderedDict[str, None] = OrderedDict()
        self._loading: dict[str, asyncio.Task[_User]] = {}
        self._outdated: set[str] = set()

    def __len__(self) -> int:
        return len(self._users)

    async def get(self, name: str) -> _User:
        """A user, from memory or from the log; one without events has an empty history."""
        user = self._users.get(name)
        if user is not None:
            self._users.move_to_end(name)
            return user
        task = self._loading.get(name)
        if task is None:
            task = asyncio.create_task(self._load(name))
            self._loading[name] = task
        return await asyncio.shield(task)

    def variant(self, name: str) -> str | None:
        """The variant of a user's first list, where the user is in memory and has had one."""
        user = self._users.get(name)
        return None if user is None else user.variant

    def apply(self, event: Event) -> None:
        """Take in an event that is durable."""
        if event.user in self._loading:
            # The log may have been read before the event was there.
            self._outdated.add(event.user)
        user = self._users.get(event.user)
        if user is None:
            return
        change = user.history.apply(event, self._settings)
        if change is None:
            return
        for folded in user.folded.values():
            if folded.equations is not None:
                folded.equations.update(change, user.history)
            folded.at = -np.inf

    def names(self) -> list[str]:
        """Whoever is in memory, or on the way there."""
        return [*self._users, *self._loading]

    def drop(self, name: str) -> None:
        """Forget what is held of a user; it is read from the log when asked for again."""
        self._users.pop(name, None)
        self._with_equations.pop(name, None)
        if name in self._loading:
            self._outdated.add(name)

    def vector(self, name: str, user: _User, release: PackedModel, *, now: float | None = None) -> Floats:
        """The user's vector under a model version, float32 [dim]; `now` in seconds."""
        at = half_lives(time.time() if now is None else now, self._settings)
        folded = user.folded.get(release.version)
        if folded is not None and at - folded.at <= _FRESH:
            return folded.vector
        equations = self.equations(name, user, release)
        folded = user.folded[release.version]
        folded.vector, folded.at = equations.solve(now=at).astype(np.float32), at
        return folded.vector

    def equations(self, name: str, user: _User, release: PackedModel) -> NormalEquations:
        """The user's sums under a model version; those of versions that are not asked for any more are let go."""
        folded = user.folded.get(release.version)
        if folded is None or folded.equations is None:
            equations = build_equations(release, user.history)
            nothing = np.zeros(release.dim, dtype=np.float32)
            folded = _Folded(release=release, equations=equations, vector=nothing, at=-np.inf)
            if len(user.folded) >= 4:  # versions side by side in an experiment, and the one before
                user.folded.clear()
            user.folded[release.version] = folded
        self._remember(name)
        found = folded.equations
        if found is None:
            raise RuntimeError("equations were just made")
        return found

    async def _load(self, name: str) -> _User:
        try:
            while True:
                self._outdated.discard(name)
                events, variant = await asyncio.to_thread(self._read, name)
                if name not in self._outdated:
                    break
            user = _User(history=build_history(events, self._settings), variant=variant)
            self._users[name] = user
            if len(self._users) > self._cached:
                oldest, _ = self._users.popitem(last=False)
                self._with_equations.pop(oldest, None)
            return user
        finally:
            self._loading.pop(name, None)
            self._outdated.discard(name)

    def _read(self, name: str) -> tuple[list[Event], str | None]:
        variant = self._store.first_variant(name, self._experiment) if self._experiment else None
        return self._store.of_user(name), variant

    def _remember(self, name: str) -> None:
        self._with_equations[name] = None
        self._with_equations.move_to_end(name)
        if len(self._with_equations) > _EQUATIONS:
            oldest, _ = self._with_equations.popitem(last=False)
            user = self._users.get(oldest)
            for folded in user.folded.values() if user is not None else ():
                folded.equations = None
