"""Trainers by name. Adding one is one file and one line here."""

from collections.abc import Callable, Mapping
from typing import Any

from recsys_fed.config import FederationConfig
from recsys_fed.errors import ConfigurationError
from recsys_fed.trainers.auto import Auto
from recsys_fed.trainers.base import Trainer
from recsys_fed.trainers.dp_sgd import DPSGD
from recsys_fed.trainers.popular_items import PopularItems
from recsys_fed.trainers.spectral import Spectral

TRAINERS: dict[str, Callable[..., Trainer]] = {
    "auto": Auto,
    "spectral": Spectral,
    "dp-sgd": DPSGD,
    "popularity": PopularItems,
}


def configured_trainer(config: FederationConfig) -> Trainer:
    """Return the trainer that a configuration names, with its settings."""
    return make_trainer(config.trainer, config.dp_sgd if config.trainer == "dp-sgd" else None)


def make_trainer(name: str, settings: Mapping[str, Any] | None = None) -> Trainer:
    """Return the trainer of a name with its own settings, such as schedule="local" for dp-sgd.

    Raises:
        ConfigurationError: there is no such trainer, or it has no such setting.
    """
    if name not in TRAINERS:
        raise ConfigurationError(f"Expected trainer to be one of {', '.join(TRAINERS)}, got {name!r}.")
    try:
        return TRAINERS[name](**(settings or {}))
    except TypeError as error:
        raise ConfigurationError(f"Expected settings that {name} has: {error}.") from error
