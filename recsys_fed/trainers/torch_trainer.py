"""torch: differentially private training of the item table of any PyTorch recommender module.

    TorchTrainer(module=MyModule, item_table="items.weight", loss="sampled-softmax")

The user is the sample: a user's term is the gradient of that user's loss in the item table, clipped as a whole, with
the exact norm from Opacus' hooks (`item_gradients`). Schedules, sampling of users, integer noise, accounting and the
server's optimiser are those of dp-sgd (`dp_sgd`). Where the module turns out to be a dot product with folded-in
users, which is tried on made-up users before a training, the rank-one form gives the same sums for far less work.

*What travels* is the item table: the sum has the shape of the table's rows on the head, and nothing else of the
module is read to make a message.

*Private parts.* Everything else of the module (towers, attention, hidden layers) has, in every round, the values of
its public start. That is what makes the sensitivity of a round one clip norm, given all that was released before:

    term of u in round t = clip(grad_T loss_u(T_t, P_0; history of u, public key of t))

with T_t a function of releases and P_0 public. If private parts were trained on the silo's users between rounds, P_t
would depend on u without noise, and the terms of all *other* users in round t + 1 would move with u: a sum of n moved
terms is not bounded by one clip norm, and no accountant of the releases would notice. Parts of a single user (the
user's vector) are computed anew from that user's own history each time. A silo fits the private parts to its users
after the training, on the released table, and keeps them (`personalisation.private_parts`).

`user_separation` refuses modules in which users meet, before anything private is read.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from recsys_fed import extensions
from recsys_fed.errors import ConfigurationError
from recsys_fed.models.histories import Histories, UserHistories
from recsys_fed.models.items import FoldIn, ItemEmbeddings, TrainedModule
from recsys_fed.models.torch_modules import (
    MODULES,
    MODULES_GROUP,
    ModuleFactory,
    RecommenderModule,
    item_table_of,
    make_module,
    module_factory,
)
from recsys_fed.trainers.dp_sgd import DPSGD, DPSGDState, embedding_dim
from recsys_fed.trainers.examples import Examples, ExampleSettings, make_examples
from recsys_fed.trainers.item_gradients import ItemGradients, UserLosses, add_clipped
from recsys_fed.trainers.local_steps import Summed, Task, dense_steps, draw_key, sum_clipped
from recsys_fed.trainers.loss import Asked, Batch, Clipping, Loss, RowBlocks
from recsys_fed.trainers.losses import LOSSES, loss_of
from recsys_fed.trainers.subspace import principal_features
from recsys_fed.trainers.trainer import EarlierTraining, LocalNoise, PublicFacts, Stage, Tables
from recsys_fed.trainers.user_separation import (
    N_ITEMS,
    check_layers,
    check_users_apart,
    public_table,
    public_users,
)

LOSSES_GROUP = "recsys_fed.losses"
LossFunction = Callable[[torch.Tensor, Asked], torch.Tensor]
# Of a start from public features, root mean square; and of popularity, whose largest entry is 1 before.
_PUBLIC_START = 0.1
_POPULARITY_START = 0.3
# Of the modules that are tried, and how near, in clip norms, sums of ten users in float32 and in float64 come.
_TRIED_DIM = 4
_EQUAL = 1e-4


@dataclass(frozen=True, kw_only=True)
class _BroughtLoss(Loss):
    """A loss that somebody brings: a function of scores, for any module but not in closed form."""

    function: LossFunction
    reads_all_items: ClassVar[bool] = False

    def clipped(self, batch: Batch, *, how: FoldIn, unobserved_weight: float, clipping: Clipping) -> RowBlocks:
        """None; the general way works without."""
        raise ConfigurationError("A loss of scores has no closed form.")

    def of_scores(self, scores: torch.Tensor, asked: Asked, *, unobserved_weight: float) -> torch.Tensor:
        """What the function says."""
        return self.function(scores, asked)


@dataclass(frozen=True, kw_only=True)
class TorchTrainer(DPSGD):
    """The trainer; see the module.

    Guarantees:
        - Unit: a user. Neighbouring relation: one user added or removed. A round's sum has L2 sensitivity
          settings["l2_clip_norm"], given all rounds before it: see the module and `item_gradients`.
        - Assumes that users do not meet in the module or its loss. `user_separation` tries it; the silo's operator,
          who installs the module's code, answers for it. A server sends no code.

    Attributes:
        module: a name of `models.torch_modules.MODULES` or of an entry point of "recsys_fed.modules"; or what makes a
            module from n_items and dim, such as a class, which is then known to this process by its name.
        item_table: name of the parameter that is shared.
        loss: of `losses`, of an entry point of "recsys_fed.losses", or a function of scores and `loss.Asked` that
            gives each user's loss [n_users]; "" takes what the module says.
        negatives, schedule and all else: see `DPSGD`. `regularization` is of the fold-in of dot products.
    """

    name: ClassVar[str] = "torch"

    module: str | ModuleFactory = "mf"
    item_table: str = "items.weight"
    loss: str | LossFunction = ""  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if not isinstance(self.module, str):
            object.__setattr__(self, "module", _make_known(MODULES_GROUP, self.module, tuple(MODULES)))
        if not isinstance(self.loss, str):
            object.__setattr__(self, "loss", _make_known(LOSSES_GROUP, self.loss, tuple(LOSSES)))
        super().__post_init__()

    @property
    def _module(self) -> str:
        return str(self.module)

    @property
    def _loss(self) -> Loss:
        return named_loss(self._loss_name)

    @property
    def _loss_name(self) -> str:
        return str(self.loss) or str(_says(self._module, "loss"))

    @property
    def _fold_in(self) -> FoldIn:
        return super()._fold_in if self._rank_one is not None else FoldIn(kind="projection")

    @property
    def _rank_one(self) -> Task | None:
        """The same by the rank-one form, where that gives the same sums; raises what `plan` raises."""
        task = Task(
            loss=self._loss,
            how=super()._fold_in,
            unobserved_weight=self.unobserved_weight,
            n_negatives=self.negatives,
            clipping=Clipping(l2_clip_norm=1.0),
        )
        return _inspect(self._module, module_factory(self._module), self.item_table, task)

    @property
    def _rate(self) -> float:
        says = 0.0 if self.noise_inside else float(_says(self._module, "learning_rate"))
        return self.learning_rate or says or super()._rate

    def plan(self, facts: PublicFacts) -> tuple[Stage, ...]:
        """That of dp-sgd, for a module in which users do not meet.

        Raises:
            ConfigurationError: they do, or it has no such item table.
        """
        _ = self._rank_one
        own = {"embedding_dim": float(embedding_dim(facts))}
        counts, *gradients = super().plan(facts)
        return (counts, *(replace(stage, settings={**stage.settings, **own}) for stage in gradients))

    def start(self, facts: PublicFacts, rng: np.random.Generator) -> DPSGDState:
        """That of dp-sgd; of modules that ask for it from the leading directions of public features."""
        state = super().start(facts, rng)
        if self._bias_scale:
            state.start[:, -1] = 0.0
        if _says(self._module, "features") and facts.features is not None:
            weights = torch.ones(facts.n_items, dtype=torch.float64)
            found = principal_features(facts.features, weights=weights, dim=state.start.shape[1] - 1)
            found *= _PUBLIC_START / found.square().mean().sqrt().clamp_min(1e-12)
            # The first column becomes popularity.
            state.start[:, 1 : 1 + found.shape[1]] = found.float()
        return state

    def step(
        self, state: DPSGDState, stage: Stage, total: torch.Tensor, *, noise_std: float, n_silos: int
    ) -> DPSGDState:
        """That of dp-sgd; popularity, in the first column, starts smaller where histories are pooled."""
        after = super().step(state, stage, total, noise_std=noise_std, n_silos=n_silos)
        if state.vectors is None and after.vectors is not None and self._rank_one is None:
            after.vectors[:, 0] *= _POPULARITY_START
        return after

    def local_update(
        self, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float], noise: LocalNoise
    ) -> torch.Tensor:
        """The noisy clipped sums of all local steps added up, int32 [n_head, columns] in grid steps.

        Guarantees: see `local_steps`; all private parts keep their public start.
        """
        if self._rank_one is not None:
            return super().local_update(tables, histories, settings=settings, noise=noise)
        gradients = self._gradients(len(tables["head"]), settings, histories.device)
        clipping = self._task(settings).clipping

        def clipped(vectors: torch.Tensor, blocks: list[Histories]) -> Iterator[tuple[int, torch.Tensor]]:
            gradients.load(vectors)
            key = draw_key(noise.sampling)
            yield 0, self._general_sum(gradients, blocks, clipping=clipping, key=key).total

        return dense_steps(clipped, tables["vectors"], histories, head=tables["head"], settings=settings, noise=noise)

    def _table_of(self, earlier: EarlierTraining) -> torch.Tensor:
        """That of dp-sgd; biases begin at zero again, as a model has them with those of popularity in one."""
        table = super()._table_of(earlier)
        return torch.nn.functional.pad(table, (0, 1)) if self._bias_scale else table

    def item_embeddings(self, state: DPSGDState) -> ItemEmbeddings:
        """The table on the head, zero elsewhere; the last column as the bias where it is one, and popularity."""
        module = TrainedModule(
            name=self._module,
            dim=embedding_dim(state.facts),
            item_table=self.item_table,
            loss=self._loss_name,
            bias_scale=self._bias_scale,
        )
        model = replace(super().item_embeddings(state), module=module)
        if not self._bias_scale:
            return model
        bias = self._bias_scale * model.vectors[:, -1]
        # What the silos were never asked about comes last.
        bias[model.history_weights == 0] = bias.min()
        return replace(model, vectors=model.vectors[:, :-1].contiguous(), bias=bias + model.bias)

    @property
    def _bias_scale(self) -> float:
        return self._rank_one.bias_scale if self._rank_one is not None else 0.0

    def _columns(self, facts: PublicFacts) -> int:
        module = make_module(self._module, 1, embedding_dim(facts))
        return item_table_of(module, self.item_table, n_items=1).shape[1]

    def _task(self, settings: Mapping[str, float]) -> Task:
        return replace(super()._task(settings), bias_scale=self._bias_scale)

    def _sum(
        self, tables: Tables, histories: UserHistories, settings: Mapping[str, float], clipping: Clipping
    ) -> Summed:
        if self._rank_one is not None:
            return super()._sum(tables, histories, settings, clipping)
        head, gradients = tables["head"], self._gradients(len(tables["head"]), settings, histories.device)
        gradients.load(tables["vectors"])
        blocks = (block.restricted(head) for block in histories.blocks())
        return self._general_sum(gradients, blocks, clipping=clipping, key=int(settings.get("negatives_key", 0.0)))

    def _gradients(self, n_items: int, settings: Mapping[str, float], device: torch.device) -> ItemGradients:
        module = make_module(self._module, n_items, int(settings["embedding_dim"]))
        return ItemGradients(module, item_table=self.item_table, n_items=n_items).to(device)

    def _general_sum(
        self, gradients: ItemGradients, blocks: Iterable[Histories], *, clipping: Clipping, key: int
    ) -> Summed:
        """The clipped sum over the users of blocks over the head, by Opacus' hooks."""
        total = torch.zeros(gradients.n_items, gradients.table.shape[1], dtype=torch.float64, device=gradients.device)
        how = example_settings(self._module, self._loss, n_negatives=self.negatives, columns=total.shape[1])
        losses, within, users = user_losses(self._loss, self.unobserved_weight), 0, 0
        for block in blocks:
            beyond = add_clipped(
                gradients, make_examples(block, how, key=key), losses, clipping=clipping, total=total
            )
            within, users = within + block.n_users - beyond, users + block.n_users
        return Summed(total=total, within=within, users=users)


