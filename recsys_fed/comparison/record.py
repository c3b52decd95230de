"""The comparison as a record: figures with intervals, by silo, activity and item popularity, and sentences."""

import math
from typing import Any

import numpy as np

from recsys_fed.comparison.compare import Compared
from recsys_fed.comparison.intervals import bootstrap
from recsys_fed.comparison.lines import METRICS, POPULARITY_GROUPS, Floats, Line

ACTIVITY_GROUPS = ("light users", "middle users", "heavy users")
LOCAL, BOTH, GLOBAL = "local-only", "global, silo-trusted", "global, user-only"
_TOLD = "recall@20"
NOT_PRIVATISED = "simulation: figures not privatised; choosing by them would have to be charged"


def comparison_record(compared: Compared, *, seed: int = 0) -> dict[str, Any]:
    """Everything that the table, the picture and --json show; an infinite epsilon is the text "inf"."""
    rng = np.random.default_rng(seed)
    federation = compared.federation
    activity = _activity(np.diff(federation.train.indptr))
    return {
        "data": federation.dataset.name,
        "n_users": federation.train.shape[0],
        "n_items": federation.train.shape[1],
        "n_silos": len(federation.users_of_silo),
        "note": NOT_PRIVATISED,
        "lines": [_line(line, activity, compared, rng=rng) for line in compared.lines],
        "silos": _silos(compared, rng=rng),
        "sentences": sentences(compared, rng=rng),
    }


def sentences(compared: Compared, *, rng: np.random.Generator) -> list[str]:
    """For each silo and the largest budget: joining pays by x (interval), or it does not."""
    local = [line for line in compared.first if line.method == LOCAL]
    joined = [line for line in compared.first if line.method in (BOTH, GLOBAL)]
    if not local or not joined:
        return []
    largest = max(line.epsilon for line in joined)
    best = next(line for name in (BOTH, GLOBAL) for line in joined if (line.method, line.epsilon) == (name, largest))
    told = []
    for silo, users in enumerate(compared.federation.users_of_silo):
        alone, with_all = (_known(line.per_user[_TOLD][users]) for line in (local[0], best))
        if not len(alone):
            told.append(f"silo-{silo}: no user has a test item, so nothing can be said.")
            continue
        told.append(_sentence(silo, alone, with_all, epsilon=largest, rng=rng))
    return told


def _sentence(silo: int, alone: Floats, with_all: Floats, *, epsilon: float, rng: np.random.Generator) -> str:
    gain = bootstrap(with_all - alone, rng=rng)
    figures = f"{gain.mean:+.4f} Recall@20 (95% interval {gain.low:+.4f} to {gain.high:+.4f})"
    levels = f"{alone.mean():.4f} alone, {with_all.mean():.4f} with all, at epsilon {epsilon:g}"
    if gain.low > 0:
        return f"silo-{silo}: joining pays by {figures}: {levels}."
    if gain.high < 0:
        return f"silo-{silo}: joining does not pay, it costs {figures}: {levels}."
    return f"silo-{silo}: joining does not pay for sure, {figures}: {levels}."


def _line(line: Line, activity: dict[str, Any], compared: Compared, *, rng: np.random.Generator) -> dict[str, Any]:
    recall = line.per_user[_TOLD]
    return {
        "method": line.method,
        "epsilon": "inf" if math.isinf(line.epsilon) else line.epsilon,
        "note": line.note,
        **{name: _interval(line.per_user[name], rng=rng) for name in METRICS},
        "recall@20 over seeds, std": compared.spreads[line.method, line.epsilon],
        "by_activity": {name: _interval(recall[rows], rng=rng) for name, rows in activity.items()},
        "by_item_popularity": {name: _interval(line.by_popularity[name], rng=rng) for name in POPULARITY_GROUPS},
    }


def _silos(compared: Compared, *, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Of the first seed: users are in other silos under another."""
    return [
        {
            "silo": f"silo-{silo}",
            "n_users": len(users),
            "lines": [
                {
                    "method": line.method,
                    "epsilon": "inf" if math.isinf(line.epsilon) else line.epsilon,
                    **{name: _interval(line.per_user[name][users], rng=rng) for name in METRICS},
                }
                for line in compared.first
            ],
        }
        for silo, users in enumerate(compared.federation.users_of_silo)
    ]


def _interval(values: Floats, *, rng: np.random.Generator) -> dict[str, float] | None:
    known = _known(values)
    return bootstrap(known, rng=rng).record() if len(known) else None


def _known(values: Floats) -> Floats:
    return values[~np.isnan(values)]


def _activity(sizes: Any) -> dict[str, Any]:
    """Thirds of the users by the length of their train history, as row numbers."""
    order = np.argsort(sizes, kind="stable")
    return dict(zip(ACTIVITY_GROUPS, np.array_split(order, 3), strict=True))
