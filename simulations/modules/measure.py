"""What a module is worth, Recall@20 and NDCG@20 on test: pieces of work that give plain records.

released      the released table as it is served, all users
the others    means over the users of the first silos:
as served     the same as "released", of these users
public start  the module on the released table, private parts where the federation left them
fitted        the module on the released table, private parts fitted by each silo
chosen        what each silo takes by its own validation users; without the federation it has local-only
module alone  the same module, table and all, trained by each silo on its own users without noise
local-only    the silo's best model of its own
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from scipy import sparse

from recsys_fed.config import FederationConfig, SimulationConfig
from recsys_fed.data.protocols import apply_protocol
from recsys_fed.data.simulated import simulated_federation
from recsys_fed.evaluation.protocol import Scorer, evaluate_ranking
from recsys_fed.federation.run_files import EMBEDDINGS
from recsys_fed.models.items import load_item_embeddings
from recsys_fed.personalisation.choice import Alone, Fold, choose_alone, choose_on, split_folds
from recsys_fed.personalisation.private_parts import (
    PrivateParts,
    fit_private_parts,
    fit_whole_module,
    start_private_parts,
)
from recsys_fed.personalisation.silo_model import Recipe, fit_silo_model, scorer_of
from recsys_fed.simulation.runner import Simulation, simulate

FEDERATED, IN_SILOS, ALONE = "released", ("as served", "public start", "fitted", "chosen"), ("module", "local-only")
_SILOS, _SEED, _METRICS = 10, 0, ("recall@20", "ndcg@20")
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Federated:
    """A federated training; mf takes its default rounds, which are cheap."""

    data: str
    module: str
    epsilon: float
    rounds: int
    held_out: str = "test"

    @property
    def name(self) -> str:
        """Of its line."""
        return f"{self.module}-{self.epsilon:g}"


def federate(what: Federated, *, model: Path) -> Json:
    """Train, and keep the model."""
    start = time.process_time()
    config = FederationConfig(
        trainer="torch",
        trainer_settings=json.dumps({"module": what.module}),
        epsilon=what.epsilon,
        rounds=0 if what.module == "mf" else what.rounds,
        silos=_SILOS,
        secure_aggregation="on",
        seed=_SEED,
        threads=1,
    )
    simulation = Simulation(federation=config, data=_data(what.data, what.held_out), declare_users=True)
    with TemporaryDirectory() as folder:
        record: Json = simulate(simulation, output=Path(folder) / "run")
        model.write_bytes((Path(folder) / "run" / EMBEDDINGS).read_bytes())
    return {FEDERATED: [record["metrics"][name] for name in _METRICS], "seconds": time.process_time() - start}


def in_silos(what: Federated, *, model: Path, n_silos: int) -> Json:
    """What silos make of the released model."""
    start, released, taken = time.process_time(), load_item_embeddings(model), []

    def scorers(own: _Own) -> Mapping[str, Scorer]:
        choice = choose_on(own.folds, own.alone, released)
        taken.append(choice.recipe.name + (" with parts" if choice.recipe.private_parts else ""))
        return {
            "as served": scorer_of(fit_silo_model(own.train, released, Recipe(own_weight=0.0)), own.train),
            "public start": _scorer(start_private_parts(released), own.train),
            "fitted": _scorer(fit_private_parts(own.train, released), own.train),
            "chosen": scorer_of(fit_silo_model(own.train, released, choice.recipe), own.train),
        }

    means = _means(scorers, what.data, what.held_out, n_silos)
    return {**means, "taken": taken, "seconds": time.process_time() - start}


def alone(what: Federated, *, model: Path, n_silos: int) -> Json:
    """What silos have without the federation; of the model only its module and sizes are read."""
    start, released = time.process_time(), load_item_embeddings(model)

    def scorers(own: _Own) -> Mapping[str, Scorer]:
        return {
            "module": _scorer(fit_whole_module(own.train, released), own.train),
            "local-only": scorer_of(fit_silo_model(own.train, released, own.alone.recipe), own.train),
        }

    return {**_means(scorers, what.data, what.held_out, n_silos), "seconds": time.process_time() - start}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Own:
    """A silo's users, and what it has on its own."""

    train: sparse.csr_matrix
    test: sparse.csr_matrix
    folds: tuple[Fold, ...]
    alone: Alone


@cache
def _own(data: str, held_out: str, silo: int) -> _Own:
    federation = simulated_federation(_data(data, held_out), silos=_SILOS, seed=_SEED)
    users = federation.users_of_silo[silo]
    folds = split_folds(federation.train[users], rng=np.random.default_rng([_SEED, silo]))
    return _Own(train=federation.train[users], test=federation.test[users], folds=folds, alone=choose_alone(folds))


def _data(data: str, held_out: str) -> SimulationConfig:
    return apply_protocol(SimulationConfig(data=data, protocol="ultragcn", held_out=held_out))


def _means(
    scorers: Callable[[_Own], Mapping[str, Scorer]], data: str, held_out: str, n_silos: int
) -> dict[str, list[float]]:
    """Means over the users of the first silos, by the scorer's name."""
    found: dict[str, list[list[float]]] = {}
    users = []
    for silo in range(n_silos):
        own = _own(data, held_out, silo)
        users.append(own.train.shape[0])
        for name, score in scorers(own).items():
            means = evaluate_ranking(score, train=own.train, test=own.test).means()
            found.setdefault(name, []).append([means[metric] for metric in _METRICS])
    return {name: np.average(values, axis=0, weights=users).tolist() for name, values in found.items()}


def _scorer(parts: PrivateParts, train: sparse.csr_matrix) -> Scorer:
    return lambda rows: torch.from_numpy(parts.scores(train[rows]))
