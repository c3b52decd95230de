"""The service without HTTP: recommend, explain, take in feedback, forget."""

import asyncio
import math
import secrets
import time
from array import array
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest

from recsys_fed.errors import ConfigurationError
from recsys_fed.serving._background import BackgroundWork
from recsys_fed.serving._bot_filter import BotFilter
from recsys_fed.serving._forgetting import FORGET_STATEMENT, Forgetting, in_time
from recsys_fed.serving._ranking import Page, Ranked, Ranker
from recsys_fed.serving._ratings import check_orders, ratings_in
from recsys_fed.serving._users import Users
from recsys_fed.serving._walks import LONGEST_WALK, cursor_of, rows_shown, version_of
from recsys_fed.serving._writer import FeedbackWriter
from recsys_fed.serving.diversity import RerankWeights, tail_of
from recsys_fed.serving.experiment import assign_variant
from recsys_fed.serving.fold_in import Explanation, build_equations, explain, taste_precision
from recsys_fed.serving.history import UNTIMED, Event, UserHistory, half_lives
from recsys_fed.serving.packed_model import Floats, Rows
from recsys_fed.serving.questions import propose_questions
from recsys_fed.serving.search import best_of_many
from recsys_fed.serving.settings import ServingSettings, Variant
from recsys_fed.serving.store import OF_FORGOTTEN, FeedbackStore
from recsys_fed.serving.versions import Served, Versions

# Upper bounds of latency buckets in seconds; the last is open.
_BOUNDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1.0)
_RECENT_SECONDS = 60
disable_created_metrics()  # type: ignore[no-untyped-call]


class _Telemetry:
    """Counts and latencies of one service; no user and no item is in them."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "recsys_fed_requests", "Requests by route and status.", ("route", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "recsys_fed_request_seconds", "Latency.", ("route",), registry=self._registry, buckets=_BOUNDS
        )
        self._counters: dict[str, Counter] = {}
        self.counts: dict[str, int] = {}
        self._recent: deque[tuple[float, float]] = deque(maxlen=20_000)

    def request(self, route: str, status: int, *, seconds: float, now: float) -> None:
        """Count a request; `route` is the path's pattern, never the path itself, which may hold a user's id."""
        self._requests.labels(route, status).inc()
        self._seconds.labels(route).observe(seconds)
        self._recent.append((now, seconds))

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter."""
        if name not in self._counters:
            self._counters[name] = Counter(f"recsys_fed_{name}", f"{name}.", registry=self._registry)
        self._counters[name].inc(by)
        self.counts[name] = self.counts.get(name, 0) + by

    def recent(self, *, now: float) -> dict[str, float]:
        """Requests a second and latency quantiles (ms) of the last minute, from at most 20,000 requests."""
        times = sorted(seconds for then, seconds in self._recent if then > now - _RECENT_SECONDS)
        if not times:
            return {"requests_per_second": 0.0, "p50_ms": math.nan, "p99_ms": math.nan}
        quantile = {q: times[min(len(times) - 1, int(q * len(times)))] for q in (0.5, 0.99)}
        return {
            "requests_per_second": len(times) / _RECENT_SECONDS,
            "p50_ms": 1e3 * quantile[0.5],
            "p99_ms": 1e3 * quantile[0.99],
        }

    def text(self) -> str:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry).decode()


# A batch works for so long at a time, then lets others go first for as long.
_SLICE_SECONDS = 0.002
_LATENESS, _LONGEST_PAUSE = 4.0, 0.1
_BATCH_USERS = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class UserList:
    """A list of a batch."""

    user: str
    known: bool
    rows: Rows
    scores: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """A recommendation: the version and variant it was made with, and the page."""

    served: Served
    variant: str
    basis: str
    request: str
    ranked: Ranked
    shown: tuple[int, ...] = ()
    unknown: tuple[str, ...] = ()
    mapped: Mapping[str, str] | None = None

    @property
    def cursor(self) -> str | None:
        """Of the next page; None where the list, or the longest walk, is over."""
        shown = (*self.shown, *self.ranked.rows.tolist())
        if not self.ranked.more or len(shown) >= LONGEST_WALK:
            return None
        return cursor_of(self.served.release, shown)


