"""A run that goes on from its checkpoint is the run that was never interrupted, to the last byte of every request."""

from dataclasses import replace

import pytest
import torch
from by_hand import answers, begun, run_by_hand
from safetensors import safe_open
from silo_data import make_histories

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.config import FederationConfig
from recsys_fed.data.generate import generate
from recsys_fed.errors import ConfigurationError, DataFormatError, DataNotFoundError
from recsys_fed.federation.messages import request_digest
from recsys_fed.federation.run_files import checkpointed_silos, resume_schedule, save_checkpoint
from recsys_fed.federation.schedule import advance, item_embeddings, request
from recsys_fed.models.items import item_embeddings_bytes

N_ITEMS = 25
SPECTRAL = FederationConfig(silos=3, declared_users=90, rounds=3, embedding_dim=3, epsilon=2.0)
CONFIGS = {
    "spectral": SPECTRAL,
    "spectral, no privacy": replace(SPECTRAL, epsilon=float("inf")),
    "ratings": replace(SPECTRAL, target="rating", trainer="ratings"),
    "auto, popularity": replace(SPECTRAL, trainer="auto", rounds=0, embedding_dim=0, epsilon=0.5),
    "dp-sgd": replace(SPECTRAL, trainer="dp-sgd", rounds=4),
    "dp-sgd, adaptive": replace(SPECTRAL, trainer="dp-sgd", rounds=4, dp_sgd={"clipping": "adaptive"}),
    "dp-sgd, local": replace(SPECTRAL, trainer="dp-sgd", rounds=3, dp_sgd={"schedule": "local", "local_steps": 3}),
}


@pytest.fixture(scope="module")
def silos():
    return [make_histories(30, N_ITEMS, seed=seed) for seed in range(3)]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_resumed_run_is_the_run_itself(config, silos, tmp_path):
    schedule = first = begun(config, N_ITEMS)
    whole, _ = run_by_hand(schedule, silos)
    path = tmp_path / "checkpoint.safetensors"
    while schedule.round < len(schedule.stages):
        save_checkpoint(schedule, path, begun=first)
        resumed = resume_schedule(begun(config, N_ITEMS), path)
        assert resumed.round == schedule.round
        assert request_digest(request(resumed)) == request_digest(request(schedule))
        schedule = advance(resumed, request(resumed), answers(resumed, silos))
    save_checkpoint(schedule, path, begun=first)
    last = resume_schedule(begun(config, N_ITEMS), path)
    assert item_embeddings_bytes(item_embeddings(last)) == item_embeddings_bytes(item_embeddings(whole))
    assert last.metrics == whole.metrics
    assert checkpointed_silos(path) == 3


def test_features_are_made_again_from_the_public_catalogue(silos, tmp_path):
    catalogue = generate(n_users=40, n_items=N_ITEMS, mean_interactions=8).catalogue
    first = begun(SPECTRAL, catalogue.n_items, catalogue)
    schedule = advance(first, request(first), answers(first, silos))
    save_checkpoint(schedule, tmp_path / "c", begun=first)
    resumed = resume_schedule(begun(SPECTRAL, catalogue.n_items, catalogue), tmp_path / "c")
    assert request_digest(request(resumed)) == request_digest(request(schedule))
    assert isinstance(catalogue, Catalogue)


def test_it_does_not_grow_with_the_number_of_rounds(silos, tmp_path):
    config = replace(SPECTRAL, trainer="dp-sgd", rounds=12)
    schedule, sizes = begun(config, N_ITEMS), []
    first = schedule
    while schedule.round < len(schedule.stages) - 1:
        schedule = advance(schedule, request(schedule), answers(schedule, silos))
        save_checkpoint(schedule, tmp_path / "c", begun=first)
        sizes.append((tmp_path / "c").stat().st_size)
    assert max(sizes[1:]) - min(sizes[1:]) <= 64


def test_another_run_is_refused_by_what_differs(silos, tmp_path):
    first = begun(SPECTRAL, N_ITEMS)
    save_checkpoint(first, tmp_path / "c", begun=first)
    for other, what in (
        (replace(SPECTRAL, epsilon=3.0), "epsilon = 3.0"),
        (replace(SPECTRAL, rounds=4), "rounds"),
        (replace(SPECTRAL, seed=9), "seed = 9"),
        (replace(SPECTRAL, silos=4), "silos"),
    ):
        with pytest.raises(ConfigurationError, match=what):
            resume_schedule(begun(other, N_ITEMS), tmp_path / "c")
    # What is the server's own business may change: another folder, fewer silos that must answer.
    moved = replace(SPECTRAL, output="elsewhere", resume=True, minimum_silos=2, threads=3)
    assert resume_schedule(begun(moved, N_ITEMS), tmp_path / "c").round == 0


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\0" * 400])
def test_another_file_is_refused(content, tmp_path):
    with pytest.raises(DataNotFoundError):
        resume_schedule(begun(SPECTRAL, N_ITEMS), tmp_path / "c")
    (tmp_path / "c").write_bytes(content)
    for read in (
        lambda: resume_schedule(begun(SPECTRAL, N_ITEMS), tmp_path / "c"),
        lambda: checkpointed_silos(tmp_path / "c"),
    ):
        with pytest.raises(DataFormatError):
            read()


def test_a_crash_while_writing_leaves_the_checkpoint_before(silos, tmp_path, monkeypatch):
    schedule = begun(SPECTRAL, N_ITEMS)
    save_checkpoint(schedule, tmp_path / "c", begun=schedule)
    after = advance(schedule, request(schedule), answers(schedule, silos))

    def crash(_number):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(after, tmp_path / "c", begun=schedule)
    assert resume_schedule(begun(SPECTRAL, N_ITEMS), tmp_path / "c").round == 0


def test_it_holds_tensors_and_public_facts_only(silos, tmp_path):
    first = begun(SPECTRAL, N_ITEMS)
    schedule, _ = run_by_hand(first, silos)
    save_checkpoint(schedule, tmp_path / "c", begun=first)
    with safe_open(tmp_path / "c", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    released = {f"releases.{one}.{part}" for one in (0, 1) for part in ("rows", "total", "asked")}
    assert set(tensors) == {
        "subspace", "scales", "useful", "pooled", "start_rows", "popularity.counts", "popularity.head",
        *released - {"releases.0.asked"},
    }  # fmt: skip
    assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
