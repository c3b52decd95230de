"""The Flower app folder: the checkout itself, or the copy of both apps that an installed wheel carries."""

import importlib
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

from recsys_fed.errors import EngineError

_PACKAGE = Path(__file__).resolve().parents[1]


def app_folder() -> Path:
    """The folder with pyproject.toml, server/ and client/: what `flwr run` takes.

    Raises:
        EngineError: the installation is damaged.
    """
    for folder in (_PACKAGE.parent, _PACKAGE / "flower-app"):
        if (folder / "server" / "app.py").is_file() and (folder / "pyproject.toml").is_file():
            return folder
    raise EngineError(f"Expected the Flower apps beside or in {_PACKAGE}, found none. Install the package again.")


def load_apps() -> tuple[Any, Any]:
    """The ServerApp and the ClientApp that pyproject.toml names, as Flower itself would load them.

    Raises:
        EngineError: another module called `server` or `client` is already imported.
    """
    folder = app_folder()
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    components = project["tool"]["flwr"]["app"]["components"]
    sys.path.insert(0, str(folder))
    try:
        return _load(components["serverapp"], folder), _load(components["clientapp"], folder)
    finally:
        sys.path.remove(str(folder))


def scenario_path(name: str) -> Path:
    """The file of a scenario given as a path or as a name in simulations/scenarios."""
    path = Path(name).expanduser()
    named = app_folder() / "simulations" / "scenarios" / f"{name}.toml"
    return named if not path.exists() and named.is_file() else path


def _load(reference: str, folder: Path) -> Any:
    module_name, _, attribute = reference.partition(":")
    module: ModuleType = importlib.import_module(module_name)
    if not str(module.__file__).startswith(str(folder)):
        raise EngineError(f"Expected {module_name} from {folder}, got {module.__file__}: the name is taken.")
    return getattr(module, attribute)
