"""The library `implicit`, imported where it is used: it comes with the extra `baselines` only."""

import warnings
from importlib import import_module
from types import ModuleType

from recsys_fed.errors import ConfigurationError


def implicit_module(name: str) -> ModuleType:
    """A module of `implicit`, such as "als".

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            # It recommends environment variables for its threads when it is imported.
            warnings.simplefilter("ignore")
            return import_module(f"implicit.{name}")
    except ImportError as error:
        raise ConfigurationError(
            "Expected the library implicit for this baseline, it is not installed. "
            'Run pip install "recsys-fed[baselines]".'
        ) from error
