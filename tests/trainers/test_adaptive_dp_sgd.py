"""dp-sgd with adaptive clipping: its sensitivity, its clip norm over the rounds, and that it learns."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_trainers import facts_of, from_dense, run
from plain_trainers import one_thread as _one_thread  # noqa: F401
from scipy import sparse

from recsys_fed.errors import ConfigurationError
from recsys_fed.federation.distributed import _Share
from recsys_fed.models.stored_histories import HistoryWriter, stored_histories
from recsys_fed.trainers.dp_sgd import DPSGD, GRADIENT
from recsys_fed.trainers.losses import LOSSES

SETTINGS = {"unobserved_weight": 0.3, "regularization": 1.0, "count_share": 0.2, "l2_clip_norm": 2.0}


@pytest.mark.parametrize("loss", sorted(LOSSES))
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), clip=st.sampled_from([1e-3, 0.5, 1e3]))
def test_one_user_more_changes_the_release_by_at_most_the_clip_norm(loss, seed, clip):
    rng = np.random.default_rng(seed)
    matrix = (rng.random((5, 9)) < 0.4).astype(float)
    tables = {
        "head": torch.arange(9),
        "vectors": torch.from_numpy(rng.standard_normal((9, 3))).float(),
        "clip": torch.tensor([clip]),
    }
    trainer = DPSGD(loss=loss, clipping="adaptive", negatives=4)
    one, other = (
        trainer.contribution(GRADIENT, tables, from_dense(some), settings=SETTINGS)
        for some in (matrix, np.delete(matrix, int(rng.integers(5)), axis=0))
    )
    assert one.shape == (10, 3)
    assert (one - other).norm() <= 2 * (1 + 1e-5)


def test_only_users_of_the_sample_and_of_the_rank_are_counted(tmp_path):
    """On disk and on several ranks too: the number of the whole silo's users would count who was not sampled."""
    rng = np.random.default_rng(3)
    matrix, chosen = rng.random((12, 9)) < 0.4, torch.from_numpy(rng.random(12) < 0.5)
    with HistoryWriter(tmp_path) as writer:
        writer.append(sparse.csr_matrix(matrix))
    stored, there = stored_histories(tmp_path, n_items=9), from_dense(matrix)
    tables = {"head": torch.arange(9), "vectors": torch.randn(9, 3), "clip": torch.tensor([0.5])}

    def released(histories):
        return DPSGD(clipping="adaptive").contribution(GRADIENT, tables, histories, settings=SETTINGS)

    expected = released(from_dense(matrix[chosen.numpy()]))
    torch.testing.assert_close(released(stored.subset(chosen)), expected)
    ranks = [_Share(users=there.block(*part), first=part[0], of_all=12) for part in ((0, 5), (5, 12))]
    torch.testing.assert_close(sum(released(rank.subset(chosen)) for rank in ranks), expected)


@pytest.mark.parametrize("clip", [0.0, -1.0])
def test_a_clip_norm_that_is_not_positive_is_refused_whoever_is_there(clip, tmp_path):
    with HistoryWriter(tmp_path) as writer:
        writer.append(sparse.csr_matrix((0, 9)))
    tables = {"head": torch.arange(9), "vectors": torch.zeros(9, 3), "clip": torch.tensor([clip])}
    for histories in (from_dense(np.eye(9)), stored_histories(tmp_path, n_items=9)):
        with pytest.raises(ConfigurationError, match="l2_clip_norm"):
            DPSGD(clipping="adaptive").contribution(GRADIENT, tables, histories, settings=SETTINGS)


def test_the_clip_norm_settles_where_half_of_the_gradients_are_within():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 3, 200)[:, None] == np.arange(30) % 3
    matrix = ((rng.random((200, 30)) < 0.6) & groups).astype(float)
    trainer, facts = DPSGD(clipping="adaptive"), facts_of(30, embedding_dim=4, declared_users=200)
    states = run(trainer, facts, [matrix[:80], matrix[80:]])
    norms = {round(state.clip_norm, 6) for state in states}
    assert len(norms) > 10
    last, stage = states[-1], trainer.plan(facts)[-1]
    settings = {**stage.settings, "l2_clip_norm": 1.0}
    table = trainer.contribution(GRADIENT, trainer.tables(last, stage), from_dense(matrix), settings=settings)
    within = (float(table[-1, 0]) / settings["count_share"] / 200 + 1) / 2
    assert 0.3 < within < 0.7


def test_the_local_schedule_refuses_it():
    with pytest.raises(ConfigurationError, match="automatic with the local schedule"):
        DPSGD(schedule="local", clipping="adaptive")
