"""Empty pictures and files of them, by matplotlib where it is installed (`recsys-fed[plots]`)."""

from pathlib import Path
from typing import TYPE_CHECKING

from recsys_fed.errors import ConfigurationError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_picture(width: float, height: float) -> "Figure":
    """A figure of so many inches, at 150 dots an inch.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  (optional, and slow to import)
    except ImportError as error:
        raise ConfigurationError(
            'Expected matplotlib for a picture: pip install "recsys-fed[plots]". Without --plot there is a table.'
        ) from error
    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def write_picture(figure: "Figure", path: Path, *, kind: str | None = "png") -> None:
    """Write a figure, as a PNG or, without a kind, as what the path's ending says.

    Raises:
        ConfigurationError: it cannot be written.
    """
    try:
        figure.savefig(path, format=kind)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"Expected to write a picture to {path}: {error}.") from error
