"""The gate in front of an ASGI application: who may ask what, and bodies of a bounded size. It costs microseconds."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class Refusal(HTTPException):
    """An answer of the gate; the application understands it too, where a body turns out too long while it is read."""


class Gate:
    """ASGI middleware. What is derived from it says by `admit` whom it lets in."""

    def __init__(self, application: Application, *, most_bytes: int) -> None:
        self._application, self._most = application, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on, or answer it."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        try:
            self.admit(scope)
            await self._application(scope, self._read_bounded(scope, receive), send)
        except Refusal as refusal:
            await self.refuse(refusal, send)

    def admit(self, scope: Scope) -> None:
        """Raise Refusal for a request that is not to go on."""
        raise NotImplementedError

    async def refuse(self, refusal: Refusal, send: Send) -> None:
        """Answer with the status and the reason as JSON."""
        body = json.dumps({"detail": refusal.detail}).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **(refusal.headers or {})}
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": refusal.status_code, "headers": encoded})
        await send({"type": "http.response.body", "body": body})

    def _read_bounded(self, scope: Scope, receive: Receive) -> Receive:
        """The body, refused when it grows beyond the limit, whatever its header said."""
        too_long = Refusal(413, f"Expected a body of at most {self._most} bytes.", {"connection": "close"})
        said = header_of(scope, b"content-length")
        if said and (not said.isascii() or not said.isdigit() or int(said[:20]) > self._most):
            raise too_long
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._most:
                raise too_long
            return message

        return counted


def header_of(scope: Scope, name: bytes) -> str:
    """A header that is there once; "" otherwise."""
    found: list[bytes] = [value for key, value in scope["headers"] if key == name]
    return found[0].decode("latin-1") if len(found) == 1 else ""
