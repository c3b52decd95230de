"""Masked rounds change what the server sees, and nothing of what comes out."""

import json
from pathlib import Path

import pytest
from small_run import small_run

MODEL = "item_embeddings.safetensors"
RUNS = {
    "spectral": {"trainer": "spectral"},
    "dp-sgd, adaptive clipping": {"trainer": "dp-sgd", "rounds": 3, "dp-sgd.clipping": "adaptive"},
    "no noise": {"trainer": "spectral", "epsilon": float("inf")},
}


def events(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


SAMPLED = {"trainer": "dp-sgd", "rounds": 4, "dp-sgd.sampling-probability": 0.5}


@pytest.mark.parametrize(
    "keys", [*RUNS.values(), pytest.param(SAMPLED, marks=pytest.mark.soak)], ids=[*RUNS, "dp-sgd, sampled"]
)
def test_a_masked_run_is_the_run_without_masks_with_the_same_shares_of_the_noise(keys, tmp_path):
    """The unmasked sums are the plain ones to the last bit: counts, clipping quantiles, updates, metrics."""
    masked = small_run(tmp_path / "masked", secure_aggregation="on", **keys)
    plain = small_run(tmp_path / "plain", noise="distributed", **keys)
    assert (tmp_path / "masked" / MODEL).read_bytes() == (tmp_path / "plain" / MODEL).read_bytes()
    assert masked["private_metrics"] == plain["private_metrics"]
    assert masked["epsilon_spent"] == plain["epsilon_spent"]
    for hidden, open_ in zip(events(tmp_path / "masked"), events(tmp_path / "plain"), strict=True):
        assert hidden.pop("payload") != open_.pop("payload")
        assert (hidden.pop("threshold"), open_.pop("threshold")) == (3, 0)
        assert (hidden.pop("colluding"), open_.pop("colluding")) == (1, 0)
        assert hidden == open_


def test_the_same_seed_gives_the_same_model_in_turn_and_in_threads(tmp_path):
    """Masks are fresh in every run and leave no trace; a draw's name follows from silo, entry and request."""
    folders = [tmp_path / name for name in ("once", "again", "threads")]
    for folder, silos in zip(folders, (1, 1, 3), strict=True):
        small_run(folder, secure_aggregation="on", parallel_silos=silos)
    assert len({(folder / MODEL).read_bytes() for folder in folders}) == 1
    assert len({event["payload"] for folder in folders for event in events(folder)}) == len(events(folders[0]))
