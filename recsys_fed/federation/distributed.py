"""A silo larger than one process: its users are split over the ranks of torch.distributed, and noise is added once.

Rank 0 is the silo: it talks to the server, keeps the budget, draws the noise. The other ranks hold a share of the
users each and add up what rank 0 asks them for; nothing leaves the silo but what rank 0 releases.

    rank 0   _SharedTrainer.contribution --job--> every rank: sum over its users --reduce--> rank 0: noise, release
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from recsys_fed.errors import ConfigurationError, EngineError, ProtocolError
from recsys_fed.federation.messages import Request
from recsys_fed.models.histories import Histories, UserHistories
from recsys_fed.models.stored_histories import StoredHistories
from recsys_fed.trainers.trainer import DelegatingTrainer, LocalNoise, Tables, Trainer

# Between two rounds ranks wait for the server, however long it takes.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Share:
    """One rank's share of a silo's users: consecutive ones, from `first`; `of_all` is how many the silo has."""

    users: UserHistories
    first: int
    of_all: int
    chosen: torch.Tensor | None = None

    @property
    def n_users(self) -> int:
        """Users of the whole silo: what samples are drawn from."""
        return self.of_all

    @property
    def n_items(self) -> int:
        """Number of items of the catalogue."""
        return self.users.n_items

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return self.users.device

    def blocks(self) -> Iterator[Histories]:
        """The blocks of this rank's users, those that are chosen."""
        if self.chosen is None:
            return self.users.blocks()
        mine = self.chosen[self.first : self.first + self.users.n_users]
        return self.users.subset(mine.to(self.device)).blocks()

    def subset(self, chosen: torch.Tensor) -> "_Share":
        """Only the users where `chosen` [n_users of the whole silo] is true."""
        return replace(self, chosen=chosen.cpu() if self.chosen is None else chosen.cpu() & self.chosen)


class _SharedTrainer(DelegatingTrainer):
    """A trainer on rank 0 whose contributions are summed over all ranks; its server half is the trainer's own."""

    def __init__(self, trainer: Trainer, *, silo: str) -> None:
        super().__init__(trainer)
        self.silo = silo

    def contribution(
        self, stage: str, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float]
    ) -> torch.Tensor:
        """Sum over the users of all ranks, float64; no noise.

        Guarantees: those of the trainer. Every user is in the share of one rank, so one user added or removed
        changes the sum over ranks as it changes the sum over one.
        """
        if not isinstance(histories, _Share):
            return self.trainer.contribution(stage, tables, histories, settings=settings)
        on_cpu = {name: table.cpu() for name, table in tables.items()}
        job = {"silo": self.silo, "stage": stage, "tables": on_cpu, "settings": dict(settings)}
        distributed.broadcast_object_list([job | {"chosen": histories.chosen}], src=0)
        return _sum_over_ranks(lambda: self.trainer.contribution(stage, tables, histories, settings=settings))

    def local_update(
        self, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float], noise: LocalNoise
    ) -> torch.Tensor:
        """Refuse on several ranks: local steps depend on each other."""
        if isinstance(histories, _Share):
            raise ConfigurationError(
                "Local steps need a silo of one process, this one has several ranks. "
                "Use dp-sgd.schedule = synchronous."
            )
        return self.trainer.local_update(tables, histories, settings=settings, noise=noise)


def _several_ranks() -> bool:
    """Whether this process is one of several ranks."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def check_ranks(request: Request) -> None:
    """Refuse local steps on several ranks, before anything is charged: they depend on each other.

    Raises:
        ProtocolError: this silo cannot answer the request, whatever its users have.
    """
    if request.noise_inside and _several_ranks():
        raise ProtocolError(
            "Local steps need a silo of one process, this one has several ranks. Use dp-sgd.schedule = synchronous."
        )


def over_ranks(trainer: Trainer, *, silo: str) -> Trainer:
    """The trainer, summing over the ranks of this silo where there are several."""
    return _SharedTrainer(trainer, silo=silo) if _several_ranks() else trainer


def share_of(histories: Histories | StoredHistories) -> UserHistories:
    """This rank's share of a silo's histories; all of them where there is one process only."""
    if not _several_ranks():
        return histories
    of_all, mine = histories.n_users, rows_of_share(histories.n_users)
    first, last = mine.start, mine.stop
    if isinstance(histories, StoredHistories):
        return _Share(users=histories.users_from(first, last), first=first, of_all=of_all)
    return _Share(users=histories.block(first, last), first=first, of_all=of_all)


def rows_of_share(n_users: int) -> slice:
    """Which of a silo's users are in this rank's share; all of them where there is one process only."""
    if not _several_ranks():
        return slice(0, n_users)
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    return slice(rank * n_users // ranks, (rank + 1) * n_users // ranks)


@contextmanager
def join_ranks(open_share: Callable[[str], tuple[Trainer, UserHistories]]) -> Iterator[bool]:
    """Join the ranks that torchrun started; the body runs on rank 0, with True, while the others serve it.

    On the other ranks the body gets False, after rank 0 is done, and has nothing to do.

    Args:
        open_share: gives the trainer and this rank's share of a silo by the silo's name.
    """
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=_PATIENCE)
    try:
        if distributed.get_rank() == 0:
            try:
                yield True
            finally:
                distributed.broadcast_object_list([None], src=0)
        else:
            _serve(open_share)
            yield False
    finally:
        distributed.destroy_process_group()


def _serve(open_share: Callable[[str], tuple[Trainer, UserHistories]]) -> None:
    """Add up this rank's users for every job of rank 0, until there is none."""
    while True:
        message: list[Any] = [None]
        distributed.broadcast_object_list(message, src=0)
        job = message[0]
        if job is None:
            return

        def compute(job: Mapping[str, Any] = job) -> torch.Tensor:
            trainer, share = open_share(job["silo"])
            if job["chosen"] is not None:
                share = share.subset(job["chosen"])
            tables = {name: table.to(share.device) for name, table in job["tables"].items()}
            return trainer.contribution(job["stage"], tables, share, settings=job["settings"])

        try:
            _sum_over_ranks(compute)
        except EngineError:
            # Rank 0 has the same error, and it is the one that answers.
            continue


def _sum_over_ranks(compute: Callable[[], torch.Tensor]) -> torch.Tensor:
    """The sum of a result over all ranks, float64. If one fails none waits for it.

    Raises:
        EngineError: on all ranks, if one of them failed.
    """
    failure, total = "", None
    try:
        total = compute().double()
    except Exception as error:  # noqa: BLE001  (the others wait for this rank, whatever it is)
        failure = f"rank {distributed.get_rank()}: {type(error).__name__}: {error}"
    failures = [""] * distributed.get_world_size()
    distributed.all_gather_object(failures, failure)
    if any(failures) or total is None:
        raise EngineError(f"Expected a sum of every rank, got {'; '.join(filter(None, failures))}.")
    distributed.all_reduce(total)
    return total
