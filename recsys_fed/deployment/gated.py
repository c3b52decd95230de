"""Flower's SuperLink and SuperNode behind a gate: `python -m recsys_fed.deployment.gated superlink ARGUMENTS`.

The first argument is superlink or supernode, the others are those of Flower's command; `federation serve` and
`silo serve` run this. Settings of the gate come from the environment.

Flower serves the API of nodes and the API that starts runs and admits nodes on one port, and authenticates callers of
the first only; a SuperNode hands its messages to whoever asks on loopback. The gate lets the account that serves, and
no other account of the machine, reach those. It also looks at a silo's signature before the body of its message is
read, which Flower does afterwards.

All private parts of flwr (1.41, 1.42) that the deployment uses are here, but for the ClientApp's;
tests/deployment/test_gate.py says what each must do.
"""

import base64
import binascii
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import uvicorn
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.corestate import in_memory_corestate, sql_corestate
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature
from starlette.responses import FileResponse

from recsys_fed.deployment._keys import read_admission
from recsys_fed.deployment._local_callers import is_own_account
from recsys_fed.deployment.federation import (
    ADMITTED,
    CATALOGUE,
    CATALOGUE_PATH,
    HANDED_OUT,
    LOG,
    MOST_BYTES,
    NOTICE,
    NOTICE_PATH,
    PAUSE,
    FederationFolder,
)
from recsys_fed.errors import RecsysFedError
from recsys_fed.gate import Application, Gate, Receive, Refusal, Scope, Send, header_of
from recsys_fed.logs import EventLog

_DEFAULT_MOST = 256 << 20
# Parts of a message between a SuperNode and its own ClientApp: as large as Flower allows.
_MOST_LOCAL = 2**31 - 1
_FLEET, _OWN, _FOR_ALL = "/v1/fleet/", ("/v1/control/", "/v1/runtime/"), ("/health",)
_CLOSE = {"connection": "close"}
# Seconds between two lines of the log about refusals for one reason.
_SELDOM = 60.0
# Seconds between two notes that a silo was heard of; a SuperNode asks for messages every 3 s.
_HEARD_SECONDS = 10.0
# A training goes on for so many seconds after a SuperNode's last message.
_TRAINING_SECONDS = 60.0
# Seconds that a program has from its start to its first sign of life; Flower's 30 launch it again and again on a
# machine that is busy. The wait for later signs stays 60 s.
_START_SECONDS, _SIGN_SECONDS = 600.0, 60.0


class _LocalGate(Gate):
    """In front of a SuperNode's Runtime API: for processes of its own account."""

    def admit(self, scope: Scope) -> None:
        """Raise Refusal for other accounts, other machines, and other paths."""
        path = str(scope.get("path", ""))
        if not (path.startswith(_OWN) or path in _FOR_ALL):
            raise Refusal(403, "There is nothing here.", _CLOSE)
        _expect_own_account(scope)


class _SuperLinkGate(Gate):
    """In front of a SuperLink: 401, 403 or 413, and a line of the log, for what is refused.

    Args of its making:
        most_bytes: of a message of a silo.
        log: gets at most a line a minute for each reason, with how often it was.
        admitted: folder with a file for each admitted silo; None, of a federation without authentication, lets
            nobody reach the Fleet API but the account that serves.
        public: folder of what is handed out: notice and catalogue, to whoever reaches the Fleet API.
    """

    def __init__(
        self, application: Application, *, most_bytes: int, log: EventLog, admitted: Path | None, public: Path | None
    ) -> None:
        files = {} if public is None else {NOTICE_PATH: public / NOTICE, CATALOGUE_PATH: public / CATALOGUE}
        super().__init__(_with_files(application, files), most_bytes=most_bytes)
        self._keys = _AdmittedKeys(admitted) if admitted is not None else None
        self._log, self._noted, self._since = log, dict[str, float](), dict[str, int]()

    def admit(self, scope: Scope) -> None:
        """Admitted silos reach the fleet's paths, everybody whether the server is alive, its account the others."""
        path = str(scope.get("path", ""))
        if path in _FOR_ALL:
            return
        if path.startswith(_FLEET) and self._keys is not None:
            self._keys.expect_signature(scope)
        elif path.startswith((_FLEET, *_OWN)):
            _expect_own_account(scope)
        else:
            raise Refusal(403, "There is nothing here.", _CLOSE)

    async def refuse(self, refusal: Refusal, send: Send) -> None:
        """Answer, and write down that it was refused."""
        reason, now = refusal.detail, time.monotonic()
        self._since[reason] = self._since.get(reason, 0) + 1
        if now - self._noted.get(reason, -_SELDOM) >= _SELDOM:
            self._log.write("request refused", reason=reason, refused=self._since.pop(reason))
            self._noted[reason] = now
        await super().refuse(refusal, send)


