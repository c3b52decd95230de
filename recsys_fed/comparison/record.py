"""The comparison as a record: figures with intervals, by silo, activity and item popularity, and sentences."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys_fed.comparison.compare import Compared
from recsys_fed.comparison.intervals import Interval, bootstrap
from recsys_fed.comparison.lines import Line
from recsys_fed.comparison.measuring import POPULARITY_GROUPS, Floats
from recsys_fed.comparison.personal import BOTH, LOCAL
from recsys_fed.comparison.sentences import Gain, sentence
from recsys_fed.evaluation.metrics import HEADLINE_CUTOFF, HEADLINE_NAMES, RECALL

KIND, FILE = "comparison", "comparison.json"
ACTIVITY_GROUPS = ("light users", "middle users", "heavy users")
NOT_PRIVATISED = "simulation: figures not privatised; choosing by them would have to be charged"
_TOLD = RECALL.at(HEADLINE_CUTOFF)


def comparison_record(compared: Compared, *, seed: int = 0) -> dict[str, Any]:
    """Everything that the table, the picture, the page and --json show; an infinite epsilon is the text "inf".

    Args:
        compared: what came out.
        seed: of the bootstrap.
    """
    rng = np.random.default_rng(seed)
    federation, config = compared.federation, compared.comparison.simulation.federation
    silos = [
        _silo(f"silo-{number}", compared.lines, users, rng=rng)
        for number, users in enumerate(federation.users_of_silo)
    ]
    return {
        "kind": KIND,
        "data": federation.dataset.name,
        "n_users": federation.train.shape[0],
        "n_items": federation.train.shape[1],
        "n_silos": len(federation.users_of_silo),
        "trainer": config.trainer,
        "noise": config.noise,
        "delta": config.delta,
        "n_seeds": compared.comparison.n_seeds,
        "note": NOT_PRIVATISED,
        "lines": _lines(compared.lines, np.diff(federation.train.indptr), rng=rng),
        "silos": silos,
        "sentences": [silo.pop("sentence") for silo in silos],
        "new_items": compared.new_items,
    }


def write_comparison(folder: Path, record: dict[str, Any]) -> None:
    """Write the record beside the runs that it is about."""
    (folder / FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _lines(lines: Sequence[Line], sizes: Floats, *, rng: np.random.Generator) -> list[dict[str, Any]]:
    activity = _activity(sizes)
    names = [*HEADLINE_NAMES, *POPULARITY_GROUPS, *activity]
    figures = [
        values
        for line in lines
        for values in (
            *(line.per_user[name] for name in (*HEADLINE_NAMES, *POPULARITY_GROUPS)),
            *(np.where(inside, line.per_user[_TOLD], np.nan) for inside in activity.values()),
        )
    ]
    found = iter(bootstrap(figures, rng=rng))
    return [_line(line, {name: next(found) for name in names}) for line in lines]


def _line(line: Line, found: dict[str, Interval | None]) -> dict[str, Any]:
    records = {name: interval.record() if interval is not None else None for name, interval in found.items()}
    return {
        "method": line.method,
        "epsilon": _finite(line.epsilon),
        "note": line.note,
        **{name: records[name] for name in HEADLINE_NAMES},
        "std_over_seeds": {name: _std_over_seeds(line.per_user[name]) for name in HEADLINE_NAMES},
        "by_activity": {name: records[name] for name in ACTIVITY_GROUPS},
        "by_item_popularity": {name: records[name] for name in POPULARITY_GROUPS},
    }


def _silo(
    name: str, lines: Sequence[Line], users: npt.NDArray[np.int64], *, rng: np.random.Generator
) -> dict[str, Any]:
    """Every method for the users of one silo, and what joining gains there over the silo alone."""
    alone = next(line for line in lines if line.method == LOCAL)
    joined = [line for line in lines if line.method == BOTH]
    figures = [line.per_user[metric][:, users] for line in lines for metric in HEADLINE_NAMES]
    figures += [line.per_user[_TOLD][:, users] - alone.per_user[_TOLD][:, users] for line in joined]
    found = iter(bootstrap(figures, rng=rng) if len(users) else [None] * len(figures))
    records = [_silo_line(line, {metric: next(found) for metric in HEADLINE_NAMES}) for line in lines]
    gains = [
        Gain(epsilon=line.epsilon, change=change, alone=_mean(alone, users), joined=_mean(line, users))
        for line, change in zip(joined, found, strict=True)
        if change is not None
    ]
    return {
        "silo": name,
        "n_users": len(users),
        "lines": records,
        "gains": [{"epsilon": gain.epsilon, **gain.change.record()} for gain in gains],
        "sentence": sentence(name, gains),
    }


def _silo_line(line: Line, found: dict[str, Interval | None]) -> dict[str, Any]:
    figures = {name: interval.record() if interval is not None else None for name, interval in found.items()}
    return {"method": line.method, "epsilon": _finite(line.epsilon), **figures}


def _mean(line: Line, users: npt.NDArray[np.int64]) -> float:
    return float(np.nanmean(line.per_user[_TOLD][:, users]))


def _std_over_seeds(values: Floats) -> float | None:
    """Standard deviation of the mean over users; None where there is one seed, or none that changes it."""
    if len(values) < 2 or np.isnan(values).all():
        return None
    return float(np.nanmean(values, axis=1).std(ddof=1))


def _activity(sizes: Floats) -> dict[str, npt.NDArray[np.bool_]]:
    """Thirds of the users by the length of their train history, bool [n_users]."""
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[np.argsort(sizes, kind="stable")] = np.arange(len(sizes))
    third = 3 * rank // max(len(sizes), 1)
    return {name: third == k for k, name in enumerate(ACTIVITY_GROUPS)}


def _finite(epsilon: float) -> float | str:
    return "inf" if math.isinf(epsilon) else epsilon
