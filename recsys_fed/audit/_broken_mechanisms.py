"""Deliberately broken copies of the mechanism. An audit that cannot tell them from the real one is worthless.

Each is the deployed mechanism with one mistake that real systems have made: seven of any run, two of a run that reads
order, one of a run of a PyTorch module. Three of the seven, and all of the others, are sums over users whose
sensitivity is not what it is said to be.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch

from recsys_fed.audit._mechanism import Mechanism
from recsys_fed.federation.messages import Request, Update
from recsys_fed.federation.release import Randomness, SiloUsers
from recsys_fed.federation.schedule import Schedule
from recsys_fed.models.histories import Histories, Signals, UserHistories, positions
from recsys_fed.privacy.noise import SeededNoise
from recsys_fed.trainers import ordered, popularity
from recsys_fed.trainers.cooccurrence import pack
from recsys_fed.trainers.dp_sgd import DPSGD
from recsys_fed.trainers.item_gradients import ItemGradients
from recsys_fed.trainers.local_steps import Summed, Task
from recsys_fed.trainers.loss import Clipping
from recsys_fed.trainers.spectral import COOCCURRENCE
from recsys_fed.trainers.torch_trainer import TorchTrainer
from recsys_fed.trainers.trainer import DelegatingTrainer, LocalNoise, Tables, Trainer

_NO_LIMIT = 1e15
# Users that each silo is taken to have by the copy that weighs by its real number.
EXPECTED_USERS = 1_000
# Purpose of a simulated silo's noise key: public knowledge, as the code is.
SIMULATION_NOISE = 1


class _Unclipped(DelegatingTrainer):
    """Every user's term has the length that it happens to have."""

    def __init__(self, trainer: Trainer) -> None:
        if isinstance(trainer, DPSGD):
            kind = _UnclippedTorch if isinstance(trainer, TorchTrainer) else _UnclippedDPSGD
            trainer = kind(**_settings(trainer))
        super().__init__(trainer)

    def contribution(
        self, stage: str, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float]
    ) -> torch.Tensor:
        """Plain counts, co-occurrence, power steps, or gradients."""
        if stage == popularity.STAGE:
            return _plain_counts(histories)
        if stage == ordered.STAGE:
            return _plain_ordered_step(tables, histories, settings=settings, clipped=False)
        if "subspace" in tables:
            return _plain_power_step(tables, histories)
        if stage == COOCCURRENCE:
            return _plain_cooccurrence(tables, histories)
        return super().contribution(stage, tables, histories, settings=settings)


class _RecordLevel(DelegatingTrainer):
    """Every interaction is clipped as if it were a user: the unit that tools for images have by default."""

    def contribution(
        self, stage: str, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float]
    ) -> torch.Tensor:
        """The contribution of as many users as there are interactions."""
        return super().contribution(stage, tables, _records(histories), settings=settings)

    def local_update(
        self, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float], noise: LocalNoise
    ) -> torch.Tensor:
        """Local steps over records."""
        return super().local_update(tables, _records(histories), settings=settings, noise=noise)


class _WeightedByCount(DelegatingTrainer):
    """The silo's mean over its real number of users, which is private, times the expected number."""

    def contribution(
        self, stage: str, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float]
    ) -> torch.Tensor:
        """The sum times EXPECTED_USERS / n_users."""
        total = super().contribution(stage, tables, histories, settings=settings)
        return total * (EXPECTED_USERS / max(1, histories.n_users))

    def local_update(
        self, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float], noise: LocalNoise
    ) -> torch.Tensor:
        """Local steps whose released sum is weighted; without noise in it, as the noise is meant to stay."""
        total = super().local_update(tables, histories, settings=settings, noise=noise)
        return total * (EXPECTED_USERS // max(1, histories.n_users))


class _UnclippedDPSGD(DPSGD):
    """dp-sgd with a clip norm that nothing reaches."""

    limit: ClassVar[float] = _NO_LIMIT

    def contribution(
        self, stage: str, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float]
    ) -> torch.Tensor:
        if self.clipping != "adaptive" or stage == popularity.STAGE:
            return super().contribution(stage, tables, histories, settings=settings)
        wide = dict(tables) | {"clip": torch.tensor([self.limit])}
        joined = super().contribution(stage, wide, histories, settings=settings)
        joined[:-1] *= float(wide["clip"][0]) / float(tables["clip"][0])
        return joined

    def _sum(
        self, tables: Tables, histories: UserHistories, settings: Mapping[str, float], clipping: Clipping
    ) -> Summed:
        return super()._sum(tables, histories, settings, Clipping(l2_clip_norm=self.limit, mode="flat"))

    def _task(self, settings: Mapping[str, float]) -> Task:
        return replace(super()._task(settings), clipping=Clipping(l2_clip_norm=self.limit, mode="flat"))


