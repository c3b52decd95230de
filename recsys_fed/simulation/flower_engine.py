"""Flower's own simulation engine: a SuperLink on loopback, `flwr run` on the app folder, Ray underneath.

The plain commands are

    flower-superlink --insecure --simulation --host 127.0.0.1 --port PORT --disable-runtime-dependency-installation
    flwr run APP simulation --run-config run.toml --federation-config 'num-supernodes=N' --stream
"""

import importlib
import re
import shutil
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from recsys_fed.errors import ConfigurationError, EngineError
from recsys_fed.flower import Process, environment, free_port, gate_command, healthy, running, tool, wait_until
from recsys_fed.settings_file import Value, flatten, to_toml

_PACKAGE = Path(__file__).resolve().parents[1]


def app_folder() -> Path:
    """The folder with pyproject.toml, server/ and client/: what `flwr run` takes.

    Raises:
        EngineError: the installation is damaged.
    """
    for folder in (_PACKAGE.parent, _PACKAGE / "flower-app"):
        if (folder / "server" / "app.py").is_file() and (folder / "pyproject.toml").is_file():
            return folder
    raise EngineError(f"There are no Flower apps beside or in {_PACKAGE}. Install the package again.")


# Beside the apps, which are copied as they are: what a bundle says of itself.
_PYPROJECT = """\
# A Flower app of recsys-fed: two thin apps; the library is what each node has installed itself.
#   flwr run . NAME --stream      NAME is a SuperLink of Flower's configuration
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "1.0.0"
description = "Federated, differentially private recommendation"
license = "Apache-2.0"
# Nodes with another version are refused.
dependencies = ["recsys-fed[train]=={version}"]

[tool.hatch.build.targets.wheel]
packages = ["server", "client"]

[tool.flwr.app]
publisher = "{name}"
fab-include = ["server/**/*.py", "client/**/*.py"]

[tool.flwr.app.components]
serverapp = "{serverapp}"
clientapp = "{clientapp}"

# Every key that --run-config can change. `data` is what simulated nodes share out among them; each of them is started
# with --node-config "partition-id=0 num-partitions=2". `output` is a folder of the server's, by its absolute path.
[tool.flwr.app.config]
{config}"""
# For a first run; everything else has the defaults of the library.
_FIRST_RUN = {"data": "generated", "threads": 1}


def write_app(folder: Path) -> None:
    """Write a Flower app folder of one's own: the two apps, and a pyproject.toml that names this library.

    Raises:
        ConfigurationError: the folder is there and not empty, or its name is none that Flower takes for an app.
        EngineError: the installation is damaged.
    """
    if not re.fullmatch(r"[a-z][a-z0-9-]*", folder.name):
        raise ConfigurationError(
            f"Expected a folder named by small letters, digits and hyphens, which is the app's name: {folder.name!r}."
        )
    if folder.exists() and any(folder.iterdir()):
        raise ConfigurationError(f"Expected a new or an empty folder, {folder} has files.")
    own = app_folder()
    project = tomllib.loads((own / "pyproject.toml").read_text(encoding="utf-8"))
    for part in ("server", "client"):
        shutil.copytree(own / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    config: dict[str, Any] = flatten(project["tool"]["flwr"]["app"]["config"]) | _FIRST_RUN
    text = _PYPROJECT.format(
        name=folder.name, version=project["project"]["version"], config=to_toml(config), **_components_of(own)
    )
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")


def load_apps() -> tuple[Any, Any]:
    """The ServerApp and the ClientApp that pyproject.toml names, as Flower itself would load them.

    Raises:
        EngineError: another module called `server` or `client` is already imported.
    """
    folder = app_folder()
    components = _components_of(folder)
    sys.path.insert(0, str(folder))
    try:
        return _load(components["serverapp"], folder), _load(components["clientapp"], folder)
    finally:
        sys.path.remove(str(folder))


@cache
def _components_of(folder: Path) -> Mapping[str, str]:
    """What an app folder's pyproject.toml names; an audit asks for it with every message."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    components: Mapping[str, str] = project["tool"]["flwr"]["app"]["components"]
    return components


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


START_TIMEOUT = 60.0
_POLL = 0.2
_NAME = "simulation"


def run_with_flower(
    app: Path,
    *,
    run_config: Mapping[str, Value],
    n_silos: int,
    folder: Path,
    done: Path,
    timeout: float,
    on_poll: Callable[[], None],
) -> None:
    """Run the apps of `app` with `n_silos` simulated SuperNodes.

    Args:
        app: Flower app folder.
        run_config: flat keys of the run.
        n_silos: number of SuperNodes.
        folder: for Flower's own state and logs of this run.
        done: the file that the ServerApp writes last.
        timeout: seconds for the whole run.
        on_poll: called several times a second while the run goes on.

    Raises:
        EngineError: Flower or Ray is not installed, or the run failed; the end of the log is in the message.
    """
    _require("flower-superlink", "flwr")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.toml").write_text(to_toml(run_config), encoding="utf-8")
    port = free_port()
    (folder / "config.toml").write_text(
        f'[superlink]\ndefault = "{_NAME}"\n\n[superlink.{_NAME}]\naddress = "127.0.0.1:{port}"\ninsecure = true\n',
        encoding="utf-8",
    )
    with _superlink(folder, port):
        log = folder / "run.log"
        command = [tool("flwr"), "run", str(app), _NAME, "--run-config", str(folder / "run.toml"), "--stream"]
        command += ["--federation-config", f"num-supernodes={n_silos} client-resources-num-cpus=1"]
        with log.open("wb") as output, running(command, environment=_environment(folder), output=output) as process:
            _wait(process, timeout=timeout, on_poll=on_poll)
        if not done.is_file():
            raise EngineError(f"Flower did not finish the run. The end of its log:\n{_tail(log)}")


@contextmanager
def _superlink(folder: Path, port: int) -> Iterator[None]:
    command = [tool("flower-superlink"), "--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--disable-runtime-dependency-installation"]
    log, there = folder / "superlink.log", partial(healthy, "127.0.0.1", port, authority=None, timeout=1.0)
    around = _environment(folder)
    with log.open("wb") as output, running(gate_command(command), environment=around, output=output) as process:
        try:
            wait_until(there, process, seconds=START_TIMEOUT, what=f"a SuperLink on port {port}")
        except EngineError as error:
            raise EngineError(f"{error} The end of its log:\n{_tail(log)}") from error
        yield


def _wait(process: Process, *, timeout: float, on_poll: Callable[[], None]) -> None:
    deadline = time.monotonic() + timeout
    while process.poll() is None:
        if time.monotonic() > deadline:
            raise EngineError(f"The run did not end within {timeout:.0f} s.")
        on_poll()
        time.sleep(_POLL)


def _environment(folder: Path) -> dict[str, str]:
    return {**environment(folder), "RAY_USAGE_STATS_ENABLED": "0"}


def _require(*tools: str) -> None:
    try:
        import ray  # noqa: F401, PLC0415  (optional, and slow to import)
    except ImportError as error:
        raise EngineError('Expected Ray for Flower\'s engine: pip install "recsys-fed[flower]".') from error
    for name in tools:
        tool(name)


def _tail(log: Path, lines: int = 25) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.is_file() else "(no log)"
