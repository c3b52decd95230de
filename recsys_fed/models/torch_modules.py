"""Recommender modules of PyTorch: what one must look like, and six that come along by name.

A module is made by `module(n_items, dim)` and scores items for users from what they have:

    forward(history, items) -> scores [n_users, n_asked]
        history  int64 [n_users, length], the newest last, filled up in front with n_items, which is no item
        items    int64 [n_users, n_asked], filled up with n_items

Its item table is one parameter [n_items + 1, columns], whose last row stands for no item, or [n_items, columns]. That
table alone is ever shared. All else, the private parts, starts at values that follow from a public seed: while the
federation trains they stay there (docs/adr/0038), and a silo fits them to its own users afterwards.

So the public start must be worth something by itself. What is multiplied there are items and pooled histories; what
would have to be learned first (layers behind a tower, places of a sequence) begins as the identity or as zero.

A class may say more of itself, as `RecommenderModule` does.
"""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from recsys_fed import extensions
from recsys_fed.errors import ConfigurationError

MODULES_GROUP = "recsys_fed.modules"
ModuleFactory = Callable[[int, int], nn.Module]
_PUBLIC_SEED = 20
# Added to what is not to be attended to.
_NEVER = -1e9


class RecommenderModule(nn.Module):
    """What a module may say of itself; each has this default for modules that do not derive from it.

    Attributes:
        loss: of `trainers.losses`, where the trainer names none.
        learning_rate: of the synchronous schedule, where the trainer names none; 0 takes what the loss says.
        hidden_share: of a user's items that `history` lacks and the loss asks for; with 0 it asks for the history.
        bias_scale: of a last column that is the bias of a dot product: scores are u v_i + bias_scale b_i.
        features: whether the table starts from public item features, where there are some.
    """

    loss: ClassVar[str] = "bce"
    learning_rate: ClassVar[float] = 0.03
    hidden_share: ClassVar[float] = 0.5
    bias_scale: ClassVar[float] = 1.0
    features: ClassVar[bool] = False


def pool(rows: torch.Tensor, history: torch.Tensor, n_items: int) -> torch.Tensor:
    """Sum of rows [n_users, length, columns] over each user's history, over the root of its length; 0 of none."""
    there = history < n_items
    total: torch.Tensor = (rows * there[..., None]).sum(1)
    return total / there.sum(1, keepdim=True).clamp_min(1).to(rows.dtype).sqrt()


def _items(n_items: int, columns: int) -> nn.Embedding:
    """A table whose values come from the federation; only its shape counts."""
    return nn.Embedding(n_items + 1, columns, padding_idx=n_items)


