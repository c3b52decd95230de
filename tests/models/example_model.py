"""A small model of item embeddings, whole or with parts of it changed."""

import torch

from recsys_fed.models.items import FoldIn, ItemEmbeddings


def example(**changes):
    parts = {
        "vectors": torch.arange(6.0).reshape(3, 2),
        "bias": torch.tensor([0.1, 0.2, 0.3]),
        "history_weights": torch.ones(3),
        "fold_in": FoldIn(kind="ridge", unobserved_weight=0.3),
        "catalogue_hash": "cafe",
    }
    return ItemEmbeddings(**(parts | changes))
