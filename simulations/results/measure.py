"""Runs every point on every seed and keeps what came out as one JSON record."""

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from recsys_fed.config import FederationConfig, SimulationConfig
from recsys_fed.data.simulated import simulated_federation
from recsys_fed.evaluation.baselines import ease
from recsys_fed.evaluation.protocol import evaluate_ranking
from recsys_fed.settings_file import Value
from recsys_fed.simulation.record import finite
from recsys_fed.simulation.runner import Simulation, simulate
from recsys_fed.versions import versions
from simulations.results.points import DELTA, SILOS, Point, jobs

SHOWN = ("recall@20", "ndcg@20")

Record = dict[str, Any]


def measure(points: Sequence[Point], *, on_run: Callable[[str], None]) -> Record:
    """Measure all points.

    Args:
        points: what to measure.
        on_run: called with a line for people after each run.

    Returns:
        {"measured", "silos", "delta", "versions", "data": {spec: sizes and references}, "points": [...]}.
    """
    lines: dict[Point, Record] = {point: _line(point) for point in points}
    data: dict[str, Record] = {}
    for point, seed in jobs(points):
        record = simulate(_simulation(point, seed))
        _add(lines[point], record)
        if point.data not in data:
            data[point.data] = _data_set(point.data, record)
        on_run(f"{point.data} {point.trainer} {point.noise} epsilon {point.epsilon:g} seed {seed}")
    return {
        "measured": datetime.now(UTC).date().isoformat(),
        "silos": SILOS,
        "delta": DELTA,
        "versions": versions(),
        "data": data,
        "points": list(lines.values()),
    }


def _simulation(point: Point, seed: int) -> Simulation:
    settings: dict[str, Value] = {"schedule": point.schedule} if point.schedule else {}
    return Simulation(
        federation=FederationConfig(
            trainer=point.trainer,
            epsilon=point.epsilon,
            delta=DELTA,
            secure_aggregation="on" if point.noise == "masked" else "off",
            silos=SILOS,
            seed=seed,
            dp_sgd=settings,
        ),
        data=SimulationConfig(data=point.data),
    )


def _line(point: Point) -> Record:
    named = {name: getattr(point, name) for name in ("data", "trainer", "schedule", "noise")}
    values: dict[str, list[float]] = {name: [] for name in SHOWN}
    return named | {"epsilon": finite(point.epsilon), "seeds": list(point.seeds), "metrics": values}


def _add(line: Record, record: Mapping[str, Any]) -> None:
    """Add what one run gave; epsilon_spent is the most that any silo spent in any run."""
    for name in SHOWN:
        line["metrics"][name].append(round(record["metrics"][name], 5))
    line |= {"rounds": record["rounds"], "embedding_dim": record["embedding_dim"]}
    spent = max(float(epsilon) for epsilon in record["epsilon_spent"].values())
    line["epsilon_spent"] = finite(max(spent, float(line.get("epsilon_spent", 0.0))))
    if math.isfinite(spent):
        line["epsilon_spent"] = round(float(line["epsilon_spent"]), 4)


def _data_set(spec: str, record: Mapping[str, Any]) -> Record:
    """Sizes, and the references that need no privacy: most popular items, and EASE on all users in one place."""
    federation = simulated_federation(SimulationConfig(data=spec), silos=SILOS, seed=record["seed"])
    best = evaluate_ranking(ease(federation.train), train=federation.train, test=federation.test).means()
    sizes = {name: record[name] for name in ("n_users", "n_items", "n_interactions", "declared_users")}
    references = {"popularity": record["popularity"], "ease": best}
    return sizes | {
        name: {metric: round(values[metric], 5) for metric in SHOWN} for name, values in references.items()
    }
