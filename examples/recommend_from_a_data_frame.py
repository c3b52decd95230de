"""Your own data frame to recommendations: five silos train one model, privately."""

import numpy as np
import pandas as pd

from recsys_fed import Dataset, Federation, Spectral

# Purchases of 600 customers, half of whom like the first half of the shop.
rng = np.random.default_rng(0)
customer = np.repeat(np.arange(600), 12)
shelf = 40 * (customer % 2)
sku = shelf + (40 * rng.random(len(customer)) ** 2).astype(int)
purchases = pd.DataFrame({"customer": customer, "sku": [f"sku-{number}" for number in sku]})

federation = Federation(Dataset.from_frame(purchases, user="customer", item="sku"), silos=5, secure_aggregation=True)
run = federation.train(Spectral(), epsilon=2, delta=1e-6, seed=0)

print(run.guarantee.sentence())
print(f"Recall@20 {run.metrics['recall@20']:.3f}")
for found in run.model.recommend(["sku-17"], k=5):
    print(found.rank, found.item, f"{found.score:.3f}")
print("like sku-17:", [found.item for found in run.model.similar("sku-17", k=3)])
