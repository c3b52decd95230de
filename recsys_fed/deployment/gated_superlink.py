"""flower-superlink with the gate in front of it: `python -m recsys_fed.deployment.gated_superlink ARGUMENTS`.

The arguments are those of flower-superlink; `federation serve` runs this. Two settings come from the environment.

What a SuperLink answers to whom: silos reach the Fleet API only, the operator's own machine everything.

Flower serves the API of nodes and the API that starts runs and admits nodes on one port, and authenticates callers
of the first only. Without this gate whoever reaches the port could admit a key of their own, or start an app.
"""

import os
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from flwr.superlink import extensions
from flwr.superlink.cli.flower_superlink import flower_superlink
from starlette.middleware import Middleware

from recsys_fed.logs import EventLog

_FOR_SILOS = ("/v1/fleet/",)
_FOR_ALL = ("/health",)
_OPERATORS = frozenset({"127.0.0.1", "::1"})

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_App = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


class Gate:
    """ASGI middleware in front of all of Flower's own."""

    def __init__(self, app: _App, *, most_bytes: int, log: EventLog, operators: Collection[str] = _OPERATORS) -> None:
        self._app, self._most, self._log, self._operators = app, most_bytes, log, operators

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Pass a request on, or answer it with 403 or 413 and count it in the log."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, caller = str(scope.get("path", "")), (scope.get("client") or ("",))[0]
        if not self._allowed(path, caller):
            await self._refuse(send, 403, "only the operator's own machine may ask this")
        elif _declared_length(scope) > self._most:
            await self._refuse(send, 413, "the message is too large")
        else:
            await self._app(scope, _Counted(receive, self._most), send)

    def _allowed(self, path: str, caller: str) -> bool:
        return path in _FOR_ALL or path.startswith(_FOR_SILOS) or caller in self._operators

    async def _refuse(self, send: _Send, status: int, reason: str) -> None:
        self._log.write("request refused", reason=reason)
        headers = [(b"content-type", b"text/plain"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": reason.encode()})


class _Counted:
    """Passes a body on until it is longer than allowed, whatever its length was said to be."""

    def __init__(self, receive: _Receive, most: int) -> None:
        self._receive, self._left = receive, most

    async def __call__(self) -> MutableMapping[str, Any]:
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        return {"type": "http.disconnect"} if self._left < 0 else message


def _declared_length(scope: Mapping[str, Any]) -> int:
    for name, value in scope.get("headers", ()):
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0


MOST_BYTES, LOG = "RECSYS_FED_MOST_MESSAGE_BYTES", "RECSYS_FED_SERVER_LOG"
_DEFAULT_MOST = 256 << 20


def main() -> None:
    """Put the gate outermost and run Flower's own command."""
    log = EventLog(Path(os.environ[LOG]) if os.environ.get(LOG) else None)
    gate = Middleware(Gate, most_bytes=int(os.environ.get(MOST_BYTES, _DEFAULT_MOST)), log=log)
    own = extensions.get_middleware
    extensions.get_middleware = lambda: (gate, *own())
    flower_superlink()


if __name__ == "__main__":
    main()
