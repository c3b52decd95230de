"""Held-out items: nothing of them is trained on, and their features place them near what they are like."""

from dataclasses import replace

import numpy as np
import pytest

from recsys_fed.catalogue.features import public_features
from recsys_fed.comparison import new_items as module
from recsys_fed.comparison.new_items import FEATURES, MAPPED, RANDOM, new_item_record
from recsys_fed.config import FederationConfig, SimulationConfig
from recsys_fed.errors import ConfigurationError
from recsys_fed.simulation.runner import Simulation, prepare

CONFIG = FederationConfig(silos=2, noise="distributed", threads=1)
DATA = "generated:users=400,items=120,interactions=20"


@pytest.fixture(scope="module")
def ready():
    return prepare(Simulation(federation=CONFIG, data=SimulationConfig(data=DATA, data_seed=0)))


def test_mapped_items_are_found_better_than_at_random(ready, tmp_path):
    record = new_item_record(*ready, share=0.4, epsilons=(8.0, np.inf), seeds=(0, 1), folder=tmp_path)
    assert record["n_new"] == 48
    lines = {(line["method"], line["epsilon"]): line["ndcg@20"] for line in record["lines"]}
    assert set(lines) == {(RANDOM, "inf"), (FEATURES, "inf"), (MAPPED, 8.0), (MAPPED, "inf")}
    assert lines[MAPPED, "inf"]["mean"] > 1.3 * lines[RANDOM, "inf"]["mean"]
    assert lines[MAPPED, 8.0]["mean"] > 1.3 * lines[RANDOM, "inf"]["mean"]
    assert lines[RANDOM, "inf"]["std"] > 0


def test_training_sees_no_held_out_item_and_each_is_asked_for(ready, tmp_path):
    simulation, federation = ready
    items = module._held_out(
        federation, public_features(federation.catalogue), share=0.25, rng=np.random.default_rng(0)
    )
    assert items.new.sum() == 30
    assert items.known[:, np.flatnonzero(items.new)].nnz == 0
    whole = (federation.train + federation.test).tocsc()
    assert items.asked.nnz == whole[:, np.flatnonzero(items.new)].nnz
    module._score_by_model(
        replace(simulation, federation=replace(simulation.federation, epsilon=8.0)), items, tmp_path
    )
    kept = (tmp_path / "item_embeddings.safetensors").stat().st_size
    assert kept > 0
    from recsys_fed.catalogue.items import Catalogue

    trained = Catalogue.load(tmp_path / "catalogue.parquet").item_ids.tolist()
    assert set(trained) == set(federation.catalogue.item_ids[~items.new])


def test_a_catalogue_of_ids_alone_is_refused(ready, tmp_path):
    simulation, federation = ready
    bare = replace(federation, catalogue=replace(federation.catalogue, titles=None, categories=None, texts=None))
    with pytest.raises(ConfigurationError, match="ids only"):
        new_item_record(simulation, bare, share=0.1, epsilons=(8.0,), seeds=(0,), folder=tmp_path)