def named_loss(name: str) -> Loss:
    """The loss of a name, of this library or brought.

    Raises:
        ConfigurationError: there is no such loss.
    """
    if name in LOSSES or name not in extensions.extension_names(LOSSES_GROUP):
        return loss_of(name)
    function: Any = extensions.load_extension(LOSSES_GROUP, name)
    return _BroughtLoss(function=function)


def example_settings(module: str, loss: Loss, *, n_negatives: int, columns: int) -> ExampleSettings:
    """How a module of that name and a loss want to see users."""
    return ExampleSettings(
        hidden_share=float(_says(module, "hidden_share")),
        n_negatives=n_negatives,
        all_items=loss.reads_all_items,
        columns=columns,
    )


def user_losses(loss: Loss, unobserved_weight: float) -> UserLosses:
    """The loss of each user, of a module and examples."""

    def of(module: nn.Module, examples: Examples) -> torch.Tensor:
        scores = module(examples.history, examples.items)
        if scores.shape != examples.items.shape:
            raise ConfigurationError(
                f"Expected the module to give scores of the shape of items, {tuple(examples.items.shape)}, got "
                f"{tuple(scores.shape)}."
            )
        return loss.of_scores(scores, examples.asked, unobserved_weight=unobserved_weight)

    return of


def _says(module: str, what: str) -> Any:
    return getattr(module_factory(module), what, getattr(RecommenderModule, what))


