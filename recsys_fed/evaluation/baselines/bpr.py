"""BPR-MF (Rendle et al., arXiv 1205.2618): factors that rank a user's items above uniformly drawn ones.

minimise  -sum ln sigmoid(s_ui - s_uj) + regularization (||p_u||^2 + ||q_i||^2 + ||q_j||^2),   s_ui = p_u q_i + b_i

`implicit` draws j by popularity, which ranks popular items low under full ranking, so this is written here.
"""

import torch
from scipy import sparse

from recsys_fed.evaluation.baselines.pattern import pattern_of
from recsys_fed.evaluation.scorer import Scorer

_INITIAL_STD = 0.05


def bpr_mf(
    train: sparse.csr_matrix | sparse.csr_array,
    *,
    embedding_dim: int = 64,
    epochs: int = 15,
    learning_rate: float = 0.01,
    regularization: float = 0.003,
    batch_size: int = 8192,
    seed: int = 0,
) -> Scorer:
    """Train with Adam; j is any item of the catalogue, so now and then one that the user has."""
    pattern = pattern_of(train).tocoo()
    users, items = (torch.from_numpy(index).long() for index in (pattern.row, pattern.col))
    n_users, n_items = pattern.shape
    rng = torch.Generator().manual_seed(seed)
    of_user = _INITIAL_STD * torch.randn(n_users, embedding_dim, generator=rng)
    of_item = _INITIAL_STD * torch.randn(n_items, embedding_dim, generator=rng)
    parameters = [table.requires_grad_() for table in (of_user, of_item, torch.zeros(n_items))]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    for _ in range(epochs):
        for batch in torch.randperm(len(users), generator=rng).split(batch_size):  # type: ignore[no-untyped-call]
            drawn = torch.randint(n_items, (len(batch),), generator=rng)
            optimizer.zero_grad()
            loss = _loss(parameters, (users[batch], items[batch], drawn), regularization=regularization)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    p, q, bias = (table.detach() for table in parameters)

    def score(rows: slice) -> torch.Tensor:
        return p[rows] @ q.T + bias

    return score


def _loss(
    parameters: list[torch.Tensor],
    triples: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    *,
    regularization: float,
) -> torch.Tensor:
    (p, q, bias), (users, items, drawn) = parameters, triples
    of_user, of_item, of_drawn = p[users], q[items], q[drawn]
    margin = (of_user * (of_item - of_drawn)).sum(1) + bias[items] - bias[drawn]
    size = of_user.square().sum() + of_item.square().sum() + of_drawn.square().sum()
    loss: torch.Tensor = (regularization * size - torch.nn.functional.logsigmoid(margin).sum()) / len(users)
    return loss
