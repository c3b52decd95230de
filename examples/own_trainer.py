"""A trainer of your own: one release of how often items are bought, weighed by how few items a user has."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from recsys_fed import Dataset, Federation, ItemEmbeddings, Trainer
from recsys_fed.models.items import FoldIn
from recsys_fed.privacy.events import PlannedRelease
from recsys_fed.testing import check_trainer
from recsys_fed.trainers.trainer import Layout, Stage


@dataclass(frozen=True, kw_only=True)
class Bestsellers(Trainer):
    """Each user adds a vector of length 1 at most: size^-power at each of the items, power >= 1/2."""

    name: ClassVar[str] = "bestsellers"
    power: float = 0.5

    def plan(self, facts):
        return (Stage(name="sales", release=PlannedRelease(released="item counts")),)

    def start(self, facts, rng):
        return facts, torch.zeros(facts.n_items)

    def layout(self, facts, stage):
        return Layout(shape=(facts.n_items, 1))

    def contribution(self, stage, tables, histories, *, settings):
        total = torch.zeros(histories.n_items, 1, dtype=torch.float64)
        for block in histories.blocks():
            sizes = block.starts.diff()
            weights = sizes.clamp_min(1).double() ** -self.power * settings["l2_clip_norm"]
            of_each = torch.repeat_interleave(weights, sizes)
            total[:, 0] += torch.bincount(block.items, weights=of_each, minlength=block.n_items)
        return total

    def step(self, state, stage, total, *, noise_std, n_silos):
        return state[0], total[:, 0].float()

    def item_embeddings(self, state):
        facts, counts = state
        return ItemEmbeddings(
            vectors=torch.zeros(facts.n_items, 1),
            bias=counts,
            history_weights=torch.ones(facts.n_items),
            fold_in=FoldIn(kind="projection"),
            catalogue_hash=facts.catalogue_hash,
        )


if __name__ == "__main__":
    check_trainer(Bestsellers())
    federation = Federation(Dataset.open("generated:users=300,items=100"), silos=3)
    run = federation.train(Bestsellers(power=0.6), epsilon=4.0)
    print(run.record["trainer"], f"{run.metrics['ndcg@20']:.3f}", run.guarantee.sentence())
