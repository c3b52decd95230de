"""Trainers by name: of this library, of installed packages, passed as objects; and what `auto` takes of them."""

import json
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from recsys_fed import checks, extensions
from recsys_fed.config import BUILT_IN_TRAINERS, FederationConfig, half_lives_of
from recsys_fed.errors import ConfigurationError
from recsys_fed.models.histories import Signal, UserHistories
from recsys_fed.models.items import ItemEmbeddings
from recsys_fed.settings_file import Value, check_keys, parse_table
from recsys_fed.trainers.dp_sgd import DPSGD
from recsys_fed.trainers.popularity import PopularItems
from recsys_fed.trainers.rated_dp_sgd import RatedDPSGD
from recsys_fed.trainers.ratings import Ratings
from recsys_fed.trainers.spectral import Spectral
from recsys_fed.trainers.torch_trainer import TorchTrainer
from recsys_fed.trainers.trainer import Layout, PublicFacts, Stage, Tables, Trainer

# Signal of pairs below which a subspace is worth less than better counts; see simulations/quality/worlds.py.
LEAST_SIGNAL, LEAST_SIGNAL_WITH_FEATURES = 420.0, 126.0


def choose_trainer(facts: PublicFacts) -> Trainer:
    """The trainer for these facts: by declared users and interactions, noise, items, and whether there are features.

    Dimensions or rounds that were asked for are those of spectral.
    """
    if facts.embedding_dim or facts.rounds > 1:
        return Spectral()
    least = LEAST_SIGNAL if facts.features is None else LEAST_SIGNAL_WITH_FEATURES
    return Spectral() if facts.signal_of_pairs >= least else PopularItems()


class Auto(Trainer):
    """The trainer; see the module. Its silo half answers every stage that the server half may choose."""

    name: ClassVar[str] = "auto"
    reads: ClassVar[frozenset[Signal]] = Spectral.reads | PopularItems.reads

    def plan(self, facts: PublicFacts) -> tuple[Stage, ...]:
        """The stages of the chosen trainer."""
        return choose_trainer(facts).plan(facts)

    def start(self, facts: PublicFacts, rng: np.random.Generator) -> Any:
        """The start of the chosen trainer."""
        return choose_trainer(facts).start(facts, rng)

    def tables(self, state: Any, stage: Stage) -> Tables:
        """What the chosen trainer needs in the silos."""
        return choose_trainer(state.facts).tables(state, stage)

    def layout(self, facts: PublicFacts, stage: Stage) -> Layout:
        """The shapes of the chosen trainer."""
        return choose_trainer(facts).layout(facts, stage)

    def contribution(
        self, stage: str, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float]
    ) -> torch.Tensor:
        """The silo half of spectral, whose counts are those of popularity too.

        Guarantees: those of `spectral`: user-level, add or remove one user, sensitivity settings["l2_clip_norm"].
        """
        return Spectral().contribution(stage, tables, histories, settings=settings)

    def step(self, state: Any, stage: Stage, total: torch.Tensor, *, noise_std: float, n_silos: int) -> Any:
        """The step of the chosen trainer."""
        return choose_trainer(state.facts).step(state, stage, total, noise_std=noise_std, n_silos=n_silos)

    def item_embeddings(self, state: Any) -> ItemEmbeddings:
        """The model of the chosen trainer."""
        return choose_trainer(state.facts).item_embeddings(state)


GROUP = "recsys_fed.trainers"
TRAINERS: dict[str, Callable[..., Trainer]] = {
    kind.name: kind for kind in (Auto, Spectral, DPSGD, PopularItems, Ratings, TorchTrainer)
}


def configured_trainer(config: FederationConfig) -> Trainer:
    """Return the trainer that a configuration names, with its settings.

    Raises:
        ConfigurationError: there is no such trainer, or it has no such setting.
    """
    if config.trainer == DPSGD.name:
        kind = RatedDPSGD if config.target == "rating" else DPSGD
        return _with_settings(kind, config.trainer, config.dp_sgd)
    return make_trainer(config.trainer, json.loads(config.trainer_settings or "{}"))


def signals_read(config: FederationConfig) -> frozenset[Signal]:
    """Which signals a silo holds for a run: what its trainer, the order and the users' vectors read, and no other."""
    read = set(configured_trainer(config).reads)
    positions, days = half_lives_of(config.recency, name="recency", days=True) or (0.0, 0.0)
    if config.target == "next" or positions or (half_lives_of(config.order, name="order", days=False) or (0.0,))[0]:
        read.add("order")
    if days:
        read.add("time")
    return frozenset(read)


def make_trainer(name: str, settings: Mapping[str, Any] | None = None) -> Trainer:
    """Return the trainer of a name with its own settings, such as schedule="local" for dp-sgd.

    Raises:
        ConfigurationError: there is no such trainer, or it has no such setting.
    """
    checks.one_of((*TRAINERS, *extensions.extension_names(GROUP)) if name not in TRAINERS else TRAINERS, trainer=name)
    kind = TRAINERS.get(name) or extensions.load_extension(GROUP, name)
    if not isinstance(kind, type) or not issubclass(kind, Trainer):
        raise ConfigurationError(f"Expected a class that derives from Trainer for {name!r}, got {kind!r}.")
    return _with_settings(kind, name, settings or {})


def _with_settings(kind: type[Trainer], name: str, settings: Mapping[str, Any]) -> Trainer:
    given = {key.replace("_", "-"): value for key, value in settings.items()}
    if not _fields_of(kind):
        check_keys(given, (), place=f"[{name}]")
        return kind()
    return parse_table(kind, given, place=f"[{name}]")


def _fields_of(kind: type[Trainer]) -> tuple[str, ...]:
    """Names of the fields of a trainer that is a dataclass; () of others."""
    return tuple(getattr(kind, "__dataclass_fields__", {}))


def settings_of(trainer: Trainer) -> dict[str, Value]:
    """The keys of a run that name a trainer object and repeat its settings; what is as by default is left out.

    The class is made known to this process under its name, unless that is one of this library's.

    Raises:
        ConfigurationError: the trainer has no name, the name of another one, or settings that are no plain values.
    """
    kind = type(trainer)
    if not kind.name or (kind.name in BUILT_IN_TRAINERS and TRAINERS[kind.name] is not kind):
        raise ConfigurationError(f"Expected a name of its own for the trainer {kind.__name__}, got {kind.name!r}.")
    if kind.name not in BUILT_IN_TRAINERS:
        extensions.register(GROUP, kind.name, kind)
    default = kind()
    record: dict[str, Value] = {"trainer": kind.name}
    for key in _fields_of(kind):
        value = getattr(trainer, key)
        if value == getattr(default, key):
            continue
        if not isinstance(value, bool | int | float | str):
            raise ConfigurationError(f"Expected {kind.name}.{key} to be a plain value, got {value!r}.")
        record[f"{kind.name}.{key.replace('_', '-')}"] = value
    return record
