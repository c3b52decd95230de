"""Experiments: which variant a user sees, and the report from what the service logged.

A user is in the variant of the first list, for ever: another share of the variants changes only who comes later, and
the test takes each user's chance as it was then. What counts for a user is settled when the window after the first
list closes: an event counts if it happened in the window and was received by its end. What comes later, or is put
aside as a robot's later, changes nobody who was counted; forgetting a user does.
"""

import hashlib
import hmac
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa

from recsys_fed.errors import ConfigurationError
from recsys_fed.serving._tables import assignments, events, exposures
from recsys_fed.serving.off_policy import Logged, estimable, estimates
from recsys_fed.serving.sequential_test import compare_arms
from recsys_fed.serving.settings import ExperimentSettings, Variant
from recsys_fed.serving.store import FeedbackStore

_SPAN = float(1 << 64)


def assign_variant(user: str, variants: Sequence[Variant], *, experiment: str, key: bytes) -> Variant:
    """The variant of a user: shares of the users in proportion to the variants' shares.

    The key is the silo's: nobody who lacks it can choose an id that lands in a variant. Another experiment's name
    assigns independently.
    """
    digest = hmac.new(key, f"{experiment}\0{user}".encode(), hashlib.sha256).digest()
    point = int.from_bytes(digest[:8], "big") / _SPAN * sum(variant.share for variant in variants)
    for variant in variants:
        point -= variant.share
        if point < 0:
            return variant
    return variants[-1]


_HOUR = 3_600.0


def experiment_report(
    store: FeedbackStore, settings: ExperimentSettings, *, now: float | None = None
) -> dict[str, Any]:
    """Counts, rates and tests of every variant against the first; may be asked at any time and as often as wanted.

    A user counts once the window after the first list has passed, so that what is asked earlier is a part of what is
    asked later. With several treatments each is tested at level / their number.

    Returns:
        A record of numbers only: no user, no item.

    Raises:
        ConfigurationError: no experiment is configured.
    """
    if not settings.name:
        raise ConfigurationError("There is no [experiment] with a name in the service's settings.")
    now = time.time() if now is None else now
    users = _outcomes(store, settings, until=now - settings.window_hours * _HOUR)
    control, treatments = settings.variants[0], settings.variants[1:]
    chances = _chances(store, settings)
    comparisons = []
    for variant in treatments:
        pair = [
            (one.variant == variant.name, one.outcome, chance)
            for one in users
            if one.variant in (variant.name, control.name)
            if 0.0 < (chance := _pair_chance(chances, one.start, variant.name, control.name)) < 1.0
        ]
        found = compare_arms(
            np.array([arm for arm, _, _ in pair], dtype=bool),
            np.array([outcome for _, outcome, _ in pair], dtype=np.float64),
            share=np.array([chance for _, _, chance in pair], dtype=np.float64),
            level=settings.level / len(treatments),
        )
        comparisons.append({"control": control.name, "treatment": variant.name, **vars(found)})
    return {
        "experiment": settings.name,
        "rewards": settings.rewards,
        "window_hours": settings.window_hours,
        "level": settings.level,
        "variants": [_arm(variant.name, users) for variant in settings.variants],
        "comparisons": comparisons,
        "off_policy": _off_policy_report(store, settings),
    }


@dataclass(frozen=True, kw_only=True)
class _User:
    """Somebody whose window has closed: time of the first list, its variant, and whether there was a success."""

    start: float
    variant: str
    outcome: float


def _off_policy_report(store: FeedbackStore, settings: ExperimentSettings) -> dict[str, Any]:
    """The value of the model's own choice at the explored place, from logged propensities.

    `places` are all, `estimable` those that the estimates are about; see `off_policy`.
    """
    rewards = _rewards(settings)
    shown = exposures.c
    rewarded = sa.exists().where(
        (events.c.request == shown.request) & (events.c.item == shown.item)
        & (events.c.user == shown.user) & events.c.kind.in_(rewards) & events.c.accepted
    )  # fmt: skip
    query = sa.select(
        shown.user, shown.propensity, shown.item == shown.greedy_item, shown.score, shown.greedy_score, rewarded,
        shown.greedy_propensity,
    ).where(shown.propensity.is_not(None))  # fmt: skip
    with store.reading() as connection:
        rows = connection.execute(query).all()
    if not rows:
        return {}
    codes: dict[str, int] = {}
    columns = list(zip(*rows, strict=True))
    logged = Logged(
        user=np.array([codes.setdefault(user, len(codes)) for user in columns[0]], dtype=np.int64),
        propensity=np.array(columns[1], dtype=np.float64),
        greedy=np.array(columns[2], dtype=bool),
        score=np.array(columns[3], dtype=np.float64),
        greedy_score=np.array(columns[4], dtype=np.float64),
        reward=np.array(columns[5], dtype=np.float64),
        greedy_propensity=np.array(columns[6], dtype=np.float64),
    )
    counts = {"places": len(rows), "estimable": int(estimable(logged).sum())}
    return {**counts, **{name: vars(found) for name, found in estimates(logged).items()}}


def _outcomes(store: FeedbackStore, settings: ExperimentSettings, *, until: float) -> list[_User]:
    """Every user whose window has closed, in the order of the first list."""
    shown = exposures.c
    numbers = (
        sa.select(sa.func.min(shown.number)).where(shown.experiment == settings.name).group_by(shown.user)
    ).scalar_subquery()
    first = (
        sa.select(shown.user, shown.time.label("start"), shown.variant).where(shown.number.in_(numbers)).subquery()
    )
    closed = first.c.start + settings.window_hours * _HOUR
    done = sa.exists().where(
        (events.c.user == first.c.user)
        & events.c.kind.in_(_rewards(settings))
        & (events.c.accepted | (events.c.aside > closed))
        & events.c.time.between(first.c.start, closed)
        & (events.c.received <= closed)
    )
    query = sa.select(first.c.start, first.c.variant, done).where(first.c.start <= until).order_by(first.c.start)
    with store.reading() as connection:
        return [
            _User(start=float(start), variant=str(variant), outcome=float(bool(won)))
            for start, variant, won in connection.execute(query)
        ]


def _chances(store: FeedbackStore, settings: ExperimentSettings) -> list[tuple[float, Mapping[str, float]]]:
    """Since when the variants had which shares, in the order of time; first those of today where none were noted."""
    rows = assignments.c
    query = sa.select(rows.since, rows.shares).where(rows.experiment == settings.name).order_by(rows.since)
    with store.reading() as connection:
        noted = [(float(since), json.loads(shares)) for since, shares in connection.execute(query)]
    today = {variant.name: variant.share for variant in settings.variants}
    return [(-math.inf, noted[0][1] if noted else today), *noted]


def _pair_chance(
    chances: Sequence[tuple[float, Mapping[str, float]]], start: float, treatment: str, control: str
) -> float:
    """The chance of the treatment among these two for a user who came at `start`; 0 where one did not run."""
    shares = next(shares for since, shares in reversed(chances) if since <= start)
    if treatment not in shares or control not in shares:
        return 0.0
    return float(shares[treatment] / (shares[treatment] + shares[control]))


def _rewards(settings: ExperimentSettings) -> Sequence[str]:
    return [kind.strip() for kind in settings.rewards.split(",") if kind.strip()]


def _arm(name: str, users: Sequence[_User]) -> Mapping[str, Any]:
    own = [one.outcome for one in users if one.variant == name]
    return {"variant": name, "users": len(own), "successes": int(sum(own))}
