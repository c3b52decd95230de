"""Versions of what a result or a release depends on."""

import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version

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
