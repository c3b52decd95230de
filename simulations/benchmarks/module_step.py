"""The clipped sum of a PyTorch module: the trainer's way by Opacus' hooks against what Opacus itself does.

The same users, examples, module and loss. Opacus works in float32 on all users at once, which is how it is used. Its
ghost clipping passes backwards twice, and its norms of an embedding need a module that reads the table once, so the
module here does; its hooks hold a whole gradient of each user. The trainer works in float64, on a few users at a
time, and passes backwards once. Everything runs where the table is: here on a CPU, in `on_gpu` on a GPU.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from torch import nn

from recsys_fed.models.device import use_threads
from recsys_fed.models.torch_modules import load_item_table, pool
from recsys_fed.privacy.clipping import clip_factors
from recsys_fed.trainers.examples import Examples, ExampleSettings, make_examples
from recsys_fed.trainers.item_gradients import ItemGradients, add_clipped
from recsys_fed.trainers.loss import Asked, Clipping
from recsys_fed.trainers.losses import loss_of
from recsys_fed.trainers.torch_trainer import user_losses
from simulations.benchmarks.line import Line
from simulations.benchmarks.peak_memory import peak_megabytes, print_peak
from simulations.benchmarks.ways_to_clip import quietly_backward, random_problem

N_ITEMS, N_USERS, DIM, HISTORY, NEGATIVES = 3_706, 1_024, 64, 100, 64
TIME_BAR, MEMORY_BAR, TURNS = 1.3, 1.0, 3


class _Net(nn.Module):
    """Pooled history and item, concatenated, a hidden layer, one score; the table is read once."""

    def __init__(self, n_items: int, dim: int) -> None:
        super().__init__()
        self.items, self.n_items = nn.Embedding(n_items + 1, dim, padding_idx=n_items), n_items
        self.hidden, self.out = nn.Linear(2 * dim, 64), nn.Linear(64, 1)

    def forward(self, history: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Scores."""
        rows = self.items(torch.cat([history, items], 1))
        seen, asked = rows[:, : history.shape[1]], rows[:, history.shape[1] :]
        users = pool(seen, history, self.n_items)[:, None].expand_as(asked)
        scores: torch.Tensor = self.out(self.hidden(torch.cat([users, asked], -1)).relu())[..., 0]
        return scores


Step = Callable[[nn.Module, torch.Tensor, list[Examples]], torch.Tensor]
_LOSS = loss_of("bce")


def module_step_lines() -> list[Line]:
    """Time and memory of a step over those of Opacus' ghost clipping."""
    use_threads(1)
    module, table, examples = problem_of(N_USERS)
    difference = (ours(module, table, examples) - ghost(module, table, examples)).norm()
    seconds: dict[str, list[float]] = {name: [] for name in _COMPARED}
    for _ in range(TURNS):
        for name, step in _COMPARED.items():
            start = time.process_time()
            step(module, table, examples)
            seconds[name].append(time.process_time() - start)
    time_of = {name: statistics.median(found) for name, found in seconds.items()}
    memory = {name: peak_megabytes(__spec__.name, json.dumps(name)) for name in _COMPARED}
    size = f"{N_ITEMS:,} items, {N_USERS:,} users, d={DIM}"
    return [
        Line(name=f"clipped sum of a module ({size})", value=1e3 * time_of["ours"], unit="ms"),
        Line(name="Opacus' ghost clipping of the same", value=1e3 * time_of["ghost"], unit="ms"),
        Line(name="difference of the sums, in clip norms", value=float(difference), unit="clip norms"),
        Line(
            name="module over ghost clipping: time",
            value=time_of["ours"] / time_of["ghost"],
            unit="times",
            bar=TIME_BAR,
        ),
        Line(
            name="module over ghost clipping: memory",
            value=memory["ours"] / memory["ghost"],
            unit="times",
            bar=MEMORY_BAR,
        ),
        Line(name="memory of the module's step", value=memory["ours"], unit="MB"),
    ]


