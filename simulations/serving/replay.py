"""MovieLens-1M in the order of each user's time: does feedback that counts at once find the next item better?

The model is trained on the first half of every user's ratings. Then each user's later ratings come one by one; before
each, all items are ranked, and NDCG@10 of that next item is taken.
"""

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from recsys_fed.data.sources import Request, read
from recsys_fed.serving.fold_in import build_equations
from recsys_fed.serving.history import IMPORTED, Event, build_history
from recsys_fed.serving.packed_model import Floats, PackedModel, Rows, read_packed_model
from recsys_fed.serving.packing import pack
from recsys_fed.serving.reload import CATALOGUE_FILE, MODEL_FILE
from recsys_fed.serving.search import ExactSearch
from recsys_fed.serving.settings import FeedbackSettings
from recsys_fed.serving.versions import DIGITS

_COMMAND = "from recsys_fed.cli import main; main()"
_K = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class Halves:
    """Each user's items in the order of time, cut in two, and a model of the first halves."""

    release: PackedModel
    before: dict[str, list[str]]
    after: dict[str, list[str]]


def halves(data: Path, *, epsilon: float, seed: int = 0, target: str = "any") -> Halves:
    """Cut the data, and train on the first halves with the command line's own defaults but for the target."""
    dataset = read(Request(path=data))
    found = dataset.interactions
    if found.time is None:
        raise ValueError("Expected interactions with times.")
    frame = pd.DataFrame(
        {"user": found.user_ids[found.user], "item": found.item_ids[found.item], "time": found.time}
    ).sort_values(["user", "time"], kind="stable")
    place = frame.groupby("user").cumcount()
    early = place < frame.groupby("user")["item"].transform("size") // 2
    with tempfile.TemporaryDirectory(prefix="recsys-fed-") as name:
        folder = Path(name)
        dataset.catalogue.save(folder / CATALOGUE_FILE)
        frame[early].to_parquet(folder / "early.parquet", index=False)
        arguments = [
            "simulate", "--data", folder / "early.parquet", "--item-catalogue", folder / CATALOGUE_FILE,
            "--epsilon", epsilon, "--seed", seed, "--target", target, "--output", folder / "run",
        ]  # fmt: skip
        subprocess.run([sys.executable, "-c", _COMMAND, *map(str, arguments)], check=True, capture_output=True)
        version = pack(folder / "run" / MODEL_FILE, folder / "run" / CATALOGUE_FILE, folder)
        release = read_packed_model(folder / "versions" / version[:DIGITS])
    return Halves(release=release, before=_lists(frame[early]), after=_lists(frame[~early]))


def _lists(frame: pd.DataFrame) -> dict[str, list[str]]:
    return {str(user): items.tolist() for user, items in frame.groupby("user")["item"]}


def replay(cut: Halves, *, users: int, steps: int, seed: int = 1) -> dict[str, float]:
    """NDCG@10 of the next item, mean over users: with feedback, without, and with seen items left out only."""
    rng = np.random.default_rng(seed)
    known = [user for user in cut.after if user in cut.before]
    chosen = rng.choice(known, size=min(users, len(known)), replace=False)
    rows = [_user(cut, str(user), steps) for user in chosen]
    names = ("with feedback", "without feedback", "without feedback, seen items left out")
    return {name: float(np.mean([row[name] for row in rows])) for name in names} | {
        "users": float(len(rows)),
        "better for a user": float(np.mean([row[names[0]] > row[names[2]] for row in rows])),
        "worse for a user": float(np.mean([row[names[0]] < row[names[2]] for row in rows])),
    }


def _user(cut: Halves, user: str, steps: int) -> dict[str, float]:
    settings, release = FeedbackSettings(), cut.release
    search = ExactSearch(release)
    first = [Event(user=user, item=item, kind=IMPORTED, time=0.0) for item in cut.before[user]]
    history = build_history(first, settings)
    equations = build_equations(release, history)
    old, seen_then = equations.solve(now=0.0).astype(np.float32), history.consumed_rows(release)
    gains: dict[str, list[float]] = {}
    for item in cut.after[user][:steps]:
        row, seen = release.row_of[item], history.consumed_rows(release)
        new = equations.solve(now=0.0).astype(np.float32)
        for name, vector, without in (
            ("with feedback", new, seen),
            ("without feedback", old, seen_then),
            ("without feedback, seen items left out", old, seen),
        ):
            gains.setdefault(name, []).append(_gain(search, vector, without, row))
        change = history.apply(Event(user=user, item=item, kind="rating", time=0.0), settings)
        if change is not None:
            equations.update(change, history)
    return {name: float(np.mean(values)) for name, values in gains.items()}


def _gain(search: ExactSearch, vector: Floats, without: Rows, row: int) -> float:
    """NDCG@10 of one relevant item."""
    found = np.flatnonzero(search.best(vector, _K, without=without)[0] == row)
    return float(1.0 / np.log2(2.0 + found[0])) if len(found) else 0.0
