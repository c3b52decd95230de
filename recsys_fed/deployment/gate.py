"""What a SuperLink answers to whom: silos reach the Fleet API only, the operator's own machine everything.

Flower serves the API of nodes and the API that starts runs and admits nodes on one port, and authenticates callers
of the first only. Without this gate whoever reaches the port could admit a key of their own, or start an app.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from typing import Any

from recsys_fed.logs import EventLog

FOR_SILOS = ("/v1/fleet/",)
FOR_ALL = ("/health",)
OPERATORS = frozenset({"127.0.0.1", "::1"})

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Gate:
    """ASGI middleware in front of all of Flower's own."""

    def __init__(self, app: App, *, most_bytes: int, log: EventLog, operators: Collection[str] = OPERATORS) -> None:
        self._app, self._most, self._log, self._operators = app, most_bytes, log, operators

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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
        return path in FOR_ALL or path.startswith(FOR_SILOS) or caller in self._operators

    async def _refuse(self, send: Send, status: int, reason: str) -> None:
        self._log.write("request refused", reason=reason)
        headers = [(b"content-type", b"text/plain"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": reason.encode()})


class _Counted:
    """Passes a body on until it is longer than allowed, whatever its length was said to be."""

    def __init__(self, receive: Receive, most: int) -> None:
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
