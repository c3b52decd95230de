"""Which scope a route needs, and the service that it talks to."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPBearer

from recsys_fed.serving.api.schemas import Problem
from recsys_fed.serving.service import RecommendationService
from recsys_fed.serving.takeover import TakeOver

# Only for the OpenAPI page: the gate has looked at the token before any route is reached.
_bearer = HTTPBearer(auto_error=False, description="A token of `recsys-fed silo token`.")

REFUSALS: dict[int | str, dict[str, object]] = {
    status: {"model": Problem} for status in (400, 401, 403, 409, 413, 422, 429, 503)
}


def needs(scope: str) -> Callable[[Request, object], Awaitable[None]]:
    """A dependency that refuses tokens without the scope."""

    async def check(request: Request, _: Annotated[object, Depends(_bearer)]) -> None:
        if scope not in request.scope.get("token_scopes", ()):
            raise HTTPException(status_code=403, detail=f"Expected a token with the scope {scope}.")

    return check


async def service_of(request: Request) -> RecommendationService:
    """The service of this application."""
    service: RecommendationService = request.app.state.service
    return service


async def take_over_of(request: Request) -> TakeOver:
    """What takes over new models."""
    take_over: TakeOver = request.app.state.take_over
    return take_over


Service = Annotated[RecommendationService, Depends(service_of)]
Taking = Annotated[TakeOver, Depends(take_over_of)]
