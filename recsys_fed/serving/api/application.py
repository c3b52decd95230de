"""The application: routes behind the gate, and errors that say what was expected and nothing of the inside."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.responses import Response

from recsys_fed.errors import ConfigurationError, DataError, DataFormatError
from recsys_fed.serving.api import operating, recommending, reporting
from recsys_fed.serving.api.answers import as_json
from recsys_fed.serving.api.gate import Gate
from recsys_fed.serving.service import RecommendationService
from recsys_fed.serving.takeover import TakeOver
from recsys_fed.serving.tokens import TokenFile
from recsys_fed.versions import versions

_log = logging.getLogger("recsys_fed.serving")
_DESCRIPTION = """Recommendations of this silo. Nothing leaves it: items come from the released item embeddings, and
what a
user gets depends on that user's own events. Every answer says its model version and privacy mode in its header."""


def application(service: RecommendationService, tokens: TokenFile, take_over: TakeOver) -> Gate:
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
    for router in (recommending.router, reporting.router, operating.router, operating.health, operating.pages):
        app.include_router(router)
    app.exception_handler(RequestValidationError)(_invalid)
    app.exception_handler(ConfigurationError)(_conflict)
    app.exception_handler(DataFormatError)(_refused_model)
    app.exception_handler(DataError)(_unavailable)
    app.exception_handler(Exception)(_failed)
    return Gate(app, service, tokens, service.settings.api)


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