def _with_files(application: Application, files: Mapping[str, Path]) -> Application:
    """The application, and these files at their paths."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        file = files.get(str(scope.get("path", ""))) if scope["type"] == "http" else None
        if file is None or not file.is_file():
            await application(scope, receive, send)
        else:
            await FileResponse(file)(scope, receive, send)

    return answer


def _expect_own_account(scope: Scope) -> None:
    """Raise Refusal unless the caller is a process of this account on this machine."""
    caller, here = scope.get("client"), scope.get("server")
    if not caller or not here or not is_own_account(tuple(caller), tuple(here)):
        raise Refusal(403, "Only the account that serves may ask this, on its own machine.", _CLOSE)


class _AdmittedKeys:
    """The node keys of admitted silos, read anew when their folder changes; notes when each was heard of last."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._keys = folder, dict[bytes, str]()
        self._state: frozenset[tuple[str, int, int]] | None = None
        self._heard = dict[str, float]()

    def expect_signature(self, scope: Scope) -> None:
        """Raise Refusal unless the headers hold a fresh time that an admitted key has signed, as Flower's do.

        The body is not signed: TLS protects it.
        """
        key = _decode(header_of(scope, FLEET_HTTP_PUBLIC_KEY_HEADER.encode()))
        name = self._current().get(key)
        if name is None:
            raise Refusal(401, "This node key is not admitted, or was revoked.", _CLOSE)
        said = header_of(scope, TIMESTAMP_HEADER.encode())
        signature = _decode(header_of(scope, FLEET_HTTP_SIGNATURE_HEADER.encode()))
        if not verify_signature(bytes_to_public_key(key), said.encode(), signature):
            raise Refusal(401, "The signature of the node key does not hold.", _CLOSE)
        if not -SYSTEM_TIME_TOLERANCE < _age(said) < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE:
            raise Refusal(401, "The silo's clock differs too much from the server's.", _CLOSE)
        self._note(name)

    def _note(self, name: str) -> None:
        """Touch the file that tells when a silo was heard of, now and then; monitoring never stops a message."""
        now = time.monotonic()
        if now - self._heard.get(name, -_HEARD_SECONDS) >= _HEARD_SECONDS:
            self._heard[name] = now
            heard = FederationFolder(self._folder.parent).heard
            with suppress(OSError):
                heard.mkdir(parents=True, exist_ok=True)
                (heard / name).touch()

    def _current(self) -> dict[bytes, str]:
        with os.scandir(self._folder) as entries:
            state = frozenset((entry.name, entry.inode(), entry.stat().st_mtime_ns) for entry in entries)
        if state != self._state:
            self._keys = {key: file.name for file in self._folder.glob("*.pub") if (key := _key_in(file))}
            self._state = state
        return self._keys


def _key_in(file: Path) -> bytes:
    """Flower's form of an admitted silo's key; b"" for a file that is none, which admits nobody."""
    try:
        return read_admission(file).node_key_pem()
    except RecsysFedError:
        return b""


def _age(moment: str) -> float:
    """Seconds since then; infinite where it is no moment."""
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
    except (ValueError, TypeError):
        return math.inf


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return b""


