"""What a job computes: plain arguments in, a JSON record out. Each runs in a worker process of its own."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from recsys_fed.catalogue.features import PACKAGED_MODEL, encode_text
from recsys_fed.config import SimulationConfig
from recsys_fed.data.simulated import simulated_federation
from recsys_fed.evaluation.baselines import BASELINES
from recsys_fed.simulation.runner import evaluate, fold_in_scorer, simulate
from recsys_fed.trainers.popularity import PopularItems
from recsys_fed.trainers.registry import Auto
from recsys_fed.trainers.spectral import Size, Spectral, size
from recsys_fed.trainers.trainer import PublicFacts, Trainer
from simulations.quality.alone import federation_of, planned, train_alone
from simulations.quality.points import VARIANTS, Point

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


def tuned(*, data: str, epsilon: float, delta: float, seed: int, by_hand: tuple[float, float, int] | None) -> Json:
    """The test items of all users in one place: under "auto", or with sizes by hand, see `points.Grid`."""
    name = "" if ":" in data else data
    config = SimulationConfig(protocol=name, data="" if name else data)
    federation, _ = federation_of(config, seed)
    schedule = planned(config, epsilon=epsilon, delta=delta, seed=seed, trainer=Auto())
    facts = schedule.facts
    if by_hand is not None:
        trainer = PopularItems() if by_hand[2] == 0 else Spectral(fixed=_size_by_hand(facts, *by_hand))
        schedule = planned(config, epsilon=epsilon, delta=delta, seed=seed, trainer=trainer)
    model = train_alone(schedule, config, seed=seed)
    return {"metrics": _shown(evaluate(fold_in_scorer(model, federation, device="cpu"), federation)),
            "signal": round(facts.signal_to_noise, 1)}  # fmt: skip


def swept(*, data: str, epsilon: float, delta: float, seed: int, features: bool, variant: str) -> Json:
    """The validation items of all users in one place, under a variant of `points.VARIANTS`."""
    name = "" if ":" in data else data
    config = SimulationConfig(protocol=name, data="" if name else data, held_out="validation")
    federation, _ = federation_of(config, seed)
    plan = partial(planned, config, epsilon=epsilon, delta=delta, seed=seed, features=features)
    how, facts = VARIANTS[variant], plan(trainer=Spectral()).facts
    trainer: Trainer = PopularItems()
    if how is not None:
        fixed = replace(size(facts), counts_share=how[0], prior=how[1])
        trainer = Spectral(fixed=fixed)
    model = train_alone(plan(trainer=trainer), config, seed=seed)
    metrics = evaluate(fold_in_scorer(model, federation, device="cpu"), federation)
    return {"metrics": _shown(metrics), "signal": round(facts.signal_to_noise, 1)}


def catalogue(*, protocol: str, output: str) -> Json:
    """The protocol's catalogue with text vectors, as `recsys-fed catalogue --encoder minilm` writes it."""
    torch.set_num_threads(1)
    federation = simulated_federation(SimulationConfig(protocol=protocol), silos=1, seed=0)
    items = encode_text(federation.catalogue, PACKAGED_MODEL)
    items.save(Path(output))
    return {"content_hash": items.content_hash, "encoder": PACKAGED_MODEL}


def _size_by_hand(facts: PublicFacts, dims: float, heads: float, rounds: int) -> Size:
    by_rule = size(facts)
    dim = max(2, min(round(dims * by_rule.embedding_dim), facts.n_items // 2))
    n_head = max(dim, min(round(heads * by_rule.n_head), facts.n_items))
    return replace(
        by_rule,
        embedding_dim=dim,
        n_head=n_head,
        n_start=min(by_rule.n_start, n_head),
        rounds=by_rule.rounds if rounds < 0 else 2 + rounds,
    )


def _shown(metrics: Any) -> Json:
    return {name: round(metrics[name], 5) for name in METRICS}
