"""What a job computes: plain arguments in, a JSON record out. Each runs in a worker process of its own."""

import math
from pathlib import Path
from typing import Any

import torch

from recsys_fed.catalogue.features import PACKAGED_MODEL, encode_text
from recsys_fed.config import SimulationConfig
from recsys_fed.data.simulated import simulated_federation
from recsys_fed.evaluation.baselines import BASELINES
from recsys_fed.simulation.runner import evaluate, simulate
from simulations.quality.points import Point

METRICS = ("recall@20", "ndcg@20", "ndcg@10", "hr@10")
Json = dict[str, Any]


def point(*, fields: Json, seed: int, catalogue: str) -> Json:
    """One run of a point, as its command makes it."""
    settings = fields | {"epsilon": float(fields["epsilon"]), "seeds": tuple(fields["seeds"])}
    record: Any = simulate(Point(**settings).simulation(seed, catalogue=catalogue))
    spent = [float(epsilon) for epsilon in record["epsilon_spent"].values()]
    return {
        "metrics": _shown(record["metrics"]),
        "popularity": _shown(record["popularity"]),
        "epsilon_spent": max(spent) if math.isfinite(max(spent)) else "inf",
        "embedding_dim": record["embedding_dim"],
        "rounds": record["rounds"],
        "n_users": record["n_users"],
        "n_items": record["n_items"],
        "seconds": round(sum(record["seconds"].values()), 2),
    }


def baseline(*, protocol: str, name: str, settings: Json, held_out: str = "test") -> Json:
    """A baseline with these settings on all users in one place, without privacy."""
    torch.set_num_threads(1)
    federation = simulated_federation(SimulationConfig(protocol=protocol, held_out=held_out), silos=1, seed=0)
    negatives = 99 if protocol == "ncf" else 0
    metrics = evaluate(BASELINES[name](federation.train, **settings), federation, sampled_negatives=negatives)
    return {"metrics": {key: round(metrics[key], 5) for key in metrics if key in METRICS or "sampled" in key}}


def catalogue(*, protocol: str, output: str) -> Json:
    """The protocol's catalogue with text vectors, as `recsys-fed catalogue --encoder minilm` writes it."""
    torch.set_num_threads(1)
    federation = simulated_federation(SimulationConfig(protocol=protocol), silos=1, seed=0)
    items = encode_text(federation.catalogue, PACKAGED_MODEL)
    items.save(Path(output))
    return {"content_hash": items.content_hash, "encoder": PACKAGED_MODEL}


def _shown(metrics: Any) -> Json:
    return {name: round(metrics[name], 5) for name in METRICS}
