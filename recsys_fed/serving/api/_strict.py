"""Bodies of requests read as RFC 8259 has it: one meaning, or none."""

import json
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response


class _StrictRequest(Request):
    """Refuses a name that stands twice in an object, and NaN and infinity."""

    async def json(self) -> Any:
        """The body, parsed once; raises JSONDecodeError."""
        if not hasattr(self, "_json"):
            text = (await self.body()).decode("utf-8", "surrogatepass")
            self._json = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
        return self._json


class StrictRoute(APIRoute):
    """A route whose bodies are read strictly."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's own handler, on such a request."""
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strict


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise json.JSONDecodeError("a name stands twice in an object", "", 0)
    return found


def _no_number(_: str) -> NoReturn:
    raise json.JSONDecodeError("a number is not finite", "", 0)
