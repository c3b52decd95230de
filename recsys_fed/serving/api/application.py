"""The application: routes behind the gate, and errors that say what was expected and nothing of the inside.

The gate before all routes: token, rate, size, headers, counts. Plain ASGI, so that it costs microseconds.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from recsys_fed.errors import ConfigurationError, DataError, DataFormatError
from recsys_fed.serving.api.routes import as_json, health, operating, pages, recommending, reporting
from recsys_fed.serving.paths import TokenFile
from recsys_fed.serving.reload import ModelReloader
from recsys_fed.serving.service import RecommendationService
from recsys_fed.serving.settings import ApiSettings
from recsys_fed.versions import versions

_Scope = MutableMapping[str, Any]
_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_Application = Callable[[_Scope, _Receive, _Send], Awaitable[None]]

# Paths that need no token: whether the service is alive, and pages that hold no data.
_OPEN = frozenset({"/", "/docs", "/openapi.json", "/health", "/ready"})
_SECURITY = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]


class _RateLimit:
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


class _Gate:
    """Wraps the application."""

    def __init__(
        self, application: _Application, service: RecommendationService, tokens: TokenFile, settings: ApiSettings
    ) -> None:
        self._application, self._service, self._tokens = application, service, tokens
        self._most = settings.max_body_bytes
        self._limit = _RateLimit(rate=settings.requests_per_second, burst=settings.burst)

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def counted(message: _Message) -> None:
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

    def _admit(self, scope: _Scope) -> tuple[str, ...]:
        """The scopes of the request's token; refuses a request without a token that is known."""
        if scope["path"] in _OPEN:
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

    def _bounded(self, scope: _Scope, receive: _Receive) -> _Receive:
        """The body, refused when it grows beyond the limit, whatever its header said."""
        said = _header(scope, b"content-length")
        if said and (not said.isascii() or not said.isdigit() or int(said[:20]) > self._most):
            raise _Refusal(413, f"Expected a body of at most {self._most} bytes.")
        size = 0

        async def counted() -> _Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._most:
                raise _Refusal(413, f"Expected a body of at most {self._most} bytes.")
            return message

        return counted


def _header(scope: _Scope, name: bytes) -> str:
    found: list[bytes] = [value for key, value in scope["headers"] if key == name]
    return found[0].decode("latin-1") if len(found) == 1 else ""


async def _refuse(refusal: _Refusal, send: _Send) -> None:
    body = json.dumps({"detail": refusal.detail}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **(refusal.headers or {})}
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status_code, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


_log = logging.getLogger("recsys_fed.serving")
_DESCRIPTION = """Recommendations of this silo. Nothing leaves it: items come from the released item embeddings, and
what a
user gets depends on that user's own events. Every answer says its model version and privacy mode in its header."""


def application(service: RecommendationService, tokens: TokenFile, take_over: ModelReloader) -> _Gate:
    """The ASGI application of a service; it closes the service when it ends."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        seconds = service.settings.api.watch_seconds
        watching = asyncio.create_task(take_over.watch(seconds=seconds)) if seconds else None
        yield
        if watching is not None:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
        service.close()

    app = FastAPI(
        title="recsys-fed silo",
        description=_DESCRIPTION,
        version=versions()["recsys-fed"],
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service, app.state.take_over = service, take_over
    for router in (recommending, reporting, operating, health, pages):
        app.include_router(router)
    app.exception_handler(RequestValidationError)(_invalid)
    app.exception_handler(ConfigurationError)(_conflict)
    app.exception_handler(DataFormatError)(_refused_model)
    app.exception_handler(DataError)(_unavailable)
    app.exception_handler(Exception)(_failed)
    return _Gate(app, service, tokens, service.settings.api)


async def _invalid(_: Request, error: Exception) -> Response:
    """What was wrong, and where; the input itself is not repeated."""
    found: list[dict[str, Any]] = list(error.errors()) if isinstance(error, RequestValidationError) else []
    lines = [f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in found[:5]]
    return as_json({"detail": "; ".join(lines) or "Expected another request."}, status=422)


async def _conflict(_: Request, error: Exception) -> Response:
    return as_json({"detail": str(error)}, status=409)


async def _refused_model(_: Request, error: Exception) -> Response:
    """The reason names files; it is in the log."""
    _log.error("model refused: %s", error)
    return as_json({"detail": "The model was refused, nothing changed. The service's log says why."}, status=409)


async def _unavailable(_: Request, error: Exception) -> Response:
    _log.error("store: %s", type(error).__name__)
    return as_json({"detail": "The store cannot be written or read now. Nothing was acknowledged."}, status=503)


async def _failed(_: Request, error: Exception) -> Response:
    """Without the reason, which may hold paths or values; the log has the kind of error."""
    _log.error("failed: %s", type(error).__name__)
    return as_json({"detail": "The service failed on this request."}, status=500)
