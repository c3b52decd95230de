"""Experiments: which variant a user sees, what would have been, and the report from what the service logged.

What would have been: the value of the model's own choice, estimated from what exploration showed.

Each logged place has the item that was shown, its propensity p, a reward r in {0, 1}, and the item g that the model
alone would have shown. With w = 1{shown = g} / p:

    IPS                mean of w r                                   unbiased
    self-normalised    sum of w r / sum of w                         less variance, a bias of order 1/n
    doubly robust      mean of q(g) + w (r - q(shown))               unbiased whatever q is (arXiv 1103.4601)

q is a straight line in the model's score, fitted on the users of the other half.
"""

import hashlib
import hmac
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from recsys_fed.errors import ConfigurationError
from recsys_fed.serving.sequential_test import compare_arms
from recsys_fed.serving.settings import ExperimentSettings, Variant
from recsys_fed.serving.store import FeedbackStore
from recsys_fed.serving.tables import events, exposures

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


_Floats64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Logged:
    """Explored places, one entry each.

    Attributes:
        user: code of the user, int64 [n]. propensity, reward: float64 [n].
        greedy: whether the model's own choice was shown, bool [n].
        score, greedy_score: of what was shown and of the model's own choice, float64 [n].
    """

    user: npt.NDArray[np.int64]
    propensity: _Floats64
    reward: _Floats64
    greedy: npt.NDArray[np.bool_]
    score: _Floats64
    greedy_score: _Floats64


@dataclass(frozen=True, kw_only=True)
class _Estimate:
    """A value with its standard error, in which a user's places count as one observation."""

    value: float
    error: float


def estimates(logged: Logged) -> dict[str, _Estimate]:
    """The value of what was shown ("shown"), and of the model's own choice by three estimators."""
    weights = np.where(logged.greedy, 1.0 / logged.propensity, 0.0)
    total = max(float(weights.sum()), np.finfo(np.float64).tiny)
    normalised = float((weights * logged.reward).sum()) / total
    shown, own = _fitted(logged)
    n = len(weights)
    terms = {
        "shown": logged.reward,
        "ips": weights * logged.reward,
        "doubly robust": own + weights * (logged.reward - shown),
    }
    found = {
        name: _Estimate(value=float(t.mean()), error=_error(t - t.mean(), logged.user)) for name, t in terms.items()
    }
    # The delta method: a ratio varies like its numerator less the ratio times its denominator.
    spread = _error(weights * (logged.reward - normalised) * n / total, logged.user)
    return found | {"self-normalised": _Estimate(value=normalised, error=spread)}


def _fitted(logged: Logged) -> tuple[_Floats64, _Floats64]:
    """q of what was shown and of the model's own choice, [n] each, by cross-fitting over two halves of the users."""
    shown, own = np.zeros(len(logged.reward)), np.zeros(len(logged.reward))
    for half in (0, 1):
        other, mine = logged.user % 2 != half, logged.user % 2 == half
        if not other.any():
            continue
        table = np.column_stack((np.ones(int(other.sum())), logged.score[other]))
        line = np.linalg.lstsq(table, logged.reward[other], rcond=None)[0]
        shown[mine] = np.clip(line[0] + line[1] * logged.score[mine], 0.0, 1.0)
        own[mine] = np.clip(line[0] + line[1] * logged.greedy_score[mine], 0.0, 1.0)
    return shown, own


def _error(residuals: _Floats64, user: npt.NDArray[np.int64]) -> float:
    """Standard error of a mean whose residuals are summed by user."""
    if not len(residuals):
        return math.nan
    sums = np.bincount(np.unique(user, return_inverse=True)[1], weights=residuals)
    return float(np.sqrt((sums**2).sum()) / len(residuals))


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
        found = compare_arms(
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
        "off_policy": _off_policy_report(store, settings),
    }


def _off_policy_report(store: FeedbackStore, settings: ExperimentSettings) -> dict[str, Any]:
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
