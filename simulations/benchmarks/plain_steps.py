"""Local steps without privacy, for comparison: float32, the same batches and fold-in, no factors and no noise."""

from collections.abc import Iterable

import torch

from recsys_fed.models.exact_scores import observed_scores
from recsys_fed.models.histories import Histories
from recsys_fed.models.items import ridge
from recsys_fed.trainers.local_steps import Task
from recsys_fed.trainers.loss import draw_negatives
from recsys_fed.trainers.losses import BCE

RATE = 3.0


def plain_round(
    task: Task,
    vectors: torch.Tensor,
    histories: Histories,
    *,
    samples: Iterable[torch.Tensor],
    generator: torch.Generator,
) -> torch.Tensor:
    """V after a step of plain SGD on the mean gradient of every sample [n_users]."""
    vectors = vectors.clone()
    gramian = vectors.T @ vectors
    for chosen in samples:
        batch = histories.subset(chosen)
        if task.loss.reads_all_items:
            als_step(task, vectors, batch)
        else:
            key = int(torch.randint(1 << 62, (), generator=generator))
            bce_step(task, vectors, batch, gramian=gramian, key=key)
    return vectors


def als_step(task: Task, vectors: torch.Tensor, batch: Histories) -> None:
    """One step on implicit ALS, in place."""
    weights, gramian = torch.ones(len(vectors)), vectors.T @ vectors
    users = ridge(vectors, batch, weights, gramian=gramian.double(), how=task.how)
    fitted = observed_scores(batch, users, vectors)
    gradient = batch.transposed_times(fitted - 1.0, users)
    gradient.addmm_(vectors, task.unobserved_weight * (users.T @ users))
    vectors.sub_(gradient, alpha=RATE / batch.n_users)


def bce_step(task: Task, vectors: torch.Tensor, batch: Histories, *, gramian: torch.Tensor, key: int) -> None:
    """One step on bce, in place; only the rows that the batch reads are touched."""
    negatives = draw_negatives(batch, count=task.n_negatives, key=key)
    touched = torch.cat([batch.items.long(), negatives.items.flatten()])
    rows, places = torch.unique(touched, return_inverse=True)
    read = vectors.index_select(0, rows)
    own, drawn = places.to(batch.items.dtype).split([len(batch.items), negatives.items.numel()])
    starts = torch.arange(batch.n_users + 1) * negatives.items.shape[1]
    observed = Histories(items=own, starts=batch.starts, n_items=len(rows))
    others = Histories(items=drawn, starts=starts, n_items=len(rows))
    weights = torch.ones(len(rows))
    users = BCE.sharpness * ridge(read, observed, weights, gramian=gramian.double(), how=task.how)
    middle = BCE.sharpness / 2
    yes = (observed_scores(observed, users, read) - middle).sigmoid() - 1.0
    sizes = batch.starts.diff().float()
    shares = BCE.ratio * negatives.weights.float() * (sizes / negatives.weights.float().sum(1))[:, None]
    no = shares.flatten() * (observed_scores(others, users, read) - middle).sigmoid()
    gradient = observed.transposed_times(yes, users) + others.transposed_times(no, users)
    vectors.index_add_(0, rows, gradient, alpha=-RATE / batch.n_users)