class RecommendationService:
    """Owned by one event loop. A request takes one model version at its start and uses no other."""

    def __init__(
        self,
        settings: ServingSettings,
        store: FeedbackStore,
        versions: Versions,
        *,
        key: bytes,
        seed: int | None = None,
        budget: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        """Serve from a store and the versions of a folder.

        Args:
            settings, store, versions: what to serve.
            key: of the assignment of users to variants.
            seed: of exploration; None takes the system's randomness.
            budget: what the silo's ledger says is left, for the operators' page.
        """
        self.budget = budget
        self.settings, self.store, self.versions, self._key = settings, store, versions, key
        self.writer = FeedbackWriter(store)
        experiment = settings.experiment
        self.users = Users(store, settings.feedback, cached=settings.api.cached_users, experiment=experiment.name)
        self.background = BackgroundWork()
        self.forgetting = Forgetting(store, self.writer)
        self._batches = asyncio.Lock()
        store.note_settings(
            rating_minimum=settings.feedback.rating_minimum,
            experiment=experiment.name,
            shares={variant.name: variant.share for variant in experiment.variants},
        )
        self.guard = BotFilter(settings.feedback)
        self.telemetry = _Telemetry()
        self.started = time.time()
        self._rng = np.random.default_rng(seed)
        self._new_ids = _lines(settings.exploration.new_items)
        self._rankers: dict[tuple[str, str], Ranker] = {}
        self._pinned = {
            variant.name: versions.load(variant.model)
            for variant in settings.experiment.variants
            if variant.model not in ("current", "previous")
        }
        self._check_personalisation(versions.current)

    @property
    def mode(self) -> str:
        """The privacy mode: `user-only`, or `silo-trusted` where the silo's residual model is used."""
        return "silo-trusted" if self.versions.current.release.residual is not None else "user-only"

    async def recommend(self, name: str, page: Page, *, cursor: str | None = None) -> Answer:
        """A page of the list of a known user; of a user without events, by what is popular in the released model.

        Raises:
            ConfigurationError: the cursor is none, or a page by its offset is asked for where lists are explored.
            StoreBusyError: the log could not be read in time.
        """
        if page.offset and self.settings.exploration.method != "none":
            raise ConfigurationError(
                "Expected the cursor of the page before instead of an offset: lists are explored."
            )
        user = await in_time(self.users.get(name))
        variant = self.variant_of(name)
        if self.settings.experiment.name and user.variant is None and variant is not None:
            user.variant = variant.name
        served = self._served(variant) if cursor is None else self._walked(cursor)
        release = served.release
        check_orders(release)
        page = page if cursor is None else replace(page, shown=rows_shown(cursor, release))
        known = any(item in release.row_of for item in user.history.levels)
        vector = self.users.vector(name, user, release)
        explores = known and self.settings.exploration.method != "none" and (variant is None or variant.explore)
        precision = (lambda: taste_precision(release, user.history)) if explores else None
        ranked = self._ranker(served, variant).page(vector, user.history, page, now=self._now(), precision=precision)
        answer = Answer(
            served=served,
            variant=variant.name if variant is not None else "",
            basis="history" if known else "popularity",
            request=secrets.token_hex(12),
            ranked=ranked,
            shown=page.shown,
        )
        self._log_exposure(name, answer)
        return answer

    async def recommend_many(self, names: Sequence[str], limit: int) -> AsyncGenerator[UserList, None]:
        """Lists of many known users from the version in use now; one batch at a time, in slices between requests.

        Raises:
            ConfigurationError: the version has a residual, which batches do not use.
        """
        release = self.versions.current.release
        check_orders(release)
        if release.residual is not None:
            raise ConfigurationError("Expected single requests: batches do not use the silo's residual.")
        async with self._batches:
            for start in range(0, len(names), _BATCH_USERS):
                some, vectors, users = names[start : start + _BATCH_USERS], [], []
                began = time.perf_counter()
                for name in some:
                    user = await in_time(self.users.get(name))
                    vectors.append(self.users.vector(name, user, release))
                    users.append(user)
                    began = await _let_others(began)
                without = [user.history.consumed_rows(release) for user in users]
                rows, scores = best_of_many(release, np.stack(vectors), limit, without=without)
                for name, user, own, values in zip(some, users, rows, scores, strict=True):
                    known = any(item in release.row_of for item in user.history.levels)
                    yield UserList(user=name, known=known, rows=own[own >= 0], scores=values[own >= 0])
                    began = await _let_others(began)

    def recommend_history(
        self, items: Sequence[str], page: Page, *, texts: Sequence[str] = (), cursor: str | None = None
    ) -> Answer:
        """A page for a raw history of an anonymous visitor, the newest item last; nothing of it is kept.

        Items that the catalogue lacks are left out and named; texts are mapped to the nearest title.
        """
        served = self.versions.current if cursor is None else self._walked(cursor)
        release = served.release
        check_orders(release)
        page = page if cursor is None else replace(page, shown=rows_shown(cursor, release))
        mapped = {text: served.titles.nearest(text) for text in texts}
        found = [release.item_ids[row] for row in mapped.values() if row is not None]
        unknown = tuple(item for item in items if item not in release.row_of)
        unknown += tuple(text for text, row in mapped.items() if row is None)
        chosen = [item for item in items if item in release.row_of]
        session = (*chosen, *found)
        history = UserHistory(
            levels=dict.fromkeys(session, 0.0),
            places={item: place for place, item in enumerate(session, start=1)},
            times=array("d", [UNTIMED]) * len(session),
            consumed=dict.fromkeys(session),
        )
        vector = build_equations(release, history).solve(now=0.0).astype(np.float32)
        ranked = self._ranker(served, None).page(vector, history, page, now=0.0, precision=None)
        basis = "history" if chosen else "text" if found else "popularity"
        named = {text: release.item_ids[row] for text, row in mapped.items() if row is not None}
        return Answer(
            served=served,
            variant="",
            basis=basis,
            request=secrets.token_hex(12),
            ranked=ranked,
            shown=page.shown,
            unknown=unknown,
            mapped=named,
        )

    async def explain(self, name: str, item: str) -> tuple[Served, Explanation]:
        """What each item of a user's history adds to a score; raises ConfigurationError for an unknown `item`."""
        user = await in_time(self.users.get(name))
        served = self._served(self.variant_of(name))
        check_orders(served.release)
        row = served.release.row_of.get(item)
        if row is None:
            raise ConfigurationError("Expected an item of the catalogue, got an unknown one.")
        return served, explain(served.release, user.history, row, now=self._now())

    async def questions(self, name: str, limit: int) -> tuple[Served, Rows, Floats]:
        """Items to ask a known or new user about; see `propose_questions`."""
        served = self._served(self.variant_of(name))
        check_orders(served.release)
        user = await in_time(self.users.get(name))
        known = user.history.answered_rows(served.release)
        rows, gains = await asyncio.to_thread(propose_questions, served.release, known, limit)
        return served, rows, gains

    async def ratings_of(self, name: str) -> dict[str, float]:
        """A known user's ratings, by item, from the log."""
        return ratings_in(await in_time(asyncio.to_thread(self.store.of_user, name)))

    async def feedback(self, event: Event) -> Event | None:
        """Take in an event. It is durable, and counts, when this returns; None if it was there already.

        Raises:
            ConfigurationError: its user was forgotten. StoreBusyError: it could not be written in time.
        """
        stored = (await self.feedback_of_many([event]))[0]
        if stored is not None and stored.number == OF_FORGOTTEN:
            raise ConfigurationError(
                "Expected a user who was not forgotten: nothing was taken in. An administrator can readmit the user."
            )
        return stored

    async def feedback_of_many(self, batch: Sequence[Event]) -> list[Event | None]:
        """Take in events, all of them or none: each as it is stored, with number OF_FORGOTTEN where it was not.

        None stands for an event that was there already: such a repetition is no behaviour, and no robot's.
        """
        received = time.time()
        batch = [
            event._replace(accepted=not self.guard.is_quarantined(event.user, now=received), received=received)
            for event in batch
        ]
        numbers = await in_time(asyncio.wrap_future(self.writer.append_all(batch)))
        repeated = numbers.count(None)
        self.telemetry.count("feedback", len(numbers) - repeated)
        self.telemetry.count("feedback_duplicates", repeated)
        found: list[Event | None] = []
        for event, number in zip(batch, numbers, strict=True):
            if number is None:
                # It may be there because of a request that gave up waiting: what is in memory may lack it.
                self.users.drop(event.user)
            found.append(None if number is None else await self._take_in(event._replace(number=number)))
        return found

    async def _take_in(self, event: Event) -> Event:
        """Let a stored event count, or put its user's aside as a robot's."""
        if event.number == OF_FORGOTTEN:
            return event
        # What comes later than it happened was not done at the speed at which it comes.
        if event.time >= event.received - self.settings.feedback.burst_seconds:
            verdict = self.guard.judge(event.user, now=event.received)
            if verdict.since is not None:
                await in_time(asyncio.wrap_future(self.writer.put_aside(event.user, since=verdict.since)))
                self.users.drop(event.user)
            if not verdict.accepted:
                event = event._replace(accepted=False)
        if not event.accepted:
            self.telemetry.count("feedback_quarantined")
        self.users.apply(event)
        return event

    async def forget(self, name: str) -> dict[str, Any]:
        """Remove a user's events, vectors, caches and pending feedback; say what released models still contain.

        The rows are gone when this returns; see `Forgetting` for the last copies of them.
        """
        self.users.drop(name)
        removed, receipt = await in_time(asyncio.wrap_future(self.writer.forget(name)))
        # Once more: a request may have read the log between the two.
        self.users.drop(name)
        self.guard.forget(name)
        self.telemetry.count("forgotten_users")
        state = await self.forgetting.finish(receipt)
        kept = [served for served in (self.versions.current, self.versions.previous) if served is not None]
        models = [{"model": served.name, **served.release.provenance} for served in kept]
        return {**state, "removed": removed, "released_models": models, "statement": FORGET_STATEMENT}

    async def take_noted(self) -> None:
        """Forget whom others have noted in the file of digests: a silo whose users opted out."""
        found = await asyncio.wrap_future(self.writer.take_noted())
        if found:
            held, digest = self.users.names(), self.store.digest
            for name in await asyncio.to_thread(lambda: [one for one in held if digest(one) in found]):
                self.users.drop(name)
                self.guard.forget(name)

    async def readmit(self, name: str) -> bool:
        """Take in what a forgotten user does from now on; False if there is none of this name."""
        return await in_time(asyncio.wrap_future(self.writer.readmit(name)))

    def variant_of(self, name: str) -> Variant | None:
        """The user's variant of the running experiment: that of the first list, whatever the shares are now."""
        experiment = self.settings.experiment
        if not experiment.name:
            return None
        known = self.users.variant(name)
        for variant in experiment.variants:
            if variant.name == known:
                return variant
        return assign_variant(name, experiment.variants, experiment=experiment.name, key=self._key)

    def use(self, served: Served) -> None:
        """Serve another version from the next request on."""
        self._check_personalisation(served)
        self._ranker(served, None)
        self.versions.use(served)
        keep = {
            v.name for v in (self.versions.current, self.versions.previous, *self._pinned.values()) if v is not None
        }
        self._rankers = {key: ranker for key, ranker in self._rankers.items() if key[0] in keep}
        self.telemetry.count("model_take_overs")

    def close(self) -> None:
        """Write what waits, and let go of the store."""
        self.writer.close()
        self.store.close()

    def _now(self) -> float:
        """Half lives since time 0."""
        return half_lives(time.time(), self.settings.feedback)

    def _served(self, variant: Variant | None) -> Served:
        if variant is None or variant.model == "current":
            return self.versions.current
        if variant.model == "previous":
            return self.versions.previous or self.versions.current
        return self._pinned[variant.name]

    def _walked(self, cursor: str) -> Served:
        """The version of a cursor's walk."""
        wanted = version_of(cursor)
        for served in (self.versions.current, self.versions.previous, *self._pinned.values()):
            if served is not None and served.name == wanted:
                return served
        raise ConfigurationError("Expected a cursor of a model that is served. Begin again without one.")

    def _ranker(self, served: Served, variant: Variant | None) -> Ranker:
        key = (served.name, variant.name if variant is not None else "")
        if key not in self._rankers:
            plain = variant if variant is not None else self.settings.rerank
            release = served.release
            self._rankers[key] = Ranker(
                release=release,
                search=served.search,
                rerank=self.settings.rerank,
                breadth=RerankWeights(
                    diversity=plain.diversity, calibration=plain.calibration, group_share=plain.group_share
                ),
                tail=tail_of(release, head_share=self.settings.rerank.head_share),
                exploration=self.settings.exploration,
                new=release.rows(self._new_ids),
                rng=self._rng,
            )
        return self._rankers[key]

    def _log_exposure(self, name: str, answer: Answer) -> None:
        """Log what an experiment or off-policy estimate needs; nothing where there is neither."""
        ranked, release = answer.ranked, answer.served.release
        if not self.settings.experiment.name and ranked.explored is None:
            return
        row: dict[str, Any] = {
            "request": answer.request, "user": name, "time": time.time(), "model": answer.served.name,
            "experiment": self.settings.experiment.name, "variant": answer.variant,
            "item": None, "propensity": None, "score": None, "greedy_item": None, "greedy_score": None,
            "greedy_propensity": None,
        }  # fmt: skip
        if ranked.explored is not None:
            shown = ranked.explored.place
            row |= {
                "item": release.item_ids[int(ranked.explored_rows[shown])],
                "propensity": ranked.explored.propensity,
                "score": float(ranked.explored_scores[shown]),
                "greedy_item": release.item_ids[int(ranked.explored_rows[0])],
                "greedy_score": float(ranked.explored_scores[0]),
                "greedy_propensity": ranked.explored.greedy_propensity,
            }
        self.writer.expose(row)

    def _check_personalisation(self, served: Served) -> None:
        """A residual model is only served where the operator said so."""
        if served.release.residual is not None and self.settings.api.personalisation != "silo-trusted":
            raise ConfigurationError(
                "Expected a model without a residual for personalisation = user-only. Set silo-trusted, "
                "or pack without."
            )


async def _let_others(began: float) -> float:
    """After a slice of work let others go first for as long; returns when the next slice began.

    Waking up late says that there are many of them: then it waits for several times as long as it was late.
    """
    paused = time.perf_counter()
    if paused - began < _SLICE_SECONDS:
        return began
    await asyncio.sleep(_SLICE_SECONDS)
    late = time.perf_counter() - paused - _SLICE_SECONDS
    if late > _SLICE_SECONDS / 2:
        await asyncio.sleep(min(_LATENESS * late, _LONGEST_PAUSE))
    return time.perf_counter()


def _lines(path: str) -> tuple[str, ...]:
    if not path:
        return ()
    return tuple(line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip())
