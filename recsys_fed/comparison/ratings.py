"""Should we federate, for ratings: errors of every user's own mean, each silo alone, the private model, no privacy.

A silo alone trains the same trainer on its own users without noise: what it trains never leaves. Biased matrix
factorisation of all users in one place, by alternating least squares (Koren, Bell and Volinsky 2009,
doi 10.1109/MC.2009.263), is the reference without privacy; its size and strength are chosen on a tenth of train.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from recsys_fed.catalogue.features import public_features
from recsys_fed.comparison.compare import GLOBAL, LOCAL, Comparison, prepare_comparison, train_runs
from recsys_fed.comparison.record import KIND
from recsys_fed.data.simulated import SimulatedFederation, silo_histories
from recsys_fed.evaluation.metrics import ERRORS
from recsys_fed.evaluation.rating_errors import rating_errors, ratings_of, user_means
from recsys_fed.models.histories import Histories
from recsys_fed.models.items import FoldIn, ItemEmbeddings, predicted_ratings, ridge, user_vectors
from recsys_fed.simulation.runner import Progress, Steps
from recsys_fed.trainers.registry import configured_trainer
from recsys_fed.trainers.trainer import PublicFacts, Trainer

OWN_MEAN, FACTORISED = "own mean", "biased MF, pooled"
_SIZES, _STRENGTHS, _SWEEPS = (8, 24), (3.0, 6.0, 12.0), 8
_CHOICE = 32

Predicted = npt.NDArray[np.floating]


def compare_ratings(
    comparison: Comparison, *, output: Path | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Train and measure everything; the record says what `compare` prints for target = rating.

    Every private model is the outcome of a whole simulated run, with its ledgers and certificates.

    Raises:
        RecsysFedError: see `simulate`.
    """
    progress = progress or Progress()
    ready, federation = prepare_comparison(comparison)
    simulation = ready.simulation
    runs = len(comparison.epsilons) * comparison.n_seeds + 1
    steps = Steps(runs + simulation.federation.silos + 1, progress)
    with ExitStack() as stack:
        folder = output or Path(stack.enter_context(TemporaryDirectory(prefix="recsys-fed-compare-")))
        models = dict(train_runs(ready, folder, steps, progress))
    lines = list(_lines(ready, federation, models, steps))
    return {
        "kind": KIND,
        "target": "rating",
        "data": federation.dataset.name,
        "data_note": federation.dataset.note,
        "n_users": federation.train.shape[0],
        "n_items": federation.train.shape[1],
        "n_silos": simulation.federation.silos,
        "delta": simulation.federation.delta,
        "seeds": list(comparison.seeds),
        "lines": lines,
    }


