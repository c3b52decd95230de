"""Silos on disk train the model that silos in memory train."""

import pytest
import torch
from small_run import small_run

from recsys_fed.models import histories as user_blocks
from recsys_fed.models.items import load_item_embeddings

MODEL = "item_embeddings.safetensors"


def test_spectral_from_disk_gives_the_same_bytes(tmp_path, monkeypatch):
    small_run(tmp_path / "memory")
    monkeypatch.setattr(user_blocks, "_LEAST_INTERACTIONS", 50)
    monkeypatch.setattr(user_blocks, "_INTERACTIONS_AN_ITEM", 0)
    small_run(tmp_path / "disk", block_interactions=10)
    assert (tmp_path / "disk" / MODEL).read_bytes() == (tmp_path / "memory" / MODEL).read_bytes()


@pytest.mark.parametrize("sampling_probability", [1.0, 0.5])
def test_dp_sgd_from_disk_gives_the_same_model_to_rounding(sampling_probability, tmp_path):
    keys = {"trainer": "dp-sgd", "rounds": 4, "dp-sgd.sampling-probability": sampling_probability}
    small_run(tmp_path / "memory", **keys)
    small_run(tmp_path / "disk", block_interactions=10, **keys)
    found, expected = (load_item_embeddings(tmp_path / name / MODEL) for name in ("disk", "memory"))
    torch.testing.assert_close(found.vectors, expected.vectors, atol=1e-5, rtol=1e-5)