class _UnclippedTorch(_UnclippedDPSGD, TorchTrainer):
    """The same of modules, whose sums are cut off at multiples of a part of the limit."""

    limit: ClassVar[float] = 1e4


class _InBatchTorch(TorchTrainer):
    """A module that scores against the items of the whole batch, and nobody asks whether users meet in it."""

    @property
    def _rank_one(self) -> None:
        return None

    def _general_sum(
        self, gradients: ItemGradients, blocks: Iterable[Histories], *, clipping: Clipping, key: int
    ) -> Summed:
        plain = gradients.module.forward

        def with_others(history: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
            # The first item of everybody, for everybody.
            others = plain(history, items[:, 0].expand(len(items), -1))
            found: torch.Tensor = plain(history, items) - others.sum(1, keepdim=True)
            return found

        gradients.module.forward = with_others
        return super()._general_sum(gradients, blocks, clipping=clipping, key=key)


class _InBatchNegatives(DelegatingTrainer):
    """Items of other users of the batch as negatives: how two-tower models are trained at scale without privacy."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(_InBatchTorch(**_settings(trainer)) if isinstance(trainer, TorchTrainer) else trainer)


class _RepeatedApart(DelegatingTrainer):
    """The norm of a term is taken before the rows of an item that a user has several times are added."""

    def contribution(
        self, stage: str, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float]
    ) -> torch.Tensor:
        """The step over neighbours with such norms."""
        if stage != ordered.STAGE:
            return super().contribution(stage, tables, histories, settings=settings)
        return _plain_ordered_step(tables, histories, settings=settings)


class _WindowAcrossUsers(DelegatingTrainer):
    """The window over a user's neighbours goes on into the next user of the block."""

    def contribution(
        self, stage: str, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float]
    ) -> torch.Tensor:
        """The step over neighbours without the users' borders."""
        if stage != ordered.STAGE:
            return super().contribution(stage, tables, histories, settings=settings)
        return _plain_ordered_step(tables, histories, settings=settings, across=True)


def _plain_ordered_step(
    tables: Tables,
    histories: UserHistories,
    *,
    settings: Mapping[str, float],
    across: bool = False,
    clipped: bool = True,
) -> torch.Tensor:
    """`ordered.ordered_step` as it would be written without its care: in float64, each row by itself."""
    damping, n_head = tables["damping"].double(), len(tables["head"])
    table = torch.nn.functional.pad(damping[:, None] * tables["subspace"].double(), (0, 0, 0, 1))
    weights = torch.nn.functional.pad(damping.square(), (0, 1))
    places = positions(tables["head"], histories.n_items, dtype=torch.int32)
    places[places < 0] = n_head
    total = torch.zeros(n_head, table.shape[1], dtype=torch.float64, device=table.device)
    for block in histories.blocks():
        part = ordered.over_head(block, places, n_head=n_head)
        sums = ordered.neighbour_sums(
            _one_user(part) if across else part, table, half_life=settings[ordered.HALF_LIFE]
        )
        lengths = ordered.lengths_of_terms(part, sums, weights) if clipped else torch.ones(part.n_users)
        total += ordered.sum_by_item(part, sums * lengths[part.users][:, None])[:n_head]
    return damping[:, None] * total * settings["l2_clip_norm"]


def _one_user(part: Histories) -> Histories:
    """All interactions of a block as those of one user, user after user."""
    if part.signals is None or part.signals.rank is None:
        return part
    rank = torch.empty_like(part.by_order)
    rank[part.by_order] = torch.arange(len(rank), device=rank.device)
    return replace(part, starts=torch.tensor([0, len(rank)], device=rank.device), signals=Signals(rank=rank))


def _settings(trainer: DPSGD) -> dict[str, Any]:
    return {field.name: getattr(trainer, field.name) for field in fields(trainer)}


def _plain_counts(histories: UserHistories) -> torch.Tensor:
    total = torch.zeros(histories.n_items, dtype=torch.float64, device=histories.device)
    for block in histories.blocks():
        total += torch.bincount(block.items, minlength=histories.n_items)
    return total[:, None]


