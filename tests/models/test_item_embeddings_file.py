"""The file of item embeddings: what is written is read back, and equal models are equal bytes."""

import hashlib
import subprocess
import sys

import pytest
import torch
from example_model import example
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_fed.models.items import (
    TENSORS,
    FoldIn,
    ItemEmbeddings,
    item_embeddings_bytes,
    load_item_embeddings,
    save_item_embeddings,
)

numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
folds = st.builds(
    FoldIn,
    kind=st.sampled_from(["projection", "ridge"]),
    unobserved_weight=st.floats(0, 1e6),
    regularization=st.floats(1e-6, 1e6),
)


@st.composite
def models(draw):
    n_items, dim = draw(st.integers(0, 4)), draw(st.integers(0, 3))

    def tensor(*shape):
        count = torch.Size(shape).numel()
        return torch.tensor(draw(st.lists(numbers, min_size=count, max_size=count))).reshape(shape)

    return ItemEmbeddings(
        vectors=tensor(n_items, dim),
        bias=tensor(n_items),
        history_weights=tensor(n_items),
        fold_in=draw(folds),
        catalogue_hash=draw(st.text(max_size=8)),
    )


def assert_equal(one, other):
    assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in TENSORS)
    assert (one.fold_in, one.catalogue_hash) == (other.fold_in, other.catalogue_hash)


@settings(max_examples=60, deadline=None)
@given(model=models())
def test_what_is_saved_is_loaded(tmp_path_factory, model):
    path = tmp_path_factory.mktemp("model") / "item-embeddings.safetensors"
    save_item_embeddings(model, path)
    assert_equal(load_item_embeddings(path), model)
    assert [left.name for left in path.parent.iterdir()] == [path.name]


def test_the_bytes_are_those_of_another_process():
    program = """
import hashlib, torch
from recsys_fed.models.items import *
model = ItemEmbeddings(vectors=torch.arange(6.0).reshape(3, 2), bias=torch.tensor([0.1, 0.2, 0.3]),
    history_weights=torch.ones(3), fold_in=FoldIn(kind="ridge", unobserved_weight=0.3), catalogue_hash="cafe")
print(hashlib.sha256(item_embeddings_bytes(model)).hexdigest())
"""
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert other.stdout.strip() == hashlib.sha256(item_embeddings_bytes(example())).hexdigest()


@pytest.mark.parametrize(
    "changes",
    [
        {"vectors": torch.arange(6.0).reshape(3, 2) + 1},
        {"bias": torch.zeros(3)},
        {"history_weights": torch.zeros(3)},
        {"fold_in": FoldIn(kind="ridge", unobserved_weight=0.4)},
        {"catalogue_hash": "beef"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_different_models_are_different_bytes(changes):
    assert item_embeddings_bytes(example()) == item_embeddings_bytes(example())
    assert item_embeddings_bytes(example(**changes)) != item_embeddings_bytes(example())
