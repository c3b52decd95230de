"""Users who rate: made-up tables of ratings, a federation without transport on them, and errors of what it trains."""

import numpy as np
import torch
from plain_trainers import facts_of
from scipy import sparse

from recsys_fed.models.histories import Histories, Signals
from recsys_fed.models.items import user_vectors

FIVE_STARS = {"middle": 3.0, "half": 2.0, "regularization": 0.19}


def rated(table) -> Histories:
    """Histories of a dense table of ratings, 0 is no interaction and -1 one without a rating."""
    table = np.asarray(table, dtype=np.float64)
    users, items = np.nonzero(table)
    values = np.where(table == -1, np.nan, table)[users, items].astype(np.float32)
    starts = np.searchsorted(users, np.arange(len(table) + 1))
    return Histories(
        items=torch.from_numpy(items.astype(np.int32)),
        starts=torch.from_numpy(starts.astype(np.int64)),
        n_items=table.shape[1],
        signals=Signals(value=torch.from_numpy(values)),
    )


def drawn(rng, n_users, n_items, *, values=(0, 0, -1, 1, 2, 3, 4, 5)):
    return rng.choice(values, (n_users, n_items)).astype(float)


def own(row):
    """Items and ratings on [-1, 1] of a user's row."""
    items = np.flatnonzero((row != 0) & (row != -1))
    return items, np.clip((row[items] - 3) / 2, -1, 1)


def plain_vector(z, targets, regularization):
    return np.linalg.solve(z.T @ z + regularization * np.eye(z.shape[1]), z.T @ targets)


def fitted(trainer, histories, *, noise=0.0, features=None, seed=0, **facts):
    facts = facts_of(histories.n_items, noise_level=noise, features=features, **facts)
    rng = np.random.default_rng(seed)
    state = trainer.start(facts, rng)
    for stage in trainer.plan(facts):
        how = {**stage.settings, "l2_clip_norm": 1.0}
        total = trainer.contribution(stage.name, trainer.tables(state, stage), histories, settings=how)
        std = noise * stage.release.relative_noise
        total = total + std * torch.from_numpy(rng.standard_normal(tuple(total.shape)))
        state = trainer.step(state, stage, total, noise_std=std, n_silos=1)
    return trainer.item_embeddings(state)


def error(model, histories, test):
    predicted = (user_vectors(model, histories) @ model.vectors.T + model.bias).numpy().clip(1, 5)
    users, items = np.nonzero(test)
    return np.sqrt(np.mean((predicted[users, items] - test[users, items]) ** 2))


def world(seed=0, n_users=400, n_items=80):
    """Ratings of users with levels, of items with means, and of two tastes; a tenth of them held out."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(3.2, 0.5, (n_users, 1)) + rng.normal(0, 0.5, n_items)
    tastes, kinds = rng.standard_normal((n_users, 2)), rng.standard_normal((n_items, 2))
    scores = scores + 0.5 * tastes @ kinds.T
    table = np.clip(np.round(scores + rng.normal(0, 0.5, scores.shape)), 1, 5)
    table[rng.random(table.shape) < 0.5] = 0
    held = (rng.random(table.shape) < 0.1) & (table > 0)
    return np.where(held, 0, table), np.where(held, table, 0), sparse.csr_matrix(np.column_stack([kinds, -kinds]))


def user_mean_error(train, test):
    counts = (train > 0).sum(1)
    means = (train.sum(1) + 2 * 3.2) / (counts + 2)
    users, items = np.nonzero(test)
    return np.sqrt(np.mean((means[users] - test[users, items]) ** 2))
