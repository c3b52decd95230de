"""Logs of exploration from a world whose values are known: do the intervals of the estimates cover them?"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys_fed.serving.exploration import Candidates, propensities
from recsys_fed.serving.fold_in import build_equations, taste_precision
from recsys_fed.serving.history import Event, UserHistory
from recsys_fed.serving.off_policy import LEAST_PROPENSITY, Logged, estimates
from recsys_fed.serving.packed_model import PackedModel
from recsys_fed.serving.search import ExactSearch
from recsys_fed.serving.settings import ExplorationSettings, FeedbackSettings
from simulations.serving.world import make_release

_POOL, _PEOPLE, _DRAWS, _PLACES = 50, 300, 40, 2
POLICIES = {
    "thompson": ExplorationSettings(method="thompson"),
    "thompson, wide": ExplorationSettings(method="thompson", scale=2.0, floor=0.02),
    "linucb": ExplorationSettings(method="linucb"),
    "linucb, own 0.2": ExplorationSettings(method="linucb", own_share=0.2),
    "thompson, wide, own 0.1": ExplorationSettings(method="thompson", scale=2.0, floor=0.02, own_share=0.1),
    "nearly uniform": ExplorationSettings(method="thompson", floor=0.9),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class _World:
    """Requests that may come: for each person _DRAWS lists with the propensities that one request would have drawn.

    Attributes:
        propensity: float64 [people, draws, pool]; the first candidate is the model's own choice.
        score: of the candidates, float64 [people, pool].
        chance: of a like of each candidate, which nobody knows, [people, pool].
    """

    propensity: npt.NDArray[np.float64]
    score: npt.NDArray[np.float64]
    chance: npt.NDArray[np.float64]


def coverage(policy: str, *, logs: int, users: int, seed: int) -> dict[str, dict[str, float]]:
    """Of each estimator the share of logs whose 95% interval holds the truth, the mean estimate, and far misses.

    The truth is the value of the model's own choice at the places that the estimate is about: those at which it had a
    chance of LEAST_PROPENSITY or more. Logs that are too small for an estimate have none, and count as neither.
    """
    rng = np.random.default_rng([seed, 7])
    world = _world(POLICIES[policy], rng)
    open_ = world.propensity[:, :, 0] >= LEAST_PROPENSITY
    truth = float((open_ * world.chance[:, None, 0]).sum() / max(open_.sum(), 1))
    found: dict[str, list[tuple[float, float, float]]] = {}
    naive = []
    for _ in range(logs):
        logged = _log(world, users=users, rng=rng)
        naive.append(_every_place(logged))
        for name, one in estimates(logged).items():
            if name != "shown":
                found.setdefault(name, []).append((one.value, one.low, one.high))
    value, error = np.array(naive).T
    everywhere = float(world.chance[:, 0].mean())
    record = {
        "truth": {"value": round(truth, 4), "share of places": round(float(open_.mean()), 3)},
        "ips of every place, 1.96 errors": {
            "truth": round(everywhere, 4),
            "mean": round(float(value.mean()), 4),
            "coverage": round(float((np.abs(value - everywhere) <= 1.96 * error).mean()), 3),
        },
    }
    for name, triples in found.items():
        value, low, high = np.array(triples).T
        record[name] = {
            "logs with an estimate": len(triples),
            "coverage": round(float(((low <= truth) & (truth <= high)).mean()), 3),
            "mean": round(float(value.mean()), 4),
            "interval too low": round(float((high < truth).mean()), 3),
            "interval too high": round(float((low > truth).mean()), 3),
        }
    return record


def _every_place(logged: Logged) -> tuple[float, float]:
    """IPS of every place, however small its chance was, and its standard error by user."""
    terms = np.where(logged.greedy, logged.reward / logged.greedy_propensity, 0.0)
    sums = np.bincount(logged.user, weights=terms - terms.mean())
    return float(terms.mean()), float(np.sqrt((sums**2).sum()) / len(terms))


def _world(settings: ExplorationSettings, rng: np.random.Generator) -> _World:
    release = make_release(rng)
    parts = [_person(release, settings, rng) for _ in range(_PEOPLE)]
    propensity, score, chance = (np.array(part) for part in zip(*parts, strict=True))
    return _World(propensity=propensity, score=score, chance=chance)


def _person(
    release: PackedModel, settings: ExplorationSettings, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Propensities [draws, pool], scores [pool] and chances [pool] of somebody with a few likes."""
    feedback, history = FeedbackSettings(), UserHistory()
    for row in rng.choice(release.n_items, size=int(rng.integers(1, 12)), replace=False).tolist():
        history.apply(Event(user="u", item=release.item_ids[row], kind="like", time=0.0), feedback)
    vector = build_equations(release, history).solve(now=0.0).astype(np.float32)
    rows, scores = ExactSearch(release).best(vector, _POOL, without=history.consumed_rows(release))
    candidates = Candidates(rows=rows, scores=scores, new=np.zeros(len(rows), dtype=bool))
    precision = taste_precision(release, history)
    drawn = [propensities(candidates, release, precision, settings=settings, rng=rng) for _ in range(_DRAWS)]
    # Some like most of what they see, others little; the model's score says something of it.
    likes = np.clip(
        rng.uniform(0.1, 0.9) * (0.4 + 0.6 * rng.uniform(size=_POOL)) + 0.1 * (scores - scores.mean()), 0, 1
    )
    return np.array(drawn), scores.astype(np.float64), likes.astype(np.float64)


def _log(world: _World, *, users: int, rng: np.random.Generator) -> Logged:
    """A log of users who each come _PLACES times."""
    user = np.repeat(np.arange(users), _PLACES)
    person = np.repeat(rng.integers(len(world.score), size=users), _PLACES)
    drawn = world.propensity[person, rng.integers(_DRAWS, size=len(user))]
    shown = (drawn.cumsum(axis=1) < rng.uniform(size=(len(user), 1))).sum(axis=1).clip(max=_POOL - 1)
    return Logged(
        user=user,
        propensity=drawn[np.arange(len(user)), shown],
        greedy_propensity=drawn[:, 0],
        reward=(rng.uniform(size=len(user)) < world.chance[person, shown]).astype(np.float64),
        greedy=shown == 0,
        score=world.score[person, shown],
        greedy_score=world.score[person, 0],
    )
