"""What others bring: trainers, PyTorch modules, losses, metrics and sources of data, as objects or by entry points.

A package names what it brings in its pyproject.toml:

    [project.entry-points."recsys_fed.trainers"]
    my-trainer = "my_package:MyTrainer"

    [project.entry-points."recsys_fed.metrics"]
    my_metric = "my_package:MY_METRIC"

    [project.entry-points."recsys_fed.sources"]
    my-format = "my_package:MY_FORMAT"

    [project.entry-points."recsys_fed.modules"]
    my-net = "my_package:MyNet"

    [project.entry-points."recsys_fed.losses"]
    my-loss = "my_package:my_loss"

Nothing of a package is imported before somebody asks for its name.
"""

from functools import cache
from importlib.metadata import EntryPoint, entry_points

from recsys_fed.errors import ConfigurationError

GROUPS = (
    "recsys_fed.trainers",
    "recsys_fed.metrics",
    "recsys_fed.sources",
    "recsys_fed.modules",
    "recsys_fed.losses",
)
_registered: dict[str, dict[str, object]] = {group: {} for group in GROUPS}


def register(group: str, name: str, extension: object) -> None:
    """Make an object known to this process under a name; a later one takes the place of an earlier one."""
    _registered[group][name] = extension


def extension_names(group: str) -> tuple[str, ...]:
    """Names of what this process knows and of what is installed, in the order of the alphabet."""
    return tuple(sorted({*_registered[group], *(point.name for point in _entry_points(group))}))


def load_extension(group: str, name: str) -> object:
    """What stands under a name.

    Raises:
        ConfigurationError: nothing does, or its package cannot be imported.
    """
    if name in _registered[group]:
        return _registered[group][name]
    point = next((point for point in _entry_points(group) if point.name == name), None)
    if point is None:
        raise ConfigurationError(
            f"There is no entry point {name!r} among {group}. Install the package that brings it."
        )
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"Expected {point.value} to be there for {name!r}: {error}.") from error


@cache
def _entry_points(group: str) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))
