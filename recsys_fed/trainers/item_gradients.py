"""Clipped sums over users of any module's gradients in its item table, through Opacus' hooks.

Opacus' GradSampleModule calls its hooks where the table's layer is used: forwards with what the layer read, backwards
with the gradient of what it gave, user by user. Only the table asks for gradients, so nothing else of the module is
hooked, and no other layer's kind matters. From what the hooks see there are three ways to a user's exact norm:

    rows      nn.Embedding, used as often as one likes: the user's gradient is a few rows, those that were read. Equal
              rows are added up; the norm and the clipped sum are of these rows.
    products  nn.Linear over vectors a_u: the gradient g_u a_u^T has norm |g_u| |a_u|, the clipped sum is one product.
    samples   any other layer: Opacus' samplers or functorch give a gradient [n_rows, columns] of each user.

The first two are the norms of Opacus' ghost clipping (arXiv 2009.03106, 2307.02106), but a table may be used several
times, and the clipped sum comes from the same pass backwards.

Guarantees, where users do not meet in the module (`user_separation` tries that they do not):
    - Unit: a user. Neighbouring relation: one user added or removed. A user's term depends on the table, the public
      start of all else and the user's own example.
    - Norms are those of the very numbers that are summed. Clipped rows are cut off towards zero to whole multiples of
      2^-26 clip norms and add up exactly (`exact_sum`); of the other two ways sums are float64.
    - The module runs in float64 on a table cut off at +-64: the batch that a user is worked on in moves the user's
      term by rounding alone, some 2^-40 of it, where `ARITHMETIC_ERROR` has 2^-10 for 65,536 users together.
    - What is not finite counts for nothing. No users give zeros.
"""

import copy
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from recsys_fed.errors import ConfigurationError
from recsys_fed.models.torch_modules import item_table_of, load_item_table
from recsys_fed.privacy.clipping import clip_factors
from recsys_fed.trainers.exact_sum import UNIT, in_units
from recsys_fed.trainers.examples import Examples
from recsys_fed.trainers.loss import Clipping

UserLosses = Callable[[nn.Module, Examples], torch.Tensor]
# What a layer read, and the gradient of what it gave, for each use.
_Noted = list[tuple[torch.Tensor, torch.Tensor]]
_LARGEST = 64.0
# Entries of gradients of single users that are held at once.
_SAMPLE_ENTRIES = 1 << 24


@dataclass(frozen=True, kw_only=True, eq=False)
class UserGradients:
    """Gradients of a few users; private.

    Attributes:
        norms: float64 [n_users].
        add: adds sum_u c_u g_u to a total [n_items, columns] for factors c [n_users] with |c_u g_u| <= LONGEST.
    """

    norms: torch.Tensor
    add: Callable[[torch.Tensor, torch.Tensor], None]


def _hooked(module: nn.Module, *, of_samples: bool) -> Any:
    """The module with Opacus' hooks: with gradients of samples, or noting what the table's layers read and gave.

    Opacus is imported here: that takes over a second, and most commands that import trainers train nothing.
    """
    from opacus import GradSampleModule  # noqa: PLC0415
    from opacus.grad_sample import GradSampleModuleFastGradientClipping  # noqa: PLC0415

    class Recorder(GradSampleModuleFastGradientClipping):  # type: ignore[misc]
        noted: _Noted

        def capture_backprops_hook(
            self, module: nn.Module, _forward_input: Any, forward_output: Any, loss_reduction: str, batch_first: bool
        ) -> None:
            """Note a use of the table."""
            activations, gradients = self.rearrange_grad_samples(
                module=module,
                backprops=forward_output[0].detach(),
                loss_reduction=loss_reduction,
                batch_first=batch_first,
            )
            self.noted.append((activations[0], gradients))
            if not module.activations:
                del module.max_batch_len

    if of_samples:
        return GradSampleModule(module, loss_reduction="sum")
    hooked = Recorder(module, loss_reduction="sum", use_ghost_clipping=False)
    hooked.noted = []
    return hooked


