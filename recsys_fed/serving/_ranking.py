"""One list of recommendations: scores, what is left out, exploration, breadth, a page of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from recsys_fed.context import sum_effects
from recsys_fed.serving.diversity import RerankWeights, genre_profile, rerank
from recsys_fed.serving.exploration import Candidates, Choice, choose
from recsys_fed.serving.fold_in import aged_now, known_levels
from recsys_fed.serving.history import UserHistory
from recsys_fed.serving.packed_model import Floats, PackedModel, Rows
from recsys_fed.serving.search import Search, top_rows
from recsys_fed.serving.settings import ExplorationSettings, RerankSettings


@dataclass(frozen=True, kw_only=True)
class Page:
    """Which part of a list is wanted, and from which items.

    Attributes:
        offset, limit: places offset + 1 to offset + limit.
        shown: rows of earlier pages of the same walk, which are left out; their places come before the offset's.
        blocked: items that are left out. allowed: only these, or None. categories: only items of one of these, or
        None. exclude_consumed: leave out what the user has bought, liked, rated or disliked.
        told: attributes of the user and contexts of the request, name -> value; see `effects`.
    """

    offset: int = 0
    limit: int = 10
    shown: tuple[int, ...] = ()
    blocked: tuple[str, ...] = ()
    allowed: tuple[str, ...] | None = None
    categories: tuple[str, ...] | None = None
    exclude_consumed: bool = True
    told: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranked:
    """A page of a list: rows and scores, and what was explored on it."""

    rows: Rows
    scores: Floats
    more: bool
    explored: Choice | None = None
    explored_rows: Rows = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    explored_scores: Floats = field(default_factory=lambda: np.zeros(0, dtype=np.float32))


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranker:
    """How lists are made under one model version.

    Attributes:
        release, search: the version.
        rerank: how many candidates. breadth: how much of it. tail: items outside the head, bool [n_items].
        exploration: of one place. new: rows that count as new, ascending.
        rng: where exploration draws from.
    """

    release: PackedModel
    search: Search
    rerank: RerankSettings
    breadth: RerankWeights
    tail: npt.NDArray[np.bool_]
    exploration: ExplorationSettings
    new: Rows
    rng: np.random.Generator

    def page(
        self,
        vector: Floats,
        history: UserHistory,
        page: Page,
        *,
        now: float,
        precision: Callable[[], npt.NDArray[np.float64]] | None,
    ) -> Ranked:
        """The page of a user's list.

        Guarantees: a function of the released model, the silo's residual and effects where it has them, this user's
        own events and the request. Without exploration the same arguments give the same page; equal scores go by row.

        Args:
            vector: of the user, float32 [dim].
            history: of the user.
            page: what is wanted.
            now: in half lives since time 0.
            precision: gives A for exploration, or None where nothing is explored.
        """
        explores = (
            precision is not None and not page.offset and not page.shown and self.exploration.position <= page.limit
        )
        wanted = page.offset + page.limit
        depth = max(wanted + 1, self.rerank.candidates if self.breadth.active else 0)
        depth = max(depth, self.exploration.pool + page.limit) if explores else depth
        rows, scores = self._candidates(vector, history, page, depth=depth, now=now)
        order = np.arange(len(rows))
        if self.breadth.active:
            order = self._broaden(rows, scores, history, wanted)
        if explores and precision is not None and len(order) >= self.exploration.position:
            return self._explore(rows, scores, order, page, history, precision())
        more = len(rows) > wanted
        listed = order[page.offset : wanted]
        return Ranked(rows=rows[listed], scores=scores[listed], more=more)

    def _candidates(
        self, vector: Floats, history: UserHistory, page: Page, *, depth: int, now: float
    ) -> tuple[Rows, Floats]:
        """The best rows that may be listed, and their scores."""
        release = self.release
        without = history.consumed_rows(release) if page.exclude_consumed else np.zeros(0, dtype=np.int64)
        if page.blocked:
            without = np.union1d(without, release.rows(page.blocked))
        if page.shown:
            without = np.union1d(without, np.array(page.shown, dtype=np.int64))
        only = self._only(page)
        if only is None and release.residual is None:
            return self.search.best(vector, depth, without=without)
        rows = np.setdiff1d(np.arange(release.n_items) if only is None else only, without, assume_unique=True)
        scores = release.vectors[rows] @ vector + release.bias[rows]
        scores = scores + self._residual(history, now=now)[rows] if release.residual is not None else scores
        added = sum_effects(release.effects, page.told)
        scores = scores if added is None else scores + added[rows]
        best = top_rows(scores, depth)
        return rows[best], scores[best]

    def _only(self, page: Page) -> Rows | None:
        """Rows that the request allows, or None for all."""
        only = None if page.allowed is None else self.release.rows(page.allowed)
        if page.categories is not None:
            known = [
                self.release.category_rows[name] for name in page.categories if name in self.release.category_rows
            ]
            of_kind = np.unique(np.concatenate(known)) if known else np.zeros(0, dtype=np.int64)
            only = of_kind if only is None else np.intersect1d(only, of_kind)
        return only

    def _residual(self, history: UserHistory, *, now: float) -> Floats:
        """What the silo's own item-item weights add, [n_items]: sum_i s_i B_i."""
        rows, levels = known_levels(self.release, history)
        if self.release.residual is None or not len(rows):
            return np.zeros(self.release.n_items, dtype=np.float32)
        strengths = np.exp2(levels - aged_now(self.release, now, history)).astype(np.float32)
        return np.asarray(strengths @ self.release.residual[rows], dtype=np.float32)

    def _broaden(self, rows: Rows, scores: Floats, history: UserHistory, wanted: int) -> Rows:
        """The list's first places re-ranked for breadth, then the others as they were."""
        known, levels = known_levels(self.release, history)
        genres = genre_profile(self.release, known, np.exp2(levels - levels.max()) if len(known) else levels)
        few = min(len(rows), max(self.rerank.candidates, wanted))
        if not few:
            return np.arange(len(rows))
        first = rerank(
            self.release, rows[:few], scores[:few], wanted, breadth=self.breadth, genres=genres, tail=self.tail
        )
        rest = np.setdiff1d(np.arange(len(rows)), first)
        return np.concatenate((first, rest))

    def _explore(
        self, rows: Rows, scores: Floats, order: Rows, page: Page, history: UserHistory, precision:
            npt.NDArray[np.float64]
    ) -> Ranked:  # fmt: skip
        """One place drawn at random; what it would have shown moves down."""
        place = self.exploration.position - 1
        before, pool = order[:place], order[place : place + self.exploration.pool]
        candidates = self._with_new(rows[pool], scores[pool], rows[before], page, history)
        choice = choose(candidates, self.release, precision, settings=self.exploration, rng=self.rng)
        shown = int(candidates.rows[choice.place])
        rest = [p for p in order[place:].tolist() if rows[p] != shown][: page.limit - place - 1]
        return Ranked(
            rows=np.concatenate((rows[before], [shown], rows[rest])).astype(np.int64),
            scores=np.concatenate((scores[before], [candidates.scores[choice.place]], scores[rest])).astype(
                np.float32
            ),
            more=len(rows) > page.limit,
            explored=choice,
            explored_rows=candidates.rows,
            explored_scores=np.asarray(candidates.scores, dtype=np.float32),
        )

    def _with_new(self, rows: Rows, scores: Floats, before: Rows, page: Page, history: UserHistory) -> Candidates:
        """The pool, and behind it the new items that may be shown and are not in it."""
        hidden = history.consumed_rows(self.release) if page.exclude_consumed else np.zeros(0, dtype=np.int64)
        fresh = np.setdiff1d(self.new, np.concatenate((rows, before, hidden, self.release.rows(page.blocked))))
        only = self._only(page)
        fresh = fresh if only is None else np.intersect1d(fresh, only)
        if len(fresh):
            lowest = float(scores.min())
            rows = np.concatenate((rows, fresh))
            # Nothing is known of a new item's score but that the model did not put it into the pool.
            scores = np.concatenate((scores, np.full(len(fresh), lowest, dtype=np.float32)))
        return Candidates(rows=rows, scores=scores, new=np.isin(rows, self.new))