def _plain_power_step(tables: Tables, histories: UserHistories) -> torch.Tensor:
    """sum_u (x_u - q q^T x_u) (x_u^T W) with x_u the damped history, as it is."""
    damping, direction = tables["damping"].double(), tables["direction"].double()
    subspace = tables["subspace"].double()
    total = torch.zeros_like(subspace)
    for block in histories.blocks():
        part = block.restricted(tables["head"])
        weights = damping[part.items]
        projected = part.times(weights, subspace)
        total += part.transposed_times(weights, projected)
        total -= direction[:, None] * (part.times(weights, direction[:, None]).T @ projected)
    return total


def _plain_cooccurrence(tables: Tables, histories: UserHistories) -> torch.Tensor:
    """sum_u P (x_u x_u^T - diag) P with x_u the damped history, as it is."""
    damping, direction = tables["damping"].double(), tables["direction"].double()
    dense = torch.zeros(histories.n_users, len(damping), dtype=torch.float64)
    first = 0
    for block in histories.blocks():
        part = block.restricted(tables["head"])
        dense[first + part.users, part.items.long()] = damping[part.items]
        first += block.n_users
    moment = dense.T @ dense
    moment.diagonal().zero_()
    centring = torch.eye(len(damping), dtype=torch.float64) - torch.outer(direction, direction)
    return pack(centring @ moment @ centring)


def _records(histories: UserHistories) -> Histories:
    items = torch.cat([block.items for block in histories.blocks()] or [torch.zeros(0, dtype=torch.int32)])
    starts = torch.arange(len(items) + 1, device=items.device)
    return Histories(items=items, starts=starts, n_items=histories.n_items)


class _HalfTheNoise(Mechanism):
    """The standard deviation is half of what the event says."""

    def update(self, request: Request, users: SiloUsers, *, silo: int = 0, release: int = 0) -> Update:
        """As deployed, with half the noise multiplier; the event still claims the whole."""
        weak = replace(request, noise_multiplier=request.noise_multiplier / 2)
        update = super().update(weak, users, silo=silo, release=release)
        claimed = replace(update.event, noise_multiplier=request.noise_multiplier)
        return replace(update, event=claimed)


class _ReusedNoise(Mechanism):
    """Every second release repeats the noise of the one before: a counter that is not stored in time."""

    def randomness(self, silo: int, release: int) -> Randomness:
        """Streams of the even release number."""
        return super().randomness(silo, release - release % 2)


class _KnownSeed(Mechanism):
    """Noise from the seed of the run's configuration, as a simulation draws it."""

    def randomness(self, silo: int, release: int) -> Randomness:
        """Noise that whoever knows the configuration can draw as well."""
        noise = SeededNoise(SIMULATION_NOISE, self.public_seed, silo, release)
        return replace(super().randomness(silo, release), noise=noise)


class _DropoutLosesNoise(Mechanism):
    """Noise is split over all silos, and a round completes when some have taken their share away."""

    def accept(self, schedule: Schedule, request: Request, updates: Sequence[Update]) -> None:
        """Accept any round."""


@dataclass(frozen=True, kw_only=True)
class Breakage:
    """A broken copy by name: what it is, the class, and what replaces the trainer."""

    name: str
    mechanism: type[Mechanism]
    trainer: type[Trainer] | None = None
    loses_silos: bool = False

    def of(self, deployed: Mechanism) -> Mechanism:
        """The broken copy of a mechanism, with the same keys."""
        trainer = deployed.trainer if self.trainer is None else self.trainer(deployed.trainer)  # type: ignore[call-arg]
        return self.mechanism(trainer=trainer, key=deployed.key, public_seed=deployed.public_seed)


BREAKAGES = (
    Breakage(name="no clipping", mechanism=Mechanism, trainer=_Unclipped),
    Breakage(name="half the noise", mechanism=_HalfTheNoise),
    Breakage(name="noise reused in two rounds", mechanism=_ReusedNoise),
    Breakage(name="clipping of records instead of users", mechanism=Mechanism, trainer=_RecordLevel),
    Breakage(name="seed known to the attacker", mechanism=_KnownSeed),
    Breakage(name="dropout that loses noise", mechanism=_DropoutLosesNoise, loses_silos=True),
    Breakage(name="private weights in the mean", mechanism=Mechanism, trainer=_WeightedByCount),
)

ORDERED_BREAKAGES = (
    Breakage(name="norm without repeated items added", mechanism=Mechanism, trainer=_RepeatedApart),
    Breakage(name="window across users", mechanism=Mechanism, trainer=_WindowAcrossUsers),
)
"""Of runs with a stage that reads order."""

MODULE_BREAKAGES = (Breakage(name="in-batch negatives", mechanism=Mechanism, trainer=_InBatchNegatives),)
"""Of runs of PyTorch modules."""
