"""Federated, differentially private recommendation: only item embeddings are aggregated.

    from recsys_fed import Dataset, Federation, Spectral

    federation = Federation(Dataset.from_frame(df, user="customer", item="sku"), silos=5, secure_aggregation=True)
    run = federation.train(Spectral(), epsilon=2, delta=1e-6, seed=0)
    run.metrics["recall@20"]; run.guarantee.epsilon; run.model.recommend(["sku-17"], k=10); run.save("runs/mine")

What is named here is the public API; a name is imported when it is first asked for.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

from recsys_fed.versions import with_extra

# Threads of torch that wait for one another sleep instead of spinning; it must be said before torch is loaded.
# Beside other busy processes a run takes a tenth of the time, alone it takes the same.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from recsys_fed.api import Federation, Run
    from recsys_fed.catalogue.items import Catalogue
    from recsys_fed.config import FederationConfig, SimulationConfig
    from recsys_fed.data.dataset import Dataset
    from recsys_fed.data.sources.source import Source
    from recsys_fed.errors import RecsysFedError
    from recsys_fed.evaluation.metrics import Metric
    from recsys_fed.evaluation.protocol import evaluate_ranking
    from recsys_fed.ledger.ledger import Ledger
    from recsys_fed.models.items import ItemEmbeddings
    from recsys_fed.privacy.calibration import calibrate_noise_multiplier
    from recsys_fed.privacy.guarantee import Guarantee
    from recsys_fed.simulation.recommender import Recommender
    from recsys_fed.trainers.dp_sgd import DPSGD
    from recsys_fed.trainers.popularity import PopularItems
    from recsys_fed.trainers.ratings import Ratings
    from recsys_fed.trainers.registry import Auto
    from recsys_fed.trainers.spectral import Spectral
    from recsys_fed.trainers.torch_trainer import TorchTrainer
    from recsys_fed.trainers.trainer import Trainer

# Where each public name lives.
_HOMES = {
    "Auto": "trainers.registry",
    "Catalogue": "catalogue.items",
    "DPSGD": "trainers.dp_sgd",
    "Dataset": "data.dataset",
    "Federation": "api",
    "FederationConfig": "config",
    "Guarantee": "privacy.guarantee",
    "ItemEmbeddings": "models.items",
    "Ledger": "ledger.ledger",
    "Metric": "evaluation.metrics",
    "PopularItems": "trainers.popularity",
    "Ratings": "trainers.ratings",
    "Recommender": "simulation.recommender",
    "RecsysFedError": "errors",
    "Run": "api",
    "SimulationConfig": "config",
    "Source": "data.sources.source",
    "Spectral": "trainers.spectral",
    "TorchTrainer": "trainers.torch_trainer",
    "Trainer": "trainers.trainer",
    "calibrate_noise_multiplier": "privacy.calibration",
    "evaluate_ranking": "evaluation.protocol",
}

__all__ = [
    "DPSGD",
    "Auto",
    "Catalogue",
    "Dataset",
    "Federation",
    "FederationConfig",
    "Guarantee",
    "ItemEmbeddings",
    "Ledger",
    "Metric",
    "PopularItems",
    "Ratings",
    "Recommender",
    "RecsysFedError",
    "Run",
    "SimulationConfig",
    "Source",
    "Spectral",
    "TorchTrainer",
    "Trainer",
    "calibrate_noise_multiplier",
    "evaluate_ranking",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        raise with_extra(error) from error
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
