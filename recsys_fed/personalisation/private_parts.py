"""The private parts of a module (towers, attention, hidden layers), fitted by a silo on the released table.

While the federation trains they stay at their public start (`trainers.torch_trainer`). Afterwards the table is fixed
and public, and a silo may fit all else to its own users with an ordinary optimiser: what comes out stays in the silo
and is sealed there under the hash of the released model (`silo.state`). It is what "silo-trusted" personalisation is:
between users of the silo as private as any ordinary recommender, and no release.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import nn

from recsys_fed.errors import ConfigurationError
from recsys_fed.models.histories import histories_of
from recsys_fed.models.items import ItemEmbeddings, TrainedModule
from recsys_fed.models.torch_modules import item_table_of, load_item_table, make_module
from recsys_fed.trainers.examples import make_examples
from recsys_fed.trainers.torch_trainer import example_settings, named_loss, user_losses

Floats = npt.NDArray[np.float64]
_EPOCHS, _RATE, _NEGATIVES = 15, 2e-3, 64
# Of a module that a silo trains on its own, table and all; and how popularity, at most 1, starts in the table.
_WHOLE_EPOCHS, _WHOLE_RATE, _POPULARITY = 40, 1e-2, 0.3
_SEED = 0
# Scores of a block: users times items times columns.
_CELLS = 1 << 22


@dataclass(frozen=True, kw_only=True, eq=False)
class PrivateParts:
    """A module with the released table and private parts of the silo; private to the silo.

    Attributes:
        module: in evaluation.
        n_items: of the catalogue.
    """

    module: nn.Module
    n_items: int

    @torch.no_grad()
    def scores(self, histories: sparse.csr_matrix) -> Floats:
        """Float64 [n_users, n_items] for histories of ones; items of the history have no meaningful score."""
        found = np.zeros(histories.shape)
        every = torch.arange(self.n_items)
        columns = max(len(parameter[0]) for parameter in self.module.parameters() if parameter.ndim == 2)
        sizes = np.diff(histories.indptr)
        rows = max(1, _CELLS // (self.n_items * max(1, columns)))
        for start in range(0, histories.shape[0], rows):
            block = histories[start : start + rows]
            seen = _pad(block, length=int(sizes[start : start + rows].max(initial=1)))
            scores = self.module(seen, every.expand(len(seen), -1))
            found[start : start + rows] = scores.double().numpy()
        return found

    def state(self) -> Mapping[str, npt.NDArray[np.float32]]:
        """Every parameter but those that hold the released table: what is sealed."""
        return {
            name: parameter.detach().float().numpy()
            for name, parameter in self.module.named_parameters()
            if parameter.requires_grad
        }


def _pad(histories: sparse.csr_matrix, *, length: int) -> torch.Tensor:
    """Items of each history, int64 [n_users, length], filled up in front."""
    n_users, n_items = histories.shape
    sizes = np.diff(histories.indptr)
    rows = np.repeat(np.arange(n_users), sizes)
    places = np.arange(histories.nnz) - histories.indptr[rows] + (length - sizes)[rows]
    padded = np.full((n_users, max(length, 1)), n_items, dtype=np.int64)
    padded[rows, places] = histories.indices
    return torch.from_numpy(padded)


def has_private_parts(released: ItemEmbeddings) -> bool:
    """Whether the released model was trained for a module that has more than its item table.

    Raises:
        ConfigurationError: it names a module that is not installed here.
    """
    return released.module is not None and bool(start_private_parts(released).state())


def _module_of(released: ItemEmbeddings) -> TrainedModule:
    if released.module is None:
        raise ConfigurationError("The released model is of no PyTorch module: it has no private parts to fit.")
    return released.module


def start_private_parts(released: ItemEmbeddings) -> PrivateParts:
    """The module that the released model was trained for, at its public start, with the released table."""
    spec = _module_of(released)
    module = make_module(spec.name, released.n_items, spec.dim)
    table = item_table_of(module, spec.item_table, n_items=released.n_items)
    rows = released.vectors
    if table.shape[1] > rows.shape[1]:
        rows = torch.cat([rows, released.bias[:, None] / spec.bias_scale], 1)
    load_item_table(table, rows)
    table.requires_grad_(False)
    return PrivateParts(module=module.eval(), n_items=released.n_items)


def fit_private_parts(train: sparse.csr_matrix, released: ItemEmbeddings, *, epochs: int = _EPOCHS) -> PrivateParts:
    """Fit all but the table to a silo's users, by Adam on the loss that the federation trained with.

    Guarantees: none. The result depends on the silo's users without noise and must never leave the silo.

    Raises:
        ConfigurationError: the released model names a module that is not installed here.
    """
    return _fitted(start_private_parts(released), train, released, epochs=epochs, rate=_RATE)


def fit_whole_module(
    train: sparse.csr_matrix, like: ItemEmbeddings, *, epochs: int = _WHOLE_EPOCHS, rate: float = _WHOLE_RATE
) -> PrivateParts:
    """What a silo has without the federation: the module that `like` was trained for, table and all, on its users.

    The table starts as the federation's does: small at random, popularity in the first column. Of `like` only module
    and sizes are read.

    Guarantees: none, see `fit_private_parts`.
    """
    rng, popularity = np.random.default_rng(_SEED), torch.from_numpy(np.asarray(train.sum(axis=0)).ravel())
    vectors = torch.from_numpy(rng.standard_normal(like.vectors.shape) * 0.1 / like.embedding_dim**0.5).float()
    vectors[:, 0] = (_POPULARITY * popularity / popularity.max()).float()
    parts = start_private_parts(replace(like, vectors=vectors, bias=torch.zeros_like(like.bias)))
    parts.module.requires_grad_(True)
    return _fitted(parts, train, like, epochs=epochs, rate=rate)


def _fitted(
    parts: PrivateParts, train: sparse.csr_matrix, released: ItemEmbeddings, *, epochs: int, rate: float
) -> PrivateParts:
    """The same parts, what asks for gradients fitted to users."""
    trained = [parameter for parameter in parts.module.parameters() if parameter.requires_grad]
    histories = histories_of(train)
    if not trained or not len(histories.items):
        return parts
    spec = _module_of(released)
    loss = named_loss(spec.loss)
    how = example_settings(spec.name, loss, n_negatives=_NEGATIVES, columns=released.embedding_dim)
    losses, optimizer = user_losses(loss, released.fold_in.unobserved_weight), torch.optim.Adam(trained, lr=rate)
    parts.module.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        for epoch in range(epochs):
            order = torch.randperm(histories.n_users)
            for users in torch.split(order, 64):
                for examples in make_examples(histories.rows(users), how, key=epoch):
                    optimizer.zero_grad()
                    losses(parts.module, examples).mean().backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
    parts.module.eval()
    return parts


def restore_private_parts(state: Mapping[str, npt.NDArray[np.float32]], released: ItemEmbeddings) -> PrivateParts:
    """What `PrivateParts.state` gave, with the released model that it was fitted beside."""
    parts = start_private_parts(released)
    named = dict(parts.module.named_parameters())
    with torch.no_grad():
        for name, values in state.items():
            named[name].copy_(torch.from_numpy(np.array(values)))
    return parts
