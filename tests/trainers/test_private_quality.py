"""With all of the noise at epsilon = 8, both trainers beat popularity on generated data."""

from functools import cache

import numpy as np
import pytest
from plain_trainers import facts_of, noise_of, run
from plain_trainers import one_thread as _one_thread  # noqa: F401

from recsys_fed.data.generate import generate
from recsys_fed.data.silo import histories
from recsys_fed.data.split import split
from recsys_fed.evaluation.baselines import popularity
from recsys_fed.evaluation.protocol import evaluate_ranking
from recsys_fed.models.histories import histories_of
from recsys_fed.models.items import scores, user_vectors
from recsys_fed.trainers.registry import make_trainer

METRIC = "recall@20"


@cache
def data():
    dataset = generate(n_users=3_000, n_items=300, mean_interactions=40, n_groups=8, seed=1)
    mask = split(dataset, rng=np.random.default_rng(0))
    return tuple(histories(dataset.interactions, dataset.catalogue, m) for m in (~mask, mask))


@pytest.mark.parametrize("name", ["spectral", "dp-sgd"])
@pytest.mark.parametrize("silos", [1, 2])
def test_the_noised_model_beats_popularity(name, silos):
    train, test = data()
    matrices = np.array_split(train.toarray(), silos)
    trainer = make_trainer(name)
    facts = facts_of(train.shape[1], declared_users=3_000, silos=silos)
    facts, noise_multiplier = noise_of(matrices, facts, trainer, epsilon=8.0)
    assert noise_multiplier > 0
    model = trainer.item_embeddings(run(trainer, facts, matrices, noise_multiplier=noise_multiplier)[-1])
    users = user_vectors(model, histories_of(train))
    found = evaluate_ranking(lambda rows: scores(model, users[rows]), train=train, test=test).means()[METRIC]
    baseline = evaluate_ranking(popularity(train), train=train, test=test).means()[METRIC]
    assert found > 1.1 * baseline
