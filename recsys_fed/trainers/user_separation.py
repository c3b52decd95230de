"""Whether users meet in a module: what a sensitivity of one clip norm rests on, tried before a training.

Where one user's presence moves another user's gradient, no clipping bounds what a user changes. Batch normalisation
does that, and negatives that are other users' items, a mean over the batch, a state that is kept from batch to batch.

It is tried on made-up users, in batches of different users and under two tables: a user's gradient alone, among
others, among others one of whom is exchanged, and once more after all of that. A module that lets users meet under
circumstances that these users do not bring about gets through: who installs a module in a silo answers for its code.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from recsys_fed.errors import ConfigurationError
from recsys_fed.models.histories import Histories
from recsys_fed.trainers.examples import ExampleSettings, make_examples
from recsys_fed.trainers.item_gradients import ItemGradients, UserGradients, UserLosses

# Sums are cut off at 2^-26; what users who meet do to each other is far more.
_NEAR = 2.0**-20
N_ITEMS = 24
_KEY = 1
_MEET = (
    "Users meet in the module or its loss: the gradient of a user changes with who else is in the batch (negatives "
    "of other users? a mean over the batch?), so that no clipping bounds what a user changes. Let each user's scores "
    "follow from that user's row of history and items alone."
)
_REMEMBERS = (
    "The module keeps something of a batch for later ones, or draws at random: the same users and table gave another "
    "gradient. What is kept of users would reach other users' gradients without noise."
)


def public_users() -> Histories:
    """Made-up users over `N_ITEMS` items, of one item to many."""
    rng = np.random.default_rng(7)
    # Most of about one length, as only these are worked on in one batch.
    sizes = [1, 2, 9, 9, 10, 10, 11, 11, 12, 20]
    rows = [np.sort(rng.choice(N_ITEMS, size, replace=False)) for size in sizes]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return Histories(
        items=torch.from_numpy(np.concatenate(rows).astype(np.int32)),
        starts=torch.from_numpy(starts),
        n_items=N_ITEMS,
    )


def public_table(n_rows: int, columns: int, *, seed: int) -> torch.Tensor:
    """A made-up table, float32."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n_rows, columns))).float() / 2


def check_layers(module: nn.Module) -> None:
    """Refuse layers that are known to let users meet.

    Raises:
        ConfigurationError: names the layer, and what to take in its place.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            raise ConfigurationError(
                f"Users would meet in {name} ({type(layer).__name__}): its statistics are those of the batch. Use "
                "nn.LayerNorm or nn.GroupNorm."
            )


def check_users_apart(gradients: ItemGradients, losses: UserLosses, settings: ExampleSettings) -> None:
    """Refuse a module whose gradient of one user depends on another, or on what it was called with before.

    Raises:
        ConfigurationError: says which of the two, or that hooks do not see all that the module does with its table.
    """
    everybody = range(public_users().n_users)
    for seed in (0, 1):
        gradients.load(public_table(N_ITEMS, gradients.table.shape[1], seed=seed))
        alone = torch.cat([_gradients(gradients, losses, settings, [user]) for user in everybody])
        for group in (everybody, [*everybody[1:], 4], everybody[::2], [3, 3, 3, 5, 9]):
            if not _near(_gradients(gradients, losses, settings, group), alone[list(group)]):
                raise ConfigurationError(_MEET)
        again = torch.cat([_gradients(gradients, losses, settings, [user]) for user in everybody])
        if not _near(again, alone):
            raise ConfigurationError(_REMEMBERS)


def _near(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).norm() <= _NEAR * (1 + float(other.norm())))


def _gradients(
    gradients: ItemGradients, losses: UserLosses, settings: ExampleSettings, group: Sequence[int]
) -> torch.Tensor:
    """Gradients [n, n_items, columns] of a group of the users, worked on in as few batches as in a training."""
    users = public_users().rows(torch.tensor(list(group)))
    found = torch.zeros(len(group), N_ITEMS, gradients.table.shape[1], dtype=torch.float64)
    for some in make_examples(users, settings, key=_KEY):
        part = gradients.of(some, losses)
        for place, row in enumerate(some.rows.tolist()):
            one = torch.zeros(len(part.norms), dtype=torch.float64)
            one[place] = 1 / (1 + part.norms[place])
            part.add(found[row], one)
            found[row] /= one[place]
        _check_hooks(gradients, part)
    return found


def _check_hooks(gradients: ItemGradients, part: UserGradients) -> None:
    total, scale = torch.zeros(N_ITEMS, gradients.table.shape[1], dtype=torch.float64), 1 / (1 + part.norms.sum())
    part.add(total, torch.ones_like(part.norms) * scale)
    whole = gradients.table.grad
    if whole is None or not _near(total, whole[:N_ITEMS] * scale):
        raise ConfigurationError(
            "Opacus' hooks see a part only of what the module does with its item table. Read the table through the "
            "layer that holds it, as in self.items(items), and not as self.items.weight."
        )
