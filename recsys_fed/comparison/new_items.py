"""Cold start: items that were held out of training altogether, ranked by their public features.

For each seed a random share of the items is taken out of the catalogue. Silos train without them, the released
vectors are mapped to them (`models.new_items`), and each user's history of the other items ranks the held-out ones.
What is to be found are all of the user's interactions with held-out items. The yardsticks are a random order, and
the features by themselves: the mean features of the history against those of the item, without any training.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from recsys_fed import checks
from recsys_fed.catalogue.features import public_features
from recsys_fed.catalogue.items import Catalogue, drop_items
from recsys_fed.data.simulated import SimulatedFederation
from recsys_fed.errors import ConfigurationError
from recsys_fed.evaluation.metrics import HEADLINE_CUTOFF, HEADLINE_NAMES
from recsys_fed.evaluation.protocol import evaluate_ranking
from recsys_fed.federation.run_files import EMBEDDINGS
from recsys_fed.models.items import load_item_embeddings
from recsys_fed.models.new_items import with_new_items
from recsys_fed.personalisation.silo_model import Floats, released_scores
from recsys_fed.simulation.runner import Simulation, simulate

RANDOM, FEATURES, MAPPED = "random", "features alone", "mapped from features"
_HELD_OUT = 33
_METRICS = tuple(reversed(HEADLINE_NAMES))
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class _HeldOutItems:
    """One draw of items that training does not see.

    Attributes:
        catalogue, features: of all items.
        new: which of them are held out, bool [n_items].
        known: train histories without them, csr [n_users, n_items].
        asked: all interactions with them, csr [n_users, n_new].
        unranked: those with them that the protocol neither trains on nor ranks, csr like `asked`.
    """

    catalogue: Catalogue
    features: sparse.csr_matrix
    new: npt.NDArray[np.bool_]
    known: sparse.csr_matrix
    asked: sparse.csr_matrix
    unranked: sparse.csr_matrix


def new_item_record(
    simulation: Simulation,
    federation: SimulatedFederation,
    *,
    share: float,
    epsilons: tuple[float, ...],
    seeds: tuple[int, ...],
    folder: Path,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Hold out, train by whole simulated runs, map and rank, for each seed and budget.

    Args:
        simulation: a prepared one; federation: its data.
        share: of the items that are held out.
        epsilons: budgets; infinity trains without noise.
        seeds: of the held-out items and the runs.
        folder: for the runs and their catalogues.
        say: takes a line of progress.

    Raises:
        ConfigurationError: a share outside (0, 1), or a catalogue without public features.
    """
    checks.fraction(share=share)
    features = public_features(federation.catalogue, kinds=simulation.federation.feature_kinds.split(","))
    if features is None:
        raise ConfigurationError("Expected a catalogue with public features for new items, got ids only.")
    found: dict[tuple[str, float], list[dict[str, float]]] = {}
    for seed in seeds:
        rng = np.random.default_rng([seed, _HELD_OUT])
        items = _held_out(federation, features, share=share, rng=rng)
        found.setdefault((RANDOM, np.inf), []).append(_quality(rng.random(items.asked.shape), items))
        found.setdefault((FEATURES, np.inf), []).append(_quality(_score_by_features(items), items))
        for epsilon in epsilons:
            say(f"new items: epsilon {epsilon:g}, seed {seed}")
            config = replace(simulation.federation, epsilon=epsilon, seed=seed)
            run = folder / f"new-items-epsilon-{epsilon:g}-seed-{seed}"
            scores = _score_by_model(replace(simulation, federation=config), items, run)
            found.setdefault((MAPPED, epsilon), []).append(_quality(scores, items))
    return {
        "share": share,
        "n_new": int(items.new.sum()),
        "lines": [_line(method, epsilon, values) for (method, epsilon), values in found.items()],
    }


def _held_out(
    federation: SimulatedFederation, features: sparse.csr_matrix, *, share: float, rng: np.random.Generator
) -> _HeldOutItems:
    catalogue = federation.catalogue
    new = np.zeros(catalogue.n_items, dtype=bool)
    new[rng.choice(catalogue.n_items, max(1, round(share * catalogue.n_items)), replace=False)] = True
    known = sparse.csr_matrix(federation.train @ sparse.diags((~new).astype(np.float32)))
    known.eliminate_zeros()
    columns = np.flatnonzero(new)
    return _HeldOutItems(
        catalogue=catalogue,
        features=features,
        new=new,
        known=known,
        asked=sparse.csr_matrix((federation.train + federation.test)[:, columns]),
        unranked=sparse.csr_matrix((federation.excluded - federation.train)[:, columns]),
    )


def _score_by_features(items: _HeldOutItems) -> Floats:
    """Mean features of the history against those of the item, which is scaled to norm 1."""
    norms = np.sqrt(np.asarray(items.features.multiply(items.features).sum(axis=1)).ravel())
    scaled = sparse.csr_matrix(sparse.diags(1 / np.maximum(norms, 1e-12)) @ items.features)
    return np.asarray((items.known @ scaled @ scaled[np.flatnonzero(items.new)].T).toarray(), dtype=np.float64)


def _score_by_model(simulation: Simulation, items: _HeldOutItems, run: Path) -> Floats:
    """Train without the items in a whole run, and map the model to them."""
    catalogue = drop_items(items.catalogue, items.new)
    run.mkdir(parents=True, exist_ok=True)
    path = run / "known_items.parquet"
    catalogue.save(path)
    simulate(
        replace(simulation, data=replace(simulation.data, item_catalogue=str(path), public_users="")), output=run
    )
    mapped = with_new_items(
        load_item_embeddings(run / EMBEDDINGS),
        items.features,
        catalogue.rows(items.catalogue.item_ids),
        catalogue_hash=items.catalogue.content_hash,
    )
    return released_scores(mapped, items.known)[:, items.new]


def _quality(scores: Floats, items: _HeldOutItems) -> dict[str, float]:
    table = torch.from_numpy(np.ascontiguousarray(scores))
    means = evaluate_ranking(
        lambda rows: table[rows],
        train=items.unranked,
        test=items.asked,
        cutoffs=(HEADLINE_CUTOFF,),
        whole_ranking=False,
    ).means()
    return {name: means[name] for name in _METRICS}


def _line(method: str, epsilon: float, values: list[dict[str, float]]) -> dict[str, Any]:
    return {
        "method": method,
        "epsilon": "inf" if np.isinf(epsilon) else epsilon,
        **{
            name: {
                "mean": float(np.mean([value[name] for value in values])),
                "std": float(np.std([value[name] for value in values], ddof=1)) if len(values) > 1 else None,
            }
            for name in _METRICS
        },
    }