class MatrixFactorization(RecommenderModule):
    """Scores u v_i + bias_scale b_i, b the table's last column, u the ridge fold-in of the history, held constant.

    u is that of `models.items.FoldIn`; the gradient of a user is then rank one. Against |u| a bias of scale 1 would
    take most of what a user's clipped gradient can hold.
    """

    loss = "implicit-als"
    learning_rate = 0.0
    hidden_share = 0.0
    bias_scale = 0.1

    def __init__(
        self, n_items: int, dim: int, *, unobserved_weight: float = 0.3, regularization: float = 1.0
    ) -> None:
        super().__init__()
        self.items = _items(n_items, dim + 1)
        self.unobserved_weight, self.regularization = unobserved_weight, regularization

    @torch.no_grad()
    def users(self, history: torch.Tensor) -> torch.Tensor:
        """u [n_users, dim] = (V_H^T V_H + w V^T V + r I)^-1 V_H^T 1."""
        table = self.items.weight[:, :-1]
        rows = table[history] * (history < self.items.num_embeddings - 1)[..., None]
        shared = self.unobserved_weight * table[:-1].T @ table[:-1]
        shared = shared + self.regularization * torch.eye(table.shape[1], dtype=table.dtype, device=table.device)
        found: torch.Tensor = torch.linalg.solve_ex(rows.mT @ rows + shared, rows.sum(1)).result
        return found

    def forward(self, history: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Scores."""
        rows, users = self.items(items), self.users(history)
        scores: torch.Tensor = (rows[..., :-1] * users[:, None]).sum(-1) + self.bias_scale * rows[..., -1]
        return scores


class _Comparer(nn.Module):
    """A hidden layer of rectified units on [u, v] that begins as sum_k sign(u_k v_k) min(|u_k|, |v_k|).

    |a + b| - |a - b| = 2 sign(a b) min(|a|, |b|), and |x| = relu(x) + relu(-x): four units for each column.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(2 * dim, 4 * dim), nn.Linear(4 * dim, 1)
        one = torch.eye(dim)
        with torch.no_grad():
            self.hidden.weight.copy_(
                torch.cat([torch.cat([a * one, b * one], 1) for a, b in ((1, 1), (-1, -1), (1, -1), (-1, 1))])
            )
            self.out.weight.copy_(torch.tensor([0.5, 0.5, -0.5, -0.5]).repeat_interleave(dim)[None])
            self.hidden.bias.zero_()
            self.out.bias.zero_()

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """[n_users, n_asked] for rows [n_users, dim] and [n_users, n_asked, dim]."""
        pairs = torch.cat([users[:, None].expand_as(items), items], -1)
        scores: torch.Tensor = self.out(self.hidden(pairs).relu())[..., 0]
        return scores


class RecommenderNet(RecommenderModule):
    """Two embeddings, concatenated, a hidden layer, one score; that of the user is pooled from the history's rows."""

    def __init__(self, n_items: int, dim: int) -> None:
        super().__init__()
        self.items, self.score = _items(n_items, dim), _Comparer(dim)

    def forward(self, history: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Scores; the sigmoid is the loss's."""
        users = pool(self.items(history), history, self.items.num_embeddings - 1)
        scores: torch.Tensor = self.score(users, self.items(items))
        return scores


class NeuMF(RecommenderModule):
    """A weighted product beside a hidden layer, each on its own half of the columns (arXiv 1708.05031)."""

    def __init__(self, n_items: int, dim: int) -> None:
        super().__init__()
        self.width = (dim + 1) // 2
        self.items = _items(n_items, 2 * self.width)
        self.product, self.score = nn.Linear(self.width, 1, bias=False), _Comparer(self.width)
        nn.init.ones_(self.product.weight)

    def forward(self, history: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Scores."""
        users, rows = pool(self.items(history), history, self.items.num_embeddings - 1), self.items(items)
        product = self.product(users[:, None, : self.width] * rows[..., : self.width])[..., 0]
        scores: torch.Tensor = product + self.score(users[:, self.width :], rows[..., self.width :])
        return scores


class Attention(RecommenderModule):
    """One block of self-attention over the history, pooled, against the item's row (after arXiv 1808.09781).

    It begins with the identity for queries, keys, values and output, an inner layer that adds nothing, and places
    that all count alike: what an item stands for is then itself and what of the history is like it.
    """

    def __init__(self, n_items: int, dim: int, *, length: int = 128) -> None:
        super().__init__()
        self.items, self.places = _items(n_items, dim), nn.Embedding(length, dim)
        self.mix, self.inner = nn.Linear(dim, 4 * dim, bias=False), nn.Linear(dim, 2 * dim)
        self.out, self.recency = nn.Linear(2 * dim, dim), nn.Embedding(length, 1)
        with torch.no_grad():
            self.mix.weight.copy_(torch.eye(dim).repeat(4, 1))
        for zero in (self.places.weight, self.out.weight, self.out.bias, self.recency.weight):
            nn.init.zeros_(zero)

    def forward(self, history: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Scores; of a history only its newest `length` items count."""
        history = history[:, -self.places.num_embeddings :]
        n_items, ages = self.items.num_embeddings - 1, torch.arange(history.shape[1], device=history.device).flip(0)
        there = history < n_items
        states = (self.items(history) + self.places(ages)) * there[..., None]
        query, key, value, output = self.mix.weight.chunk(4)
        # One head; nothing attends to no item, and a user without any item to all of them alike.
        missing = states.new_zeros(there.shape).masked_fill(~there, _NEVER)[:, None, None]
        asks, offers, says = ((states @ part.T)[:, None] for part in (query, key, value))
        mixed = scaled_dot_product_attention(asks, offers, says, attn_mask=missing.expand(-1, -1, len(ages), -1))
        states = states + mixed[:, 0] @ output.T
        states = states + self.out(self.inner(states).relu())
        users = pool(states * self.recency(ages).exp(), history, n_items)
        scores: torch.Tensor = (users[:, None] * self.items(items)).sum(-1)
        return scores


class Autoencoder(RecommenderModule):
    """A denoising autoencoder of the history with tied rows (after arXiv 1802.05814): tanh of what it pools to.

    A hidden layer beside the tanh begins with zero.
    """

    def __init__(self, n_items: int, dim: int) -> None:
        super().__init__()
        self.items, self.inner, self.out = _items(n_items, dim), nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, history: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Scores."""
        code = pool(self.items(history), history, self.items.num_embeddings - 1)
        code = code.tanh() + self.out(self.inner(code).relu())
        scores: torch.Tensor = (code[:, None] * self.items(items)).sum(-1)
        return scores


class _Tower(nn.Module):
    """x + W relu(A x + a), W zero at the start."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Like `rows`."""
        found: torch.Tensor = rows + self.out(self.inner(rows).relu())
        return found


class TwoTower(RecommenderModule):
    """A tower of items over their rows, a tower of users over what the history's items come to.

    Public features of items are where the table starts. With a tower that is fixed and linear in them that is the
    same as to read them in it: F R + T has in T the gradient that T has where it starts at F R.
    """

    features = True

    def __init__(self, n_items: int, dim: int) -> None:
        super().__init__()
        self.items, self.item_tower, self.user_tower = _items(n_items, dim), _Tower(dim), _Tower(dim)

    def forward(self, history: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Scores."""
        had = self.item_tower(self.items(history))
        users = self.user_tower(pool(had, history, self.items.num_embeddings - 1))
        scores: torch.Tensor = (users[:, None] * self.item_tower(self.items(items))).sum(-1)
        return scores


MODULES: dict[str, ModuleFactory] = {
    "mf": MatrixFactorization,
    "recommender-net": RecommenderNet,
    "neumf": NeuMF,
    "attention": Attention,
    "autoencoder": Autoencoder,
    "two-tower": TwoTower,
}


def module_factory(name: str) -> ModuleFactory:
    """What makes the modules of a name: of this library, made known to this process, or of an installed package.

    Raises:
        ConfigurationError: there is none of that name.
    """
    if name in MODULES:
        return MODULES[name]
    known = extensions.extension_names(MODULES_GROUP)
    if name not in known:
        names = ", ".join((*MODULES, *known))
        raise ConfigurationError(f"Expected a module that is known here ({names}), got {name!r}.")
    factory = extensions.load_extension(MODULES_GROUP, name)
    if not callable(factory):
        raise ConfigurationError(f"Expected {name!r} to make a module from n_items and dim, got {factory!r}.")
    return factory


def make_module(name: str, n_items: int, dim: int) -> nn.Module:
    """The module at its public start: equal names and sizes give equal values.

    Raises:
        ConfigurationError: there is none of that name, or what it gives is no module.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_PUBLIC_SEED)
        module = module_factory(name)(n_items, dim)
    if not isinstance(module, nn.Module):
        raise ConfigurationError(f"Expected {name!r} to make a torch.nn.Module, got {type(module).__name__}.")
    return module


def item_table_of(module: nn.Module, item_table: str, *, n_items: int) -> nn.Parameter:
    """The parameter that is the item table.

    Raises:
        ConfigurationError: there is none of that name, or it does not have a row for each item.
    """
    found = dict(module.named_parameters()).get(item_table)
    if found is None:
        names = ", ".join(name for name, _ in module.named_parameters())
        raise ConfigurationError(
            f"Expected item_table to be a parameter of the module ({names}), got {item_table!r}."
        )
    if found.ndim != 2 or len(found) not in (n_items, n_items + 1):
        raise ConfigurationError(
            f"Expected {item_table} with a row for each of {n_items} items, and perhaps one for no item, got the "
            f"shape {tuple(found.shape)}."
        )
    return found


def load_item_table(table: nn.Parameter, rows: torch.Tensor) -> None:
    """Write the items' rows [n_items, columns] into the parameter; the row for no item is zero."""
    with torch.no_grad():
        table.zero_()
        table[: len(rows)] = rows
