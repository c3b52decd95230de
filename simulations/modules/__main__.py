"""The table of docs/torch-modules.md: modules on the UltraGCN split, 10 silos, noise once on the sum, one colluder.

    python -m simulations.modules --data PATH [--modules mf,attention] [--epsilons 8,inf] [--rounds 21]

A line a module and budget: Recall@20 of the released table as it is served, of the module with private parts at their
public start, of the module with parts fitted by each silo, of what each silo chooses on its own validation users, and
of each silo on its own. The last four are means over the users of the first silos. No setting is chosen here.
"""

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from scipy import sparse

from recsys_fed.config import FederationConfig, SimulationConfig
from recsys_fed.data.protocols import apply_protocol
from recsys_fed.data.simulated import simulated_federation
from recsys_fed.evaluation.protocol import Scorer, evaluate_ranking
from recsys_fed.federation.run_files import EMBEDDINGS
from recsys_fed.models.items import ItemEmbeddings, load_item_embeddings
from recsys_fed.models.torch_modules import MODULES
from recsys_fed.personalisation.choice import choose_alone, choose_on, split_folds
from recsys_fed.personalisation.private_parts import fit_private_parts, start_private_parts
from recsys_fed.personalisation.silo_model import Recipe, SiloModel, fit_silo_model, scorer_of
from recsys_fed.simulation.runner import Simulation, simulate

_SILOS, _SEED, _METRIC = 10, 0, "recall@20"


def main() -> None:
    """Print the table, line by line as it is measured."""
    options = argparse.ArgumentParser()
    options.add_argument("--data", required=True)
    options.add_argument("--modules", default=",".join(MODULES))
    options.add_argument("--epsilons", default="8,inf")
    options.add_argument("--measured-silos", type=int, default=2)
    options.add_argument("--rounds", type=int, default=21)
    given = options.parse_args()
    _say(
        "module", "epsilon", "released table", "public start", "fitted parts", "chosen", "alone", "recipes", "seconds"
    )
    for epsilon in map(float, given.epsilons.split(",")):
        for name in given.modules.split(","):
            _line(given.data, name, epsilon, given.measured_silos, given.rounds)


def _line(data: str, name: str, epsilon: float, n_measured: int, rounds: int) -> None:
    simulation = Simulation(
        federation=FederationConfig(
            trainer="torch",
            trainer_settings=json.dumps({"module": name}),
            epsilon=epsilon,
            rounds=rounds,
            silos=_SILOS,
            secure_aggregation="on",
            seed=_SEED,
            threads=1,
        ),
        data=apply_protocol(SimulationConfig(data=data, protocol="ultragcn")),
        declare_users=True,
    )
    with TemporaryDirectory() as folder:
        record: dict[str, Any] = simulate(simulation, output=Path(folder) / "run")
        released = load_item_embeddings(Path(folder) / "run" / EMBEDDINGS)
    federation = simulated_federation(simulation.data, silos=_SILOS, seed=_SEED)
    rows: dict[str, list[tuple[float, int]]] = {}
    recipes: list[str] = []
    for silo in range(n_measured):
        users = federation.users_of_silo[silo]
        train, test = federation.train[users], federation.test[users]
        folds = split_folds(train, rng=np.random.default_rng([_SEED, silo]))
        choice = choose_on(folds, choose_alone(folds), released)
        recipes.append(choice.recipe.name + (" with parts" if choice.recipe.private_parts else ""))
        fitted = fit_private_parts(train, released)
        models = {
            "public start": _with_parts(released, start_private_parts(released)),
            "fitted parts": _with_parts(released, fitted),
            "chosen": fit_silo_model(train, released, choice.recipe),
            "alone": fit_silo_model(train, released, choice.alone),
        }
        for what, model in models.items():
            rows.setdefault(what, []).append((_recall(scorer_of(model, train), train, test), len(users)))
    means = [np.average([v for v, _ in found], weights=[n for _, n in found]) for found in rows.values()]
    seconds = f"{record['seconds']['train']:.0f}"
    figures = (f"{value:.3f}" for value in (record["metrics"][_METRIC], *means))
    _say(name, f"{epsilon:g}", *figures, ", ".join(recipes), seconds)


def _with_parts(released: ItemEmbeddings, parts: object) -> SiloModel:
    recipe = Recipe(own_weight=0.0, private_parts=True)
    return SiloModel(recipe=recipe, released=released, item_model=None, spreads=(1.0, 1.0), parts=parts)  # type: ignore[arg-type]


def _recall(score: Scorer, train: sparse.csr_matrix, test: sparse.csr_matrix) -> float:
    return evaluate_ranking(score, train=train, test=test).means()[_METRIC]


def _say(*cells: str) -> None:
    sys.stdout.write("| " + " | ".join(cells) + " |\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
