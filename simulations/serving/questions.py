"""Cold users: lists after so many questions, proposed by the service or simply about the most popular items.

The model is trained without the users who are asked. Somebody who is asked about an item answers if there is a rating
of it: four and more is a like, two and less a dislike. To be found are the likes that were not asked about.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import pandas as pd

from recsys_fed.api import Federation
from recsys_fed.data.dataset import Dataset
from recsys_fed.data.locate import open_dataset
from recsys_fed.federation.run_files import EMBEDDINGS
from recsys_fed.serving.fold_in import fold_in
from recsys_fed.serving.packed_model import PackedModel, read_packed_model
from recsys_fed.serving.packing import pack
from recsys_fed.serving.questions import propose_questions
from recsys_fed.serving.versions import DIGITS
from recsys_fed.simulation.runner import CATALOGUE

_LIKED, _DISLIKED, _K = 4.0, 2.0, 20
_COUNTS = (5, 10, 20)
Rows = npt.NDArray[np.int64]


def questions_table(
    data: Path, *, epsilon: float, users: int, seed: int = 0, dislikes: float = 0.0
) -> dict[str, dict[str, float]]:
    """NDCG@20 of users whom training never saw, after 5, 10 and 20 questions of either sort; and answers a user.

    Dislikes are subtracted from a user's vector with the weight `dislikes`, which the service does not do.
    """
    dataset = open_dataset(str(data), say=lambda _: None)
    rows = dataset.interactions
    rng = np.random.default_rng(seed)
    cold = np.zeros(rows.n_users, dtype=bool)
    cold[rng.choice(rows.n_users, users, replace=False)] = True
    warm = ~cold[rows.user]
    frame = pd.DataFrame({"user": rows.user_ids[rows.user[warm]], "item": rows.item_ids[rows.item[warm]]})
    others = Dataset.from_frame(frame, user="user", item="item", catalogue=dataset.catalogue)
    run = Federation(others, silos=10, secure_aggregation=True).train("spectral", epsilon=epsilon, split="none")
    with TemporaryDirectory() as folder:
        version = pack(run.folder / EMBEDDINGS, run.folder / CATALOGUE, Path(folder))
        release = read_packed_model(Path(folder) / "versions" / version[:DIGITS])
    of_item = others.catalogue.rows(rows.item_ids)
    answers = []
    for user in np.flatnonzero(cold):
        own = rows.user == user
        items, stars = of_item[rows.item[own]], np.asarray(rows.value)[own]
        answers.append((items[items >= 0], stars[items >= 0]))
    table: dict[str, dict[str, float]] = {}
    nothing = np.empty(0, dtype=np.int64)
    for count in _COUNTS:
        popular = np.argsort(-release.bias, kind="stable")[:count]
        for name, asked in (("popular", popular), ("proposed", propose_questions(release, nothing, count)[0])):
            table[f"{count} questions, {name}"] = _measure(release, asked, answers, dislikes=dislikes)
    return table


def _measure(
    release: PackedModel, asked: Rows, answers: list[tuple[Rows, npt.NDArray[np.float32]]], *, dislikes: float
) -> dict[str, float]:
    gains, known = [], []
    for items, stars in answers:
        wanted = np.setdiff1d(items[stars >= _LIKED], asked)
        if not len(wanted):
            continue
        liked, disliked = (np.intersect1d(items[some], asked) for some in (stars >= _LIKED, stars <= _DISLIKED))
        vector = fold_in(release, liked, np.ones(len(liked)))
        if dislikes and len(liked):
            # As the vector of the likes is scaled, so that one dislike of a user with one like counts `dislikes`.
            vector -= (
                dislikes
                * (release.weights[disliked] @ release.vectors[disliked].astype(np.float64))
                / max(float(np.linalg.norm(release.weights[liked])), 1e-12)
            )
        scores = release.bias + release.vectors @ vector
        scores[asked] = -np.inf
        hits = np.isin(np.argsort(-scores, kind="stable")[:_K], wanted)
        discounts = 1 / np.log2(np.arange(2, _K + 2))
        gains.append(float(hits @ discounts / discounts[: len(wanted)].sum()))
        known.append(len(np.intersect1d(items, asked)))
    return {"ndcg@20": round(float(np.mean(gains)), 4), "answers": round(float(np.mean(known)), 2)}
