"""The gate before all routes: token, rate, size, headers, counts. Plain ASGI, so that it costs microseconds."""

import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException

from recsys_fed.serving.service import RecommendationService
from recsys_fed.serving.settings import ApiSettings
from recsys_fed.serving.tokens import TokenFile

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# Paths that need no token: whether the service is alive, and pages that hold no data.
OPEN = frozenset({"/", "/docs", "/openapi.json", "/health", "/ready"})
_SECURITY = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]


class RateLimit:
    """A token bucket for every holder: `burst` at once, refilled at `rate` a second."""

    def __init__(self, *, rate: float, burst: int) -> None:
        self._rate, self._burst = rate, float(burst)
        self._left: dict[str, tuple[float, float]] = {}

    def wait(self, holder: str, *, now: float) -> float:
        """Take one; 0 if there was one, else the seconds until there is."""
        left, then = self._left.get(holder, (self._burst, now))
        left = min(self._burst, left + (now - then) * self._rate)
        if left < 1.0:
            self._left[holder] = (left, now)
            return (1.0 - left) / self._rate
        self._left[holder] = (left - 1.0, now)
        return 0.0


class _Refusal(HTTPException):
    """Also understood by the application, where a body turns out too long while it is read."""


class Gate:
    """Wraps the application."""

    def __init__(
        self, application: Application, service: RecommendationService, tokens: TokenFile, settings: ApiSettings
    ) -> None:
        self._application, self._service, self._tokens = application, service, tokens
        self._most = settings.max_body_bytes
        self._limit = RateLimit(rate=settings.requests_per_second, burst=settings.burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                mode = (b"x-privacy-mode", self._service.mode.encode())
                version = (b"x-model-version", self._service.versions.current.name.encode())
                there = {name for name, _ in message["headers"]}
                extra = [pair for pair in (*_SECURITY, mode, version) if pair[0] not in there]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        try:
            scope["token_scopes"] = self._admit(scope)
            await self._application(scope, self._bounded(scope, receive), counted)
        except _Refusal as refusal:
            await _refuse(refusal, counted)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            seconds = time.perf_counter() - started
            self._service.telemetry.request(route, status, seconds=seconds, now=time.time())

    def _admit(self, scope: Scope) -> tuple[str, ...]:
        """The scopes of the request's token; refuses a request without a token that is known."""
        if scope["path"] in OPEN:
            return ()
        scheme, _, token = _header(scope, b"authorization").partition(" ")
        holder = self._tokens.holder(token.strip()) if scheme.lower() == "bearer" else None
        if holder is None:
            raise _Refusal(401, "Expected a bearer token of this service.", {"www-authenticate": "Bearer"})
        seconds = self._limit.wait(holder.name, now=time.monotonic())
        if seconds:
            retry = {"retry-after": str(int(seconds) + 1)}
            raise _Refusal(429, "Expected fewer requests a second. Try again later.", retry)
        return holder.scopes

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """The body, refused when it grows beyond the limit, whatever its header said."""
        said = _header(scope, b"content-length")
        if said and (not said.isascii() or not said.isdigit() or int(said[:20]) > self._most):
            raise _Refusal(413, f"Expected a body of at most {self._most} bytes.")
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._most:
                raise _Refusal(413, f"Expected a body of at most {self._most} bytes.")
            return message

        return counted


def _header(scope: Scope, name: bytes) -> str:
    found: list[bytes] = [value for key, value in scope["headers"] if key == name]
    return found[0].decode("latin-1") if len(found) == 1 else ""


async def _refuse(refusal: _Refusal, send: Send) -> None:
    body = json.dumps({"detail": refusal.detail}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **(refusal.headers or {})}
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status_code, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
