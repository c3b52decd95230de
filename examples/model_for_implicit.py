"""A federated model where `implicit` has one: fit(csr), recommend, similar_items, and implicit's own evaluation."""

import numpy as np
import pandas as pd
from implicit.cpu.als import AlternatingLeastSquares
from implicit.cpu.matrix_factorization_base import MatrixFactorizationBase
from implicit.evaluation import ranking_metrics_at_k, train_test_split
from scipy import sparse

from recsys_fed import Catalogue, Dataset, Federation, Spectral
from recsys_fed.models.histories import weighted_histories
from recsys_fed.models.items import user_vectors


class FederatedModel(MatrixFactorizationBase):
    """Scores v_i u + b_i as products of (v_i, b_i) and (u, 1), so that implicit's methods are those of the model.

    Rows of `user_items` are users, spread over simulated silos; values weigh a user's items, as implicit has them.
    """

    def __init__(self, trainer=None, *, silos=5, epsilon=8.0, seed=0):
        super().__init__()
        self.trainer, self.silos, self.epsilon, self.seed = trainer or Spectral(), silos, epsilon, seed

    def fit(self, user_items, show_progress=True, callback=None):
        cells = user_items.tocoo()
        frame = pd.DataFrame({"user": cells.row, "item": cells.col, "weight": cells.data})
        catalogue = Catalogue(item_ids=np.arange(user_items.shape[1]).astype(str).astype(object))
        data = Dataset.from_frame(frame, user="user", item="item", weight="weight", catalogue=catalogue)
        federation = Federation(data, silos=self.silos, secure_aggregation=True, settings={"split": "none"})
        self.run = federation.train(self.trainer, epsilon=self.epsilon, seed=self.seed)
        _, vectors, bias = self.run.model.to_numpy()
        self.item_factors = np.column_stack((vectors, bias))
        self.user_factors = self.recalculate_user(None, user_items)
        # Who is similar does not depend on how popular an item is.
        self.directions = AlternatingLeastSquares()
        self.directions.item_factors = vectors

    def recalculate_user(self, userid, user_items):
        users = user_vectors(self.run.model.embeddings, weighted_histories(user_items.astype(np.float32))).numpy()
        return np.column_stack((users, np.ones(len(users), dtype=np.float32)))

    def similar_items(self, itemid, N=10, **more):
        return self.directions.similar_items(itemid, N, **more)

    def save(self, fileobj_or_path):
        self.run.save(fileobj_or_path)


def shop(users=800, items=90, taken=12):
    """Users who like one of three shelves."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(users), taken)
    item = 30 * (user % 3) + (30 * rng.random(len(user)) ** 2).astype(int)
    return sparse.csr_matrix((np.ones(len(user), dtype=np.float32), (user, item)), shape=(users, items))


if __name__ == "__main__":
    train, test = train_test_split(shop(), train_percentage=0.8, random_state=0)
    als = AlternatingLeastSquares(factors=8, random_state=0)
    for name, model in {"federated": FederatedModel(), "implicit's ALS, all data in one place": als}.items():
        model.fit(train, show_progress=False)
        found = ranking_metrics_at_k(model, train, test, K=10, show_progress=False)
        print(f"{name}: ndcg@10 {found['ndcg']:.3f}")
        ids, scores = model.recommend(0, train[0], N=5)
        print("  for user 0:", ids, scores.round(2), "like item 3:", model.similar_items(3, N=3)[0])
