"""A federated model as a scorer of LensKit: in its pipelines and its evaluation, trained under a guarantee."""

import numpy as np
import pandas as pd
from lenskit.batch import recommend
from lenskit.data import ItemList, ItemListCollection, QueryInput, RecQuery, from_interactions_df
from lenskit.metrics import NDCG, RunAnalysis
from lenskit.pipeline import Component, topn_pipeline
from lenskit.training import Trainable, TrainingOptions
from pydantic import BaseModel

from recsys_fed import Catalogue, Dataset, Federation


class FederatedConfig(BaseModel):
    """Settings of the scorer; epsilon is what every user is promised."""

    trainer: str = "spectral"
    silos: int = 5
    epsilon: float = 8.0
    seed: int = 0


class FederatedScorer(Component[ItemList], Trainable):
    """Trains on the pairs of user and item of a data set; a query's user is folded in from its items."""

    config: FederatedConfig

    def train(self, data, options: TrainingOptions = TrainingOptions()):  # noqa: B008  (as LensKit has it)
        if hasattr(self, "model") and not options.retrain:
            return
        pairs = data.interaction_table(format="pandas", original_ids=True)
        catalogue = Catalogue(item_ids=data.items.ids().astype(str).astype(object))
        dataset = Dataset.from_frame(pairs, user="user_id", item="item_id", catalogue=catalogue)
        settings = {"split": "none"}
        federation = Federation(dataset, silos=self.config.silos, secure_aggregation=True, settings=settings)
        run = federation.train(self.config.trainer, epsilon=self.config.epsilon, seed=self.config.seed)
        self.model, self.guarantee = run.model, run.guarantee

    def __call__(self, query: QueryInput, items: ItemList) -> ItemList:
        catalogue, (_, vectors, bias) = self.model.catalogue, self.model.to_numpy()
        known = RecQuery.create(query).user_items
        history = np.array([] if known is None else known.ids(), dtype=str).astype(object)
        user = self.model.fold_in(history[catalogue.rows(history) >= 0])
        rows = catalogue.rows(items.ids().astype(str))
        return ItemList(items, scores=np.where(rows >= 0, vectors[rows] @ user + bias[rows], np.nan))


def shop(users=600, taken=12):
    """Users who like one of three shelves, and for each an item that is held out."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(users), taken)
    item = 30 * (user % 3) + (30 * rng.random(len(user)) ** 2).astype(int)
    pairs = pd.DataFrame({"user_id": user, "item_id": item}).drop_duplicates()
    held_out = pairs.groupby("user_id").sample(1, random_state=0)
    return pairs.drop(held_out.index), held_out


if __name__ == "__main__":
    known, held_out = shop()
    pipeline = topn_pipeline(FederatedScorer(FederatedConfig(epsilon=8.0)), n=10)
    pipeline.train(from_interactions_df(known))
    lists = recommend(pipeline, held_out["user_id"].unique(), n_jobs=1)
    analysis = RunAnalysis()
    analysis.add_metric(NDCG())
    found = analysis.measure(lists, ItemListCollection.from_df(held_out, key=["user_id"]))
    print(f"federated in LensKit: NDCG {found.list_summary().loc['NDCG', 'mean']:.3f}")
    print(pipeline.node("scorer").component.guarantee.sentence())
