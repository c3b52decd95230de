"""`python -m simulations.quality.volunteers N`: what N users who make their histories public are worth to the others.

N users of the UltraGCN split are taken out of train and test, and are the public users of every second run: the users
who are left are the same in both. Ten silos, masked; the seed draws the volunteers, the silos, and the noise.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from recsys_fed.config import FederationConfig, SimulationConfig
from recsys_fed.data.dataset import Dataset
from recsys_fed.data.locate import open_dataset
from recsys_fed.simulation.runner import Simulation, simulate

_VOLUNTEERS = 5
_CONSENT = "agreed to publication, in this simulation"


def split_volunteers(dataset: Dataset, count: int, *, seed: int, folder: Path) -> SimulationConfig:
    """Write the item lists of the other users, and a table of the volunteers beside them.

    Args:
        dataset: with a given split and whole numbers as ids.
    """
    found, test = dataset.interactions, np.asarray(dataset.is_test, dtype=bool)
    rows = pd.DataFrame({"user": found.user_ids[found.user], "item": found.item_ids[found.item]})
    users = np.array(sorted(rows["user"][~test].unique(), key=int), dtype=object)
    volunteers = np.random.default_rng([seed, _VOLUNTEERS]).permutation(users)[:count]
    apart = rows["user"].isin(volunteers)
    for name, part in (("train.txt", ~test), ("test.txt", test)):
        lists = rows[~apart & part].groupby("user", sort=False)["item"].agg(" ".join)
        (folder / name).write_text("".join(f"{user} {items}\n" for user, items in lists.items()))
    table = folder / "volunteers.csv"
    public = rows[apart & ~test].assign(consent=_CONSENT)
    public.assign(user="v" + public["user"]).to_csv(table, index=False)
    return SimulationConfig(data=str(folder), public_users=str(table))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a JSON line for each seed: Recall@20 without and with the volunteers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--epsilon", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args(arguments)
    dataset = open_dataset("ultragcn")
    for seed in range(options.seeds):
        federation = FederationConfig(
            silos=10, trainer="auto", secure_aggregation="on", epsilon=options.epsilon, seed=seed, threads=1
        )
        row: dict[str, float] = {"volunteers": options.count, "epsilon": options.epsilon, "seed": seed}
        with tempfile.TemporaryDirectory() as place:
            data = split_volunteers(dataset, options.count, seed=seed, folder=Path(place))
            for name, given in (("without", replace(data, public_users="")), ("with", data)):
                record = simulate(Simulation(federation=federation, data=given))
                row[name] = round(float(record["metrics"]["recall@20"]), 5)  # type: ignore[index]
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
