"""Items that a protocol leaves unranked are no candidates: without all others every method finds the test items."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from recsys_fed.catalogue.features import public_features
from recsys_fed.comparison import new_items
from recsys_fed.comparison._fused import Fusing
from recsys_fed.comparison.compare import _fold_in_lines, _pooled_lines, _popularity_line, _silo_lines
from recsys_fed.config import FederationConfig, SimulationConfig
from recsys_fed.evaluation.metrics import items_by_popularity
from recsys_fed.models.items import FoldIn, ItemEmbeddings
from recsys_fed.simulation.runner import Simulation, prepare

DATA = "generated:users=90,items=120,interactions=20"


@pytest.fixture(scope="module")
def narrowed():
    """A federation of which every item is trained on, to be found or unranked."""
    simulation = Simulation(federation=FederationConfig(silos=2), data=SimulationConfig(data=DATA, data_seed=0))
    _, federation = prepare(simulation)
    known = (federation.train + federation.test).toarray() > 0
    return replace(federation, unranked=sparse.csr_matrix((~known).astype(federation.train.dtype)))


def models(n_items):
    vectors = torch.randn(n_items, 3, generator=torch.Generator().manual_seed(0))
    model = ItemEmbeddings(
        vectors=vectors, bias=torch.zeros(n_items), history_weights=torch.ones(n_items),
        fold_in=FoldIn(kind="projection"), catalogue_hash="c",
    )  # fmt: skip
    return {(8.0, 0): model}


def test_no_line_ranks_them(narrowed):
    groups, some = items_by_popularity(narrowed.train), models(narrowed.train.shape[1])
    lines = [
        _popularity_line(narrowed, groups),
        *_fold_in_lines(narrowed, some, groups),
        *_silo_lines(narrowed, some, groups, seed=0, say=lambda _: None, fusing=Fusing(attributes={}, contexts=())),
        *_pooled_lines(narrowed, groups, rng=np.random.default_rng(0)),
    ]
    assert len(lines) >= 5
    for line in lines:
        assert np.nanmin(line.per_user["recall@20"]) == 1, line.method


def test_nor_do_new_items(narrowed):
    features = public_features(narrowed.catalogue)
    items = new_items._held_out(narrowed, features, share=0.5, rng=np.random.default_rng(0))
    scores = np.random.default_rng(1).random(items.asked.shape)
    assert items.unranked.nnz
    assert new_items._quality(scores, items)["ndcg@20"] == pytest.approx(1)
    everything = replace(items, unranked=sparse.csr_matrix(items.asked.shape))
    assert new_items._quality(scores, everything)["ndcg@20"] < 0.9