def ours(module: nn.Module, table: torch.Tensor, examples: list[Examples]) -> torch.Tensor:
    """The trainer's way."""
    gradients = ItemGradients(module, item_table="items.weight", n_items=len(table)).to(table.device)
    gradients.load(table)
    total = torch.zeros(table.shape, dtype=torch.float64, device=table.device)
    clipping = Clipping(l2_clip_norm=1.0, mode="flat")
    add_clipped(gradients, examples, user_losses(_LOSS, 0.3), clipping=clipping, total=total)
    return total


def ghost(module: nn.Module, table: torch.Tensor, examples: list[Examples]) -> torch.Tensor:
    """The two passes of Opacus' DPLossFastGradientClipping, all users at once."""
    own = _loaded(module, table)
    hooked = GradSampleModuleFastGradientClipping(own, loss_reduction="sum", max_grad_norm=1.0)
    losses = user_losses(_LOSS, 0.3)(hooked, _joined(examples))
    quietly_backward(losses.sum(), retain_graph=True)
    factors = clip_factors(hooked.get_norm_sample(), l2_clip_norm=1.0)
    hooked.zero_grad()
    hooked.disable_hooks()
    quietly_backward((factors * losses).sum())
    gradient = own.items.weight.grad
    return torch.zeros(0) if gradient is None else gradient[:-1].double()


def hooks(module: nn.Module, table: torch.Tensor, examples: list[Examples]) -> torch.Tensor:
    """Opacus' stock hooks: a gradient [n_items + 1, dim] of every user, clipped and added up."""
    own = _loaded(module, table)
    hooked = GradSampleModule(own, loss_reduction="sum")
    quietly_backward(user_losses(_LOSS, 0.3)(hooked, _joined(examples)).sum())
    samples: torch.Tensor = vars(own.items.weight)["grad_sample"]
    factors = clip_factors(samples.flatten(1).norm(dim=1), l2_clip_norm=1.0)
    return torch.einsum("u,uij->ij", factors, samples)[:-1].double()


STEPS: dict[str, Step] = {"ours": ours, "ghost": ghost, "hooks": hooks}
_COMPARED = {name: STEPS[name] for name in ("ours", "ghost")}


def _loaded(module: nn.Module, table: torch.Tensor) -> _Net:
    """A copy whose table alone asks for gradients, where the table is."""
    own = _Net(len(table), table.shape[1])
    own.load_state_dict(module.state_dict())
    own.requires_grad_(False)
    own.items.weight.requires_grad_(True)
    load_item_table(cast(nn.Parameter, own.items.weight), table)
    return own.to(table.device)


def _joined(examples: list[Examples]) -> Examples:
    """All users in one batch, in float32."""
    asked = Asked(
        positive=torch.cat([part.asked.positive for part in examples]).float(),
        negative=torch.cat([part.asked.negative for part in examples]).float(),
    )
    columns = {name: torch.cat([getattr(part, name) for part in examples]) for name in ("rows", "history", "items")}
    return Examples(**columns, asked=asked, n_items=examples[0].n_items)


def problem_of(
    n_users: int, *, n_items: int = N_ITEMS, history: int = HISTORY, device: torch.device | str = "cpu"
) -> tuple[nn.Module, torch.Tensor, list[Examples]]:
    """A module, a table, and the examples of users of equally many items."""
    problem = random_problem(n_items=n_items, n_users=n_users, dim=DIM, history=history)
    how = ExampleSettings(hidden_share=0.0, n_negatives=NEGATIVES, all_items=False, columns=DIM)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = _Net(n_items, DIM)
    return module, problem.vectors.to(device), list(make_examples(problem.histories.to(device), how, key=0))


def _child(name: str) -> None:
    use_threads(1)
    module, table, examples = problem_of(N_USERS)
    print_peak(partial(STEPS[name], module, table, examples), warm=partial(STEPS[name], *problem_of(8)))


if __name__ == "__main__":
    _child(json.loads(sys.argv[1]))