def _make_known(group: str, brought: object, taken: tuple[str, ...]) -> str:
    """The name under which an object is known to this process from now on.

    Raises:
        ConfigurationError: it has none, or one of this library.
    """
    name = getattr(brought, "__name__", "")
    if not name.isidentifier() or name in taken:
        raise ConfigurationError(f"Expected a class or function with a name of its own, got {brought!r}.")
    extensions.register(group, name, brought)
    return str(name)


@lru_cache(maxsize=64)
def _inspect(name: str, factory: ModuleFactory, item_table: str, task: Task) -> Task | None:
    """Try on made-up users that users do not meet; the rank-one form of the same sums, if there is one.

    Raises:
        ConfigurationError: they meet, or the module is not as it should be.
    """
    module = make_module(name, N_ITEMS, _TRIED_DIM)
    check_layers(module)
    gradients = ItemGradients(module, item_table=item_table, n_items=N_ITEMS)
    columns = gradients.table.shape[1]
    how = example_settings(name, task.loss, n_negatives=task.n_negatives, columns=columns)
    losses = user_losses(task.loss, task.unobserved_weight)
    check_users_apart(gradients, losses, how)
    if isinstance(task.loss, _BroughtLoss) or how.hidden_share:
        return None
    users, head = public_users(), torch.arange(N_ITEMS)
    for scale in (float(_says(name, "bias_scale")), 0.0):
        candidate, far = replace(task, bias_scale=scale), 0.0
        for seed in (0, 1):
            table = public_table(N_ITEMS, columns, seed=seed)
            gradients.load(table)
            total = torch.zeros(table.shape, dtype=torch.float64)
            add_clipped(gradients, make_examples(users, how, key=seed), losses, clipping=task.clipping, total=total)
            far = max(far, float((sum_clipped(candidate, table, users, head=head, key=seed).total - total).norm()))
        if far < _EQUAL:
            return candidate
    return None
