"""The silo's ClientApp, kept warm: `python -m recsys_fed.deployment.warm_clientapp SILO`.

Flower starts a program called flwr-clientapp for every message, unpacks the app that the server's operator has sent,
and runs that. A silo must not run code that others send. So `silo serve` puts a program of that name first on the
SuperNode's PATH, which hands the call to this process; this process forks, and the fork does what Flower's own
program does, but with the ClientApp that is installed here. What the server has sent is never unpacked.

Forking from a process that has imported everything, and has read the silo's data, also saves several seconds a
message. The parent computes with one thread and does not talk to Flower, so that nothing is lost in a fork.
SIGHUP makes it read silo.toml and the data anew.
"""

import json
import os
import signal
import socket
import sys
import traceback
from collections import deque
from contextlib import suppress
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from recsys_fed.errors import EngineError, RecsysFedError

if TYPE_CHECKING:
    from client.deployed import DeployedSilo

# The silo as it was before a reload as well: a fork may still read its blocks from disk.
_opened: "deque[DeployedSilo]" = deque(maxlen=2)
SOCKET = "RECSYS_FED_CLIENTAPP_SOCKET"
_NAME = "flwr-clientapp"
_MOST_BYTES = 1 << 16
# Needs nothing but the standard library, so that it is there and gone in a moment.
_TEXT = f"""#!{{python}} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
    channel.connect(os.environ["{SOCKET}"])
    channel.sendall(json.dumps(sys.argv[1:]).encode() + b"\\n")
    sys.exit(0 if channel.recv(1) == b"+" else 1)
"""


def write_program(folder: Path) -> Path:
    """Write the program that Flower is to find first; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    program = folder / _NAME
    program.write_text(_TEXT.format(python=sys.executable))
    program.chmod(0o700)
    return folder


def main(arguments: list[str]) -> int:
    """Serve one call after another, each in a fork."""
    path = Path(os.environ[SOCKET])
    path.unlink(missing_ok=True)
    reload = _Reload()
    load(Path(arguments[0]))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        path.chmod(0o600)
        server.listen(16)
        while True:
            if reload.take() or _users_left():
                load(Path(arguments[0]))
            server.settimeout(0.5)
            try:
                channel, _ = server.accept()
            except TimeoutError:
                continue
            with channel:
                _serve(channel, server)


def _users_left() -> bool:
    """Whether somebody has opted out since the data was read, or come back; forks that come before see it as well."""
    with suppress(RecsysFedError):
        return bool(_opened) and _opened[-1].outdated
    return False


def load(silo: Path) -> None:
    """Import Flower's program and the apps, and read the silo's data, with one thread: forks inherit all of it."""
    # What each fork would otherwise import for itself: Flower's client, and what accounts for a release.
    import httpcore  # noqa: F401, PLC0415
    import opacus.accountants  # noqa: F401, PLC0415
    import torch  # noqa: PLC0415
    from flwr.supernode.cli import flwr_clientapp  # noqa: F401, PLC0415

    from recsys_fed.simulation.flower_engine import load_apps  # noqa: PLC0415

    torch.set_num_threads(1)
    _keep_pandas_out()
    load_apps()
    from client.deployed import forget_silos, open_deployed_silo  # noqa: PLC0415

    forget_silos()
    try:
        opened = open_deployed_silo(silo)
        _opened.append(opened)
    except RecsysFedError as error:
        # Each message will say so too; the SuperNode stays connected meanwhile.
        sys.stderr.write(f"This silo is not ready: {error}\n")
        return
    try:
        opened.prepare()
    except Exception as error:  # noqa: BLE001  (whatever is wrong with the data, the server must not learn of it)
        sys.stderr.write(
            f"This silo cannot read its data, and will answer for nobody until it can: {error}\n"
            "Its answers are charged nevertheless. See `recsys-fed silo check`.\n"
        )
        return
    try:
        opened.keep_waiting()
    except Exception as error:  # noqa: BLE001  (as above)
        sys.stderr.write(
            f"This silo could not take in the model of its last training, and keeps the one before: {error}\n"
            "It tries again when it is started anew.\n"
        )


def _keep_pandas_out() -> None:
    """Let pyarrow find no pandas when it looks whether to recognise its objects, once in a process.

    That look imports pandas, a tenth of a silo's memory, though no reader of a silo hands it any. A frame that a
    source of somebody's own makes is recognised nevertheless, as `Dataset.from_frame` imports pandas itself.
    """
    import pyarrow as pa  # noqa: PLC0415

    if "pandas" not in sys.modules:
        sys.meta_path.insert(0, _NoPandas())
        try:
            pa.array(())
        finally:
            del sys.meta_path[0]


class _NoPandas(MetaPathFinder):
    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        """No pandas; of anything else nothing is known."""
        if fullname == "pandas":
            raise ModuleNotFoundError(fullname)


def _run_installed_app(arguments: list[str]) -> None:
    """Flower's flwr-clientapp, with the installed ClientApp instead of the one that was sent."""
    from flwr.supernode.cli.flwr_clientapp import flwr_clientapp  # noqa: PLC0415
    from flwr.supernode.runtime import run_clientapp as flower  # noqa: PLC0415

    from recsys_fed.simulation.flower_engine import app_folder, load_apps  # noqa: PLC0415

    replaced = {
        "install_from_fab": lambda *_, **__: None,
        "get_project_dir": lambda *_, **__: app_folder(),
        "get_load_client_app_fn": lambda **_: lambda *__: load_apps()[1],
    }
    for name, function in replaced.items():
        if not hasattr(flower, name):
            raise EngineError(f"Expected {name} in flwr's run_clientapp, this version of flwr has none.")
        setattr(flower, name, function)
    sys.argv = [_NAME, *arguments]
    flwr_clientapp()


def _serve(channel: socket.socket, server: socket.socket) -> None:
    """Fork for one call."""
    channel.settimeout(5.0)
    try:
        line = channel.makefile("rb").readline(_MOST_BYTES)
        call = json.loads(line)
        if not isinstance(call, list) or not all(isinstance(word, str) for word in call):
            raise ValueError("not a list of words")
    except (OSError, ValueError):
        return
    if os.fork():
        channel.sendall(b"+")
        return
    code = 1
    try:
        server.close()
        channel.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        _run_installed_app(call)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:  # noqa: BLE001  (a fork must never return into the loop)
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


class _Reload:
    """Remembers SIGHUP until the loop has time for it."""

    def __init__(self) -> None:
        self._wanted = False
        signal.signal(signal.SIGHUP, self._set)

    def _set(self, _number: int, _frame: FrameType | None) -> None:
        self._wanted = True

    def take(self) -> bool:
        """Whether SIGHUP came since the last look."""
        wanted, self._wanted = self._wanted, False
        return wanted


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
