"""What breadth costs in accuracy, on the second halves of a replay: NDCG@10 beside diversity and exposure."""

import numpy as np

from recsys_fed.evaluation.metrics import by_user_group, exposure
from recsys_fed.serving.diversity import RerankWeights, genre_profile, rerank, tail_of
from recsys_fed.serving.fold_in import build_equations
from recsys_fed.serving.history import IMPORTED, Event, build_history
from recsys_fed.serving.packed_model import PackedModel, Rows
from recsys_fed.serving.search import ExactSearch
from recsys_fed.serving.settings import FeedbackSettings
from simulations.serving.replay import Halves

_K, _CANDIDATES, _HEAD = 10, 100, 0.1
SETTINGS = {
    "by score": RerankWeights(),
    "MMR 0.2": RerankWeights(diversity=0.2),
    "MMR 0.4": RerankWeights(diversity=0.4),
    "calibration 0.3": RerankWeights(calibration=0.3),
    "calibration 0.6": RerankWeights(calibration=0.6),
    "30% outside the head": RerankWeights(group_share=0.3),
    "50% outside the head": RerankWeights(group_share=0.5),
}


def breadth_table(cut: Halves, *, users: int, seed: int = 2) -> dict[str, dict[str, float]]:
    """By setting: NDCG@10 against a user's later items, and what the lists are like."""
    rng, release = np.random.default_rng(seed), cut.release
    known = [user for user in cut.after if user in cut.before]
    chosen = [str(user) for user in rng.choice(known, size=min(users, len(known)), replace=False)]
    tail = tail_of(release, head_share=_HEAD)
    kinds = np.where(tail, "tail", "head").astype(object)
    sizes = np.array([len(cut.before[user]) for user in chosen])
    groups = np.where(sizes < np.median(sizes), "few ratings", "many ratings").astype(object)
    table = {}
    for name, breadth in SETTINGS.items():
        rows = [_user(cut, user, breadth, tail) for user in chosen]
        gains = np.array([gain for _, gain, _, _ in rows])
        table[name] = {
            "ndcg@10": float(gains.mean()),
            "distance in a list": float(np.mean([distance for _, _, distance, _ in rows])),
            "genres off by (KL)": float(np.mean([off for _, _, _, off in rows])),
            "places outside the head": exposure(np.array([listed for listed, _, _, _ in rows]), kinds)["tail"],
            **{f"ndcg@10, {group}": value for group, value in by_user_group(gains, groups).items()},
        }
    return table


def _user(cut: Halves, user: str, breadth: RerankWeights, tail: np.ndarray) -> tuple[Rows, float, float, float]:
    """The list of one user, its NDCG@10, mean distance of two of its items, and how far its genres are off."""
    release = cut.release
    history = build_history(
        [Event(user=user, item=item, kind=IMPORTED, time=0.0) for item in cut.before[user]], FeedbackSettings()
    )
    seen = history.consumed_rows(release)
    vector = build_equations(release, history).solve(now=0.0).astype(np.float32)
    rows, scores = ExactSearch(release).best(vector, _CANDIDATES, without=seen)
    genres = genre_profile(release, seen, np.ones(len(seen)))
    order = rerank(release, rows, scores, _K, breadth=breadth, genres=genres, tail=tail)
    listed = rows[order]
    relevant = {release.row_of[item] for item in cut.after[user]}
    discounts = 1.0 / np.log2(2.0 + np.arange(_K))
    gain = float(discounts[[row in relevant for row in listed.tolist()]].sum() / discounts[: len(relevant)].sum())
    return listed, gain, _distance(release, listed), _off(release, listed, genres)


def _distance(release: PackedModel, listed: Rows) -> float:
    directions = release.vectors[listed] / np.maximum(release.norms[listed], 1e-12)[:, None]
    cosines = directions @ directions.T
    n = len(listed)
    return float(1.0 - (cosines.sum() - n) / (n * (n - 1)))


def _off(release: PackedModel, listed: Rows, genres: dict[str, float]) -> float:
    """KL of the user's genres from those of the list, with the list's mixed by a hundredth."""
    own = genre_profile(release, listed, np.ones(len(listed)))
    wanted = np.array(list(genres.values()))
    found = np.array([own.get(name, 0.0) for name in genres])
    return float((wanted * np.log(wanted / (0.99 * found + 0.01 * wanted))).sum()) if len(wanted) else 0.0