def _put_gate(gate: Callable[[Application], Gate], *, before: Callable[[Any], None] = lambda _: None) -> None:
    """Put the gate in front of whatever this process serves over HTTP, and let it listen to nothing else.

    uvicorn is what listens. Whatever a later Flower does instead: a port that is opened while no gate stands ends
    this process.

    Args:
        gate: makes it.
        before: called with Flower's application before anything listens.
    """
    load, standing = uvicorn.Config.load, list[Gate]()

    def load_gated(self: uvicorn.Config) -> None:
        before(self.app)
        # The caller is who is connected, whatever a header says. h11 bounds the headers that it waits for.
        self.proxy_headers, self.http = False, "h11"
        # A line for every request of whoever asks.
        logging.getLogger("uvicorn.access").disabled = True
        load(self)
        self.loaded_app = gate(self.loaded_app)
        standing.append(self.loaded_app)

    def refuse_to_bind(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.bind" and isinstance(arguments[1], tuple) and not standing:
            sys.stderr.write(
                "No gate stands in front of Flower: this version of flwr does not fit. Nothing is served.\n"
            )
            sys.stderr.flush()
            os._exit(1)

    uvicorn.Config.load = load_gated  # type: ignore[method-assign]
    sys.addaudithook(refuse_to_bind)


def _stop_unfinished_runs(application: Any) -> None:
    """A run does not outlive its SuperLink: its ServerApp is gone, and one that waits must not start unasked."""
    state = application.state.linkstate_factory.state()
    for run in state.get_run_info(statuses=["pending", "starting", "running"]):
        state.stop_run(run.run_id)


def _wait_longer_for_programs() -> None:
    """Let a program that Flower launches take its time to start, also on a machine that is busy."""
    for module in (sql_corestate, in_memory_corestate):
        # One is the time to start, their product the time between two signs of life.
        vars(module)["HEARTBEAT_DEFAULT_INTERVAL"] = _START_SECONDS
        vars(module)["HEARTBEAT_PATIENCE"] = _SIGN_SECONDS / _START_SECONDS


def _ask_soon_in_a_training(pause: float) -> None:
    """Let a SuperNode that has just had a message wait so many seconds for the next one, where Flower waits 3.

    A masked release is five messages, one after another. When a silo asks follows from when it was asked, not from
    data.
    """
    from flwr.supernode import start_client_internal  # noqa: PLC0415  (a SuperLink has no use for it)

    take, last = start_client_internal._pull_and_store_message, -math.inf

    def take_and_note(**arguments: Any) -> int | None:
        nonlocal last
        run = take(**arguments)
        last = last if run is None else time.monotonic()
        return run

    def sleep(seconds: float) -> None:
        time.sleep(min(seconds, pause) if time.monotonic() - last < _TRAINING_SECONDS else seconds)

    vars(start_client_internal).update(_pull_and_store_message=take_and_note, time=SimpleNamespace(sleep=sleep))


def main(arguments: list[str]) -> None:
    """Put the gate up and run Flower's own command."""
    which, rest = arguments[0], arguments[1:]
    sys.argv = [f"flower-{which}", *rest]
    # Flower's older APIs are not behind the gate.
    for name in [name for name in os.environ if name.startswith("FLWR_INTERNAL_")]:
        del os.environ[name]
    _wait_longer_for_programs()
    if which == "superlink":
        from flwr.superlink.cli.flower_superlink import flower_superlink as command  # noqa: PLC0415

        admitted = os.environ.get(ADMITTED)
        _put_gate(
            partial(
                _SuperLinkGate,
                most_bytes=int(os.environ.get(MOST_BYTES, _DEFAULT_MOST)),
                log=EventLog(Path(os.environ[LOG]) if os.environ.get(LOG) else None),
                admitted=Path(admitted) if admitted else None,
                public=Path(os.environ[HANDED_OUT]) if os.environ.get(HANDED_OUT) else None,
            ),
            before=_stop_unfinished_runs,
        )
    else:
        from flwr.supernode.cli.flower_supernode import flower_supernode as command  # noqa: PLC0415

        _ask_soon_in_a_training(float(os.environ.get(PAUSE, "inf")))
        _put_gate(partial(_LocalGate, most_bytes=_MOST_LOCAL))
    command()


if __name__ == "__main__":
    main(sys.argv[1:])
