"""The report of an experiment, from what the service logged."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa

from recsys_fed.errors import ConfigurationError
from recsys_fed.serving.anytime import compare
from recsys_fed.serving.off_policy import Logged, estimates
from recsys_fed.serving.settings import ExperimentSettings
from recsys_fed.serving.store import FeedbackStore
from recsys_fed.serving.tables import events, exposures

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
        raise ConfigurationError("Expected an [experiment] with a name in the service's settings, there is none.")
    now = time.time() if now is None else now
    users = _outcomes(store, settings, until=now - settings.window_hours * _HOUR)
    control, treatments = settings.variants[0], settings.variants[1:]
    comparisons = []
    for variant in treatments:
        pair = [(name == variant.name, outcome) for _, name, outcome in users if name in (variant.name, control.name)]
        found = compare(
            np.array([arm for arm, _ in pair], dtype=bool),
            np.array([outcome for _, outcome in pair], dtype=np.float64),
            share=variant.share / (variant.share + control.share),
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
        "off_policy": off_policy_report(store, settings),
    }


def off_policy_report(store: FeedbackStore, settings: ExperimentSettings) -> dict[str, Any]:
    """The value of the model's own choice at the explored place, from all logged propensities."""
    rewards = _rewards(settings)
    shown = exposures.c
    rewarded = sa.exists().where(
        (events.c.request == shown.request) & (events.c.item == shown.item)
        & (events.c.user == shown.user) & events.c.kind.in_(rewards) & events.c.accepted
    )  # fmt: skip
    query = sa.select(
        shown.user, shown.propensity, shown.item == shown.greedy_item, shown.score, shown.greedy_score, rewarded
    ).where(shown.propensity.is_not(None))
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
    )
    return {"places": len(rows), **{name: vars(found) for name, found in estimates(logged).items()}}


def _outcomes(store: FeedbackStore, settings: ExperimentSettings, *, until: float) -> list[tuple[float, str, float]]:
    """First list, variant and outcome of every user whose window has passed, in the order of the first list."""
    shown = exposures.c
    first = (
        sa.select(shown.user, sa.func.min(shown.time).label("start"), sa.func.min(shown.variant).label("variant"))
        .where(shown.experiment == settings.name)
        .group_by(shown.user)
        .subquery()
    )
    done = sa.exists().where(
        (events.c.user == first.c.user)
        & events.c.kind.in_(_rewards(settings))
        & events.c.accepted
        & (events.c.time >= first.c.start)
        & (events.c.time <= first.c.start + settings.window_hours * _HOUR)
    )
    query = sa.select(first.c.start, first.c.variant, done).where(first.c.start <= until).order_by(first.c.start)
    with store.reading() as connection:
        return [(float(start), str(variant), float(bool(won))) for start, variant, won in connection.execute(query)]


def _rewards(settings: ExperimentSettings) -> Sequence[str]:
    return [kind.strip() for kind in settings.rewards.split(",") if kind.strip()]


def _arm(name: str, users: Sequence[tuple[float, str, float]]) -> Mapping[str, Any]:
    own = [outcome for _, variant, outcome in users if variant == name]
    return {"variant": name, "users": len(own), "successes": int(sum(own))}
