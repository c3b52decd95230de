"""Routes for the silo's application to report: feedback, and forgetting a user."""

import secrets
import time

from fastapi import APIRouter, Depends
from starlette.responses import Response

from recsys_fed.serving.api import schemas
from recsys_fed.serving.api.access import REFUSALS, Service, needs
from recsys_fed.serving.api.answers import as_json
from recsys_fed.serving.events import Event

router = APIRouter(prefix="/v1", responses=REFUSALS)


@router.post(
    "/feedback", response_model=schemas.FeedbackAnswer, tags=["feedback"], dependencies=[Depends(needs("feedback"))]
)
async def feedback(request: schemas.FeedbackRequest, service: Service) -> Response:
    """Report what a user did. When this answers, the event is on disk and counts."""
    event = Event(
        user=request.user,
        item=request.item,
        kind=request.kind,
        time=time.time() if request.time is None else request.time,
        value=request.value,
        key=request.event or secrets.token_hex(16),
        request=request.request,
    )
    stored = await service.feedback(event)
    known = request.item in service.versions.current.release.row_of
    return as_json({"event": event.key, "duplicate": stored is None, "known_item": known})


@router.post("/forget", response_model=schemas.Forgotten, tags=["admin"], dependencies=[Depends(needs("admin"))])
async def forget(request: schemas.UserRequest, service: Service) -> Response:
    """Remove a user's history, vectors, caches and pending feedback; says what released models still contain."""
    return as_json(await service.forget(request.user))