class ItemGradients:
    """A module whose item table alone asks for gradients; its other parameters keep the values that they have."""

    def __init__(self, module: nn.Module, *, item_table: str, n_items: int) -> None:
        self.module = copy.deepcopy(module).double()
        self.table, self.n_items = item_table_of(self.module, item_table, n_items=n_items), n_items
        # No dropout: what a user's is would follow from the place in the batch.
        self.module.eval().requires_grad_(False)
        self.table.requires_grad_(True)
        owners = [one for one in self.module.modules() if any(self.table is p for p in one.parameters(recurse=False))]
        for owner in owners:
            owner.train()
        self._way = _way_of(owners)
        self._hooked = _hooked(self.module, of_samples=self._way is _of_samples)

    def to(self, device: torch.device) -> "ItemGradients":
        """The same on a device."""
        self._hooked.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.table.device

    def load(self, rows: torch.Tensor) -> None:
        """Take the table that was released, cut off where no training needs it and rounding stays small."""
        load_item_table(self.table, torch.nan_to_num(rows.double(), nan=0.0).clamp(-_LARGEST, _LARGEST))

    def users_at_once(self, examples: Examples) -> int:
        """How many users' gradients are held at once."""
        return max(1, _SAMPLE_ENTRIES // self.table.numel()) if self._way is _of_samples else len(examples.history)

    def of(self, examples: Examples, losses: UserLosses) -> UserGradients:
        """The gradients of the users' losses in the table."""
        self._hooked.zero_grad()
        noted: _Noted = getattr(self._hooked, "noted", [])
        noted.clear()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
            losses(self._hooked, examples).sum().backward()  # type: ignore[no-untyped-call]
        if (not noted and self._way is not _of_samples) or any(
            len(read) != len(examples.history) for read, _ in noted
        ):
            raise ConfigurationError(
                "Expected the module to read its item table for each user of a batch: what the table's layer gets "
                "has n_users rows, and scores follow from it."
            )
        if self._way is _of_samples:
            found: Any = vars(self.table)["grad_sample"]
            noted = [(examples.history, part) for part in (found if isinstance(found, list) else [found])]
        return self._way(noted, n_users=len(examples.history), n_items=self.n_items)


def _way_of(owners: list[nn.Module]) -> Callable[..., UserGradients]:
    if all(type(owner) is nn.Embedding and owner.max_norm is None for owner in owners):
        return _of_rows
    return _of_products if len(owners) == 1 and type(owners[0]) is nn.Linear else _of_samples


def _of_rows(noted: _Noted, *, n_users: int, n_items: int) -> UserGradients:
    """Rows that users read, equal ones of a user added up; the row for no item is left out."""
    pieces = [
        (read.reshape(n_users, -1), gradient.reshape(n_users, -1, gradient.shape[-1])) for read, gradient in noted
    ]
    items, gradients = (torch.cat(part, 1) for part in zip(*pieces, strict=True))
    users = torch.arange(n_users, device=items.device)[:, None]
    keys, inverse = torch.unique((items + users * (n_items + 1)).flatten(), return_inverse=True)
    rows = gradients.new_zeros(len(keys), gradients.shape[-1]).index_add_(0, inverse, gradients.flatten(0, 1))
    item, user = keys % (n_items + 1), keys // (n_items + 1)
    rows[item == n_items] = 0.0
    squares = rows.new_zeros(n_users).index_add_(0, user, rows.square().sum(1))

    def add(total: torch.Tensor, factors: torch.Tensor) -> None:
        # Whole numbers below 2^53: in any order the same sum.
        units = in_units(rows * factors[user, None])
        total.index_add_(0, item.clamp_max(n_items - 1), units, alpha=UNIT)

    return UserGradients(norms=squares.sqrt(), add=add)


def _of_products(noted: _Noted, *, n_users: int, n_items: int) -> UserGradients:
    """g_u a_u^T of one linear layer, or sums of a few of them."""
    if len(noted) == 1 and noted[0][0].ndim == 2:
        ((vectors, gradients),) = noted
        gradients = gradients[:, :n_items]

        def add(total: torch.Tensor, factors: torch.Tensor) -> None:
            weighted = torch.where(factors[:, None] > 0, vectors * factors[:, None], 0.0)
            total.addmm_(torch.where(factors[:, None] > 0, gradients, 0.0).T, weighted)

        return UserGradients(norms=gradients.norm(dim=1) * vectors.norm(dim=1), add=add)
    uses = [
        (gradient.reshape(n_users, -1, gradient.shape[-1]), read.reshape(n_users, -1, read.shape[-1]))
        for read, gradient in noted
    ]
    samples = [(read, torch.einsum("upi,upk->uik", gradient, read)) for gradient, read in uses]
    return _of_samples(samples, n_users=n_users, n_items=n_items)


def _of_samples(noted: _Noted, *, n_users: int, n_items: int) -> UserGradients:
    """Whole gradients [n_users, n_rows, columns], one for each use."""
    found = torch.stack([gradient for _, gradient in noted]).sum(0)[:, :n_items]

    def add(total: torch.Tensor, factors: torch.Tensor) -> None:
        total.add_(in_units(found * factors[:, None, None]).sum(0), alpha=UNIT)

    return UserGradients(norms=found.flatten(1).norm(dim=1), add=add)


def add_clipped(
    gradients: ItemGradients,
    examples: Iterable[Examples],
    losses: UserLosses,
    *,
    clipping: Clipping,
    total: torch.Tensor,
) -> int:
    """Add users' clipped gradients to `total`, float64 [n_items, columns]; how many have longer norms."""
    beyond, sums = 0, torch.zeros_like(total)
    for some in examples:
        step = gradients.users_at_once(some)
        for first in range(0, len(some.history), step):
            found = gradients.of(some.part(first, first + step), losses)
            factors = clip_factors(found.norms, l2_clip_norm=clipping.l2_clip_norm, mode=clipping.mode)
            found.add(sums, factors / clipping.l2_clip_norm)
            beyond += int((~(found.norms <= clipping.l2_clip_norm)).sum())
    total.add_(sums, alpha=clipping.l2_clip_norm)
    return beyond
