"""A small self-attention model of the next item (SASRec, Kang and McAuley, arXiv 1808.09781), without privacy.

    h_1 ... h_n = causal transformer(E_{i_1} + P_1, ..., E_{i_n} + P_n),   score_j after place p = h_p E_j

Loss: cross-entropy over all items at every place (Klenitskiy and Vasilev, arXiv 2309.07602: better than one sampled
negative). The result is a function of the users without noise, so it is private.
"""

from dataclasses import dataclass

import torch
from torch import nn

from recsys_fed.models.histories import Histories

_INITIAL_STD = 0.02


@dataclass(frozen=True, kw_only=True)
class AttentionSettings:
    """Sizes and training.

    Attributes:
        embedding_dim, layers, heads, dropout: of the transformer.
        length: newest items that it sees.
        epochs: passes over the users; each user gives a random stretch of `length` items a pass.
        learning_rate: of Adam. batch_users: users a step. seed: of start, stretches and dropout.
    """

    embedding_dim: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.2
    length: int = 50
    epochs: int = 40
    learning_rate: float = 2e-3
    batch_users: int = 64
    seed: int = 0


class SelfAttention(nn.Module):
    """The transformer; item `n_items` stands for nothing."""

    def __init__(self, n_items: int, settings: AttentionSettings) -> None:
        super().__init__()
        self.settings = settings
        dim = settings.embedding_dim
        self.items = nn.Embedding(n_items + 1, dim, padding_idx=n_items)
        self.places = nn.Embedding(settings.length, dim)
        for table in (self.items, self.places):
            nn.init.normal_(table.weight, std=_INITIAL_STD)
        layer = nn.TransformerEncoderLayer(
            dim, settings.heads, dim_feedforward=2 * dim, dropout=settings.dropout, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, settings.layers, enable_nested_tensor=False)
        self.norm, self.dropout = nn.LayerNorm(dim), nn.Dropout(settings.dropout)

    def forward(self, sequences: torch.Tensor) -> torch.Tensor:
        """States [n, length, dim] of sequences of items int64 [n, length], the newest last, filled up in front."""
        length = sequences.shape[1]
        places = torch.arange(length, device=sequences.device)
        states = self.dropout(self.items(sequences) + self.places(places))
        later = torch.ones(length, length, dtype=torch.bool, device=sequences.device).triu(1)
        found: torch.Tensor = self.norm(self.layers(states, mask=later))
        return found

    @torch.no_grad()
    def start_from(self, vectors: torch.Tensor) -> None:
        """Take item vectors [n_items, columns] in the scale that the table has."""
        columns = min(vectors.shape[1], self.items.embedding_dim)
        scale = _INITIAL_STD / vectors.square().mean().sqrt().clamp_min(1e-12)
        self.items.weight[:-1, :columns] = vectors[:, :columns].to(self.items.weight) * scale

    def scores(self, states: torch.Tensor) -> torch.Tensor:
        """Of all items, [..., n_items]."""
        return states @ self.items.weight[:-1].T


def _newest_items(histories: Histories, *, length: int, skipped: torch.Tensor | None = None) -> torch.Tensor:
    """The newest items of each user in order, without the `skipped` [n_users] newest: int64 [n_users, length]."""
    ordered = histories.items[histories.by_order].long()
    ends = histories.starts[1:] if skipped is None else histories.starts[1:] - skipped
    places = ends[:, None] + torch.arange(-length, 0, device=ends.device)
    inside = places >= histories.starts[:-1, None]
    if not len(ordered):
        return torch.full(places.shape, histories.n_items, device=ends.device)
    return torch.where(inside, ordered[places.clamp_min(0)], histories.n_items)


def fit_self_attention(
    histories: Histories, settings: AttentionSettings | None = None, *, start: torch.Tensor | None = None
) -> SelfAttention:
    """Train on users in order, on the device of the histories.

    Item vectors may `start` from others [n_items, columns], brought to the scale of a random start. Columns that they
    lack stay random, and those that the table lacks are left out.

    Guarantees: none; the result depends on the users without noise.
    """
    how = settings or AttentionSettings()
    generator = torch.Generator().manual_seed(how.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        model = SelfAttention(histories.n_items, how)
        if start is not None:
            model.start_from(start)
        model.to(histories.device)
        optimizer = torch.optim.Adam(model.parameters(), lr=how.learning_rate, betas=(0.9, 0.98))
        sizes = histories.starts.diff().cpu()
        several = torch.nonzero(sizes > 1)[:, 0]
        for _ in range(how.epochs):
            slack = (sizes - how.length - 1).clamp_min(0)
            skipped = (torch.rand(len(sizes), generator=generator) * (slack + 1)).long().clamp_max(slack)
            sequences = _newest_items(histories, length=how.length + 1, skipped=skipped.to(histories.device))
            drawn = several[torch.randperm(len(several), generator=generator)]
            for batch in torch.split(drawn, how.batch_users):
                _step(model, optimizer, sequences[batch.to(histories.device)])
    return model.eval()


def _step(model: SelfAttention, optimizer: torch.optim.Optimizer, sequences: torch.Tensor) -> None:
    known, following = sequences[:, :-1], sequences[:, 1:]
    asked = known < model.items.num_embeddings - 1
    optimizer.zero_grad()
    scores = model.scores(model(known)[asked])
    loss = nn.functional.cross_entropy(scores, following[asked])
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


@torch.no_grad()
def attention_scores(model: SelfAttention, histories: Histories) -> torch.Tensor:
    """float32 [n_users, n_items] for users in order."""
    length = model.places.num_embeddings
    found: torch.Tensor = model.scores(model(_newest_items(histories, length=length))[:, -1])
    return found
