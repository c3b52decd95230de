"""No tables and no history that a search finds make one user's clipped term longer than the clip norm."""

import numpy as np
import pytest
import torch
from directed_search import Case, dense_histories, worst
from plain_trainers import one_thread as _one_thread  # noqa: F401
from scipy import sparse

from recsys_fed.evaluation.metric_sums import metric_sums
from recsys_fed.models.items import FoldIn, ItemEmbeddings
from recsys_fed.privacy.integer_mechanism import IntegerMechanism, grid_step
from recsys_fed.privacy.noise import SeededNoise
from recsys_fed.trainers import local_steps, popularity
from recsys_fed.trainers.cooccurrence import cooccurrence_step
from recsys_fed.trainers.dp_sgd import DPSGD, GRADIENT
from recsys_fed.trainers.local_steps import Task, sum_clipped
from recsys_fed.trainers.loss import Clipping
from recsys_fed.trainers.losses import LOSSES
from recsys_fed.trainers.subspace import power_step
from recsys_fed.trainers.trainer import LocalNoise


def knobs(case: Case) -> dict[str, float]:
    return {"unobserved_weight": float(10 ** case.knobs[1]), "regularization": float(10 ** case.knobs[0])}


def task_of(name, case: Case) -> Task:
    loss = LOSSES[name]
    return Task(
        loss=loss,
        how=loss.fold_in(**knobs(case)),
        unobserved_weight=knobs(case)["unobserved_weight"],
        n_negatives=8,
        clipping=Clipping(l2_clip_norm=1.0),
    )


def gradient(name):
    def measure(case: Case) -> float:
        task = task_of(name, case)
        table = case.table
        return float(
            sum_clipped(task, table, case.histories(), head=torch.arange(len(table)), key=case.key).total.norm()
        )

    return measure


def adaptive(name):
    """The clipped gradient and the count together, at a clip norm of the server's."""

    def measure(case: Case) -> float:
        trainer, table = DPSGD(loss=name, clipping="adaptive", negatives=8), case.table
        settings = knobs(case) | {"l2_clip_norm": 1.0, "count_share": 0.01, "negatives_key": float(case.key)}
        tables = {"head": torch.arange(len(table)), "vectors": table, "clip": case.column(0)[:1].clamp_min(1e-45)}
        return float(trainer.contribution(GRADIENT, tables, case.histories(), settings=settings).norm())

    return measure


def local(name):
    """The second step's sum: V has moved by the first one's integers."""

    def measure(case: Case) -> float:
        trainer, table = DPSGD(loss=name, schedule="local", negatives=8), case.table
        settings = {"learning_rate": 10 ** case.others[0, 0], "expected_batch_size": 1.0, "l2_clip_norm": 1.0}
        step = grid_step(noise_multiplier=1.0, l2_clip_norm=1.0, declared_users=1, entries=table.numel(), steps=2)
        noise = LocalNoise(
            mechanism=IntegerMechanism(noise_multiplier=1.0, l2_clip_norm=1.0, grid_step=step, entries=table.numel()),
            sampling_probability=1.0,
            steps=2,
            source=SeededNoise(case.key),
            sampling=SeededNoise(case.key, 1),
        )
        sums: list[list[torch.Tensor]] = []

        class Recorded(local_steps.NoisySums):
            def add(self, blocks, *, rows=None):
                kept = [(start, block.clone()) for start, block in blocks]
                sums.append([block for _, block in kept])
                super().add(kept, rows=rows)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(local_steps, "NoisySums", Recorded)
            tables = {"head": torch.arange(len(table)), "vectors": table}
            trainer.local_update(tables, case.histories(), settings=settings | knobs(case), noise=noise)
        return max(float(torch.cat(blocks).norm()) for blocks in sums)

    return measure


def subspace(mode):
    def measure(case: Case) -> float:
        tables = {
            "head": torch.arange(len(case.has)),
            "damping": case.column(0),
            "direction": case.column(1),
            "subspace": case.table,
        }
        return float(power_step(tables, case.histories(), l2_clip_norm=1.0, mode=mode).norm())

    return measure


def cooccurrence(case: Case) -> float:
    tables = {"head": torch.arange(len(case.has)), "damping": case.column(0), "direction": case.column(1)}
    return float(cooccurrence_step(tables, case.histories(), l2_clip_norm=1.0).norm())


def among(name):
    """How far the sum over 40 others moves when the user comes, anywhere among them."""

    def measure(case: Case) -> float:
        table, rng = case.table, np.random.default_rng(case.key)
        task = task_of(name, case)
        company = rng.permuted(np.tile(case.has, (40, 1)), axis=1)
        head = torch.arange(len(table))
        with_user = case.histories(company, place=int(rng.integers(41)))
        one = sum_clipped(task, table, with_user, head=head, key=5).total
        return float((one - sum_clipped(task, table, dense_histories(company), head=head, key=5).total).norm())

    return measure


def counts(case: Case) -> float:
    return float(popularity.contribute_counts(case.histories(), l2_clip_norm=1.0).norm())


def metrics(kind):
    """Half of the user's items are held out."""

    def measure(case: Case) -> float:
        table = case.table
        own = np.flatnonzero(case.has)
        train, test = np.zeros_like(case.has), np.zeros_like(case.has)
        train[own[1::2]], test[own[::2]] = True, True
        model = ItemEmbeddings(
            vectors=table,
            bias=case.column(0),
            history_weights=case.column(1),
            fold_in=FoldIn(kind=kind, **knobs(case)),
            catalogue_hash="c",
        )
        histories = Case(**(vars(case) | {"has": train})).histories()
        return float(metric_sums(model, histories, sparse.csr_matrix(test[None]), l2_clip_norm=1.0).norm())

    return measure


MEASURES = {
    **{f"{name}, automatic": gradient(name) for name in LOSSES},
    **{f"{name}, adaptive": adaptive(name) for name in LOSSES},
    **{f"{name}, local steps": local(name) for name in LOSSES},
    **{f"{name}, among others": among(name) for name in LOSSES},
    **{f"subspace, {mode}": subspace(mode) for mode in ("automatic", "flat")},
    "co-occurrence": cooccurrence,
    "counts": counts,
    **{f"metrics, {kind}": metrics(kind) for kind in ("ridge", "projection")},
}


def search(name, *, seconds, seed):
    norm, case = worst(MEASURES[name], seconds=seconds, seed=seed)
    assert norm <= 1, case


@pytest.mark.parametrize("name", MEASURES)
def test_a_short_search_finds_no_term_above_the_clip_norm(name):
    search(name, seconds=0.8, seed=0)


@pytest.mark.soak
@pytest.mark.parametrize("name", MEASURES)
def test_a_long_search_finds_no_term_above_the_clip_norm(name):
    search(name, seconds=200, seed=1)
