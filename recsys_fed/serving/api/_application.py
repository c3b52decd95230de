"""The application: routes behind the gate, and errors that say what was expected and nothing of the inside."""

import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.responses import Response

from recsys_fed.errors import ConfigurationError, DataError, DataFormatError
from recsys_fed.gate import Application, Gate, Message, Receive, Refusal, Scope, Send, header_of
from recsys_fed.serving._background import BackgroundWork
from recsys_fed.serving._service import RecommendationService
from recsys_fed.serving.api import _schemas
from recsys_fed.serving.api._routes import as_json, health, operating, pages, recommending, reporting
from recsys_fed.serving.paths import TokenFile
from recsys_fed.serving.reload import ModelReloader
from recsys_fed.serving.settings import ApiSettings
from recsys_fed.versions import versions

_log = logging.getLogger("recsys_fed.serving")
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

    def wait(self, holder: str, *, now: float, cost: float = 1.0) -> float:
        """Take so many, at most a whole bucket; 0 if they were there, else the seconds until they are."""
        cost = min(cost, self._burst)
        left, then = self._left.get(holder, (self._burst, now))
        left = min(self._burst, left + (now - then) * self._rate)
        if left < cost:
            self._left[holder] = (left, now)
            return (cost - left) / self._rate
        self._left[holder] = (left - cost, now)
        return 0.0


class _ServiceGate(Gate):
    """Token, rate, size, headers, counts."""

    def __init__(
        self, application: Application, service: RecommendationService, tokens: TokenFile, settings: ApiSettings
    ) -> None:
        super().__init__(application, most_bytes=settings.max_body_bytes)
        self._service, self._tokens = service, tokens
        self._limit = _RateLimit(rate=settings.requests_per_second, burst=settings.burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on; count it."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
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
            await super().__call__(scope, receive, counted)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            seconds = time.perf_counter() - started
            self._service.telemetry.request(route, status, seconds=seconds, now=time.time())

    def admit(self, scope: Scope) -> None:
        """Note the token's name and scopes, and how a route charges for more; refuse a token that is not known."""
        scope["token_scopes"], scope["token_name"] = (), ""
        if scope["path"] in _OPEN:
            return
        scheme, _, token = header_of(scope, b"authorization").partition(" ")
        try:
            holder = self._tokens.holder(token.strip()) if scheme.lower() == "bearer" else None
        except DataFormatError as error:
            _log.error("tokens: %s", error)
            raise Refusal(503, "The tokens cannot be read: nobody is admitted.", {"retry-after": "10"}) from error
        if holder is None:
            raise Refusal(401, "Expected a bearer token of this service.", {"www-authenticate": "Bearer"})

        def charge(cost: float) -> None:
            seconds = self._limit.wait(holder.name, now=time.monotonic(), cost=cost)
            if seconds:
                retry = {"retry-after": str(int(seconds) + 1)}
                raise Refusal(429, "Expected fewer requests a second. Try again later.", retry)

        charge(1.0)
        scope["token_scopes"], scope["token_name"], scope["charge"] = holder.scopes, holder.name, charge


_ERASE_SECONDS, _NOTED_SECONDS = 5.0, 1.0
_FIELDS = frozenset({"body", "query", "header", "path"}).union(
    *(kind.model_fields for kind in vars(_schemas).values() if isinstance(kind, type) and issubclass(kind, BaseModel))
)
_DESCRIPTION = """Recommendations of this silo. Nothing leaves it: items come from the released item embeddings, and
what a
user gets depends on that user's own events. Every answer says its model version and privacy mode in its header."""


def application(service: RecommendationService, tokens: TokenFile, take_over: ModelReloader) -> Gate:
    """The ASGI application of a service; it closes the service when it ends."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # Of this event loop.
        work = service.background = BackgroundWork()
        if seconds := service.settings.api.watch_seconds:
            work.start("model watcher", take_over.look, every=seconds)
        work.start("opt-outs", service.take_noted, every=_NOTED_SECONDS)
        work.start("erasure", service.forgetting.erase_pending, every=_ERASE_SECONDS)
        yield
        await work.stop()
        service.close()

    app = FastAPI(
        title="recsys-fed silo",
        description=_DESCRIPTION,
        version=versions()["recsys-fed"],
        docs_url=None,
        redoc_url=None,
        # A redirect would go where the request's own Host header points.
        redirect_slashes=False,
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
    return _ServiceGate(app, service, tokens, service.settings.api)


async def _invalid(_: Request, error: Exception) -> Response:
    """What was wrong, and where; the input itself is not repeated."""
    found: list[dict[str, Any]] = list(error.errors()) if isinstance(error, RequestValidationError) else []
    lines = [f"{_place(one['loc'])}: {one['msg']}" for one in found[:5]]
    return as_json({"detail": "; ".join(lines) or "Expected another request."}, status=422)


def _place(parts: Sequence[object]) -> str:
    """Where something is wrong: by names that the service itself has, and numbers."""
    return ".".join(str(part) if isinstance(part, int) or part in _FIELDS else "?" for part in parts)


async def _conflict(_: Request, error: Exception) -> Response:
    return as_json({"detail": str(error)}, status=409)


async def _refused_model(_: Request, error: Exception) -> Response:
    """The reason names files; it is in the log."""
    _log.error("model refused: %s", error)
    return as_json({"detail": "The model was refused, nothing changed. The service's log says why."}, status=409)


async def _unavailable(_: Request, error: Exception) -> Response:
    _log.error("store: %s", type(error).__name__)
    answer = as_json({"detail": "The store cannot be written or read now. Nothing was acknowledged."}, status=503)
    answer.headers["retry-after"] = "1"
    return answer


async def _failed(_: Request, error: Exception) -> Response:
    """Without the reason, which may hold paths or values; the log has the kind of error."""
    _log.error("failed: %s", type(error).__name__)
    return as_json({"detail": "The service failed on this request."}, status=500)