def _lines(
    comparison: Comparison, federation: SimulatedFederation, models: Mapping[tuple[float, int], ItemEmbeddings],
    steps: Steps,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    train, test = federation.histories, federation.test_histories
    how = next(iter(models.values())).fold_in
    own = user_means(train, lowest=how.lowest, highest=how.highest)
    yield _line(OWN_MEAN, [own[test.users.numpy()]], federation)
    yield _line(LOCAL, [_predict_alone(comparison, federation, steps)], federation)
    for epsilon in (*sorted(comparison.epsilons), math.inf):
        predicted = [_predict(model, train, test) for key, model in models.items() if key[0] == epsilon]
        method = (
            GLOBAL if math.isfinite(epsilon) else f"{comparison.simulation.federation.trainer}, pooled, no privacy"
        )
        yield _line(method, predicted, federation, epsilon=epsilon)
    steps.begin(FACTORISED)
    size, strength = _choose(train, rng=np.random.default_rng([comparison.simulation.data.data_seed, _CHOICE]))
    found = _factorise(train, test, size=size, strength=strength)
    note = f"{size} factors, strength {strength:g}"
    yield _line(FACTORISED, [found.clip(how.lowest, how.highest)], federation, note=note)


def _line(
    method: str,
    of_seeds: Sequence[Predicted],
    federation: SimulatedFederation,
    *,
    epsilon: float = math.inf,
    note: str = "",
) -> dict[str, Any]:
    """Errors by group, each the mean over seeds and, of several seeds, their standard deviation."""
    errors = [rating_errors(predicted, federation.test_histories, federation.train) for predicted in of_seeds]
    groups = {
        group: {name: _spread([found[group][name] for found in errors]) for name in ERRORS} for group in errors[0]
    }
    return {"method": method, "epsilon": "inf" if math.isinf(epsilon) else epsilon, "note": note, "errors": groups}


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    return {"mean": mean(values), "std": stdev(values) if len(values) > 1 else None}


def _predict(model: ItemEmbeddings, train: Histories, test: Histories) -> Predicted:
    return np.asarray(predicted_ratings(model, user_vectors(model, train), test).numpy())


def _predict_alone(comparison: Comparison, federation: SimulatedFederation, steps: Steps) -> Predicted:
    """Predictions for every silo's users from what the silo learns alone, in the order of the test histories."""
    config, predicted = comparison.simulation.federation, np.zeros(len(federation.test_histories.items))
    trainer = configured_trainer(config)
    kinds = config.feature_kinds.split(",")
    features = public_features(federation.catalogue, kinds=kinds) if config.item_features else None
    for silo, users in enumerate(federation.users_of_silo):
        steps.begin(f"silo {silo} alone")
        own = silo_histories(federation, silo, reads=trainer.reads)
        model = _train_alone(trainer, own, PublicFacts(
            n_items=own.n_items, catalogue_hash=federation.catalogue.content_hash, declared_users=max(len(users), 1),
            silos=1, noise_level=0.0, features=features,
            embedding_dim=config.embedding_dim, rounds=config.rounds,
        ), seed=config.seed)  # fmt: skip
        rows = torch.from_numpy(users)
        of_silo = np.isin(federation.test_histories.users.numpy(), users)
        # Users of a silo are ascending, so that their test ratings are in the order of all.
        train, test = federation.histories.rows(rows), federation.test_histories.rows(rows)
        predicted[of_silo] = _predict(model, train, test)
    return predicted


def _train_alone(trainer: Trainer, histories: Any, facts: PublicFacts, *, seed: int) -> ItemEmbeddings:
    """Both halves of a trainer in one place, without noise."""
    state = trainer.start(facts, np.random.default_rng(seed))
    for stage in trainer.plan(facts):
        settings = {**stage.settings, "l2_clip_norm": stage.l2_clip_norm}
        total = trainer.contribution(stage.name, trainer.tables(state, stage), histories, settings=settings)
        state = trainer.step(state, stage, total, noise_std=0.0, n_silos=1)
    return trainer.item_embeddings(state)


def _choose(train: Histories, *, rng: np.random.Generator) -> tuple[int, float]:
    """Size and strength of the factorisation with the least squared error on a random tenth of train."""
    held = torch.from_numpy(rng.random(len(train.items)) < 0.1)
    kept, part = train.where(~held), train.where(held)
    wanted = ratings_of(part)

    def error(setting: tuple[int, float]) -> float:
        found = _factorise(kept, part, size=setting[0], strength=setting[1])
        return float(np.nanmean((found - wanted) ** 2))

    return min(((size, strength) for size in _SIZES for strength in _STRENGTHS), key=error)


def _factorise(train: Histories, test: Histories, *, size: int, strength: float) -> npt.NDArray[np.float64]:
    """Predictions of r = mu + b_u + b_i + u v at the interactions of `test`, by alternating least squares."""
    rated = train.where(torch.from_numpy(~np.isnan(ratings_of(train))))
    ratings = torch.from_numpy(ratings_of(rated))
    middle = float(ratings.mean())
    by_item = Histories(items=rated.users_by_item, starts=rated.item_starts, n_items=rated.n_users)
    users_of = by_item.items.long()
    targets = (ratings - middle, (ratings - middle)[rated.order.long()])
    how, generator = FoldIn(kind="ratings", regularization=strength), torch.Generator().manual_seed(0)
    items = torch.cat(
        [torch.ones(rated.n_items, 1), 0.1 * torch.randn(rated.n_items, size, generator=generator)], dim=1
    ).double()
    biases = torch.zeros(rated.n_items, dtype=torch.float64)
    for _ in range(_SWEEPS):
        users = ridge(items, rated, torch.ones_like(biases), how=how, targets=targets[0] - biases[rated.items.long()])
        levels, table = users[:, 0], torch.cat([torch.ones(rated.n_users, 1).double(), users[:, 1:]], dim=1)
        solved = ridge(table, by_item, torch.ones_like(levels), how=how, targets=targets[1] - levels[users_of])
        biases, items = solved[:, 0], torch.cat([torch.ones_like(solved[:, :1]), solved[:, 1:]], dim=1)
    of_user, of_item = test.users, test.items.long()
    scored = (users[of_user, 1:] * items[of_item, 1:]).sum(1)
    return np.asarray((middle + users[of_user, 0] + biases[of_item] + scored).numpy())
