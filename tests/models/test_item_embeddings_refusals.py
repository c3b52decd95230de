"""What is no file of item embeddings, or of a model that diverged, is refused and never half read."""

import json

import pytest
import torch
from example_model import example
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from recsys_fed.errors import ConfigurationError, DataFormatError, DataNotFoundError
from recsys_fed.models.items import TENSORS, FoldIn, item_embeddings_bytes, load_item_embeddings


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_cut_file_is_refused(tmp_path_factory, data):
    whole = item_embeddings_bytes(example())
    path = tmp_path_factory.mktemp("cut") / "model"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(DataFormatError):
        load_item_embeddings(path)


@settings(max_examples=400, deadline=None)
@given(place=st.integers(0, len(item_embeddings_bytes(example())) - 1), byte=st.integers(0, 255))
def test_a_changed_byte_gives_a_valid_model_or_a_refusal(tmp_path_factory, place, byte):
    content = bytearray(item_embeddings_bytes(example()))
    content[place] = byte
    path = tmp_path_factory.mktemp("changed") / "model"
    path.write_bytes(content)
    try:
        model = load_item_embeddings(path)
    except DataFormatError:
        return
    assert model.vectors.shape == (3, 2)
    assert all(getattr(model, name).dtype == torch.float32 for name in TENSORS)
    assert isinstance(model.catalogue_hash, str)


def record(**changes):
    return {
        "version": 1,
        "catalogue_hash": "cafe",
        "fold_in": {"kind": "ridge", "unobserved_weight": 0.3, "regularization": 1.0},
    } | changes


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"something": "else"},
        "not json",
        [1, 2],
        record(fold_in={"kind": "median", "unobserved_weight": 0.3, "regularization": 1.0}),
        record(fold_in={"kind": "ridge", "unobserved_weight": -1.0, "regularization": 1.0}),
        record(fold_in={"kind": "ridge", "unobserved_weight": float("nan"), "regularization": 1.0}),
        record(fold_in={"kind": "ridge", "surprise": 1}),
        record(fold_in="ridge"),
        record(version=2),
        record(catalogue_hash=5),
    ],
    ids=str,
)
def test_other_metadata_is_refused(tmp_path, metadata):
    path = tmp_path / "model"
    tensors = {name: getattr(example(), name) for name in TENSORS}
    if metadata is not None and "something" not in metadata:
        text = metadata if isinstance(metadata, str) else json.dumps(metadata)
        metadata = {"recsys-fed item embeddings": text}
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(DataFormatError):
        load_item_embeddings(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"vectors": torch.zeros(3)},
        {"vectors": torch.tensor(1.0)},
        {"vectors": torch.zeros(4, 2)},
        {"bias": torch.zeros(3, 1)},
        {"history_weights": None},
        {"vectors": torch.full((3, 2), float("nan"))},
        {"bias": torch.tensor([0.0, float("inf"), 0.0])},
        {"vectors": torch.zeros(3, 2, dtype=torch.int32)},
        {"vectors": torch.zeros(3, 2, dtype=torch.float64)},
    ],
    ids=str,
)
def test_other_tensors_are_refused(tmp_path, changes):
    path = tmp_path / "model"
    tensors = {name: getattr(example(), name) for name in TENSORS} | changes
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, path, metadata={"recsys-fed item embeddings": json.dumps(record())})
    with pytest.raises(DataFormatError):
        load_item_embeddings(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(DataNotFoundError, match=str(path)):
            load_item_embeddings(path)


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_diverged_is_refused_before_it_is_written(name, value):
    broken = getattr(example(), name).clone()
    broken.view(-1)[1] = value
    with pytest.raises(DataFormatError, match=name):
        example(**{name: broken})


@pytest.mark.parametrize(
    "wrong",
    [{"kind": "median"}, {"kind": "ridge", "unobserved_weight": -0.1}, {"kind": "ridge", "regularization": 0}],
)
def test_a_fold_in_out_of_range_is_refused(wrong):
    with pytest.raises(ConfigurationError):
        FoldIn(**wrong)
