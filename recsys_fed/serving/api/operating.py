"""Routes for the operator: models, quarantine, status, metrics; and the pages."""

import asyncio
import math
import time
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from recsys_fed.serving.api import schemas
from recsys_fed.serving.api.access import REFUSALS, Service, Taking, needs
from recsys_fed.serving.api.answers import as_json
from recsys_fed.serving.service import RecommendationService

_FOLDER = Path(__file__).parent
# The pages carry their own script and style, and may speak to this service alone.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

pages = APIRouter(include_in_schema=False)
health = APIRouter(tags=["health"])
router = APIRouter(prefix="/v1", tags=["admin"], dependencies=[Depends(needs("admin"))], responses=REFUSALS)


@pages.get("/")
async def operators_page() -> Response:
    """The operators' page: one file, nothing from elsewhere."""
    return _page("operators.html")


@pages.get("/docs")
async def documentation() -> Response:
    """The OpenAPI page, drawn from /openapi.json without anything from elsewhere."""
    return _page("openapi.html")


@health.get("/health")
async def alive() -> dict[str, str]:
    """Whether the process answers."""
    return {"status": "ok"}


@health.get("/ready")
async def ready(service: Service) -> dict[str, str]:
    """Whether recommendations can be served, and from which model version."""
    return {"status": "ready", "model": service.versions.current.name, "privacy_mode": service.mode}


@router.get("/models", response_model=schemas.ModelsAnswer)
async def models(service: Service) -> Response:
    """All versions that are kept."""
    return as_json(_models(service))


@router.post("/models/take-over", response_model=schemas.ModelsAnswer)
async def take_over(service: Service, taking: Taking) -> Response:
    """Take over the model that the service was started with, as its file is now."""
    await taking.take()
    return as_json(_models(service))


@router.post("/models/roll-back", response_model=schemas.ModelsAnswer)
async def roll_back(service: Service) -> Response:
    """Serve the version before."""
    service.use(service.versions.before())
    return as_json(_models(service))


@router.post("/models/activate", response_model=schemas.ModelsAnswer)
async def activate(request: schemas.VersionRequest, service: Service, taking: Taking) -> Response:
    """Serve a version that is kept."""
    await taking.activate(request.version)
    return as_json(_models(service))


@router.get("/quarantine")
async def quarantine(service: Service) -> dict[str, Any]:
    """Users whose events were put aside as a robot's, why, and how many events."""
    reasons = service.guard.found
    found = await asyncio.to_thread(service.store.quarantined)
    return {
        "users": [
            {"user": user, "events": count, "reason": reasons.get(user, "found before the last start")}
            for user, count in found
        ]
    }


@router.get("/status")
async def status(service: Service, taking: Taking) -> dict[str, Any]:
    """What the operators' page shows."""
    now = time.time()
    recent = {name: None if math.isnan(v) else v for name, v in service.telemetry.recent(now=now).items()}
    release = service.versions.current.release
    experiment = service.settings.experiment
    return {
        **_models(service),
        "problem": taking.problem,
        "privacy_mode": service.mode,
        "n_items": release.n_items,
        "provenance": dict(release.provenance),
        "uptime_seconds": now - service.started,
        "traffic": recent,
        "counts": dict(service.telemetry.counts),
        "cached_users": len(service.users),
        "exploration": service.settings.exploration.method,
        "experiment": {"name": experiment.name, "variants": [v.name for v in experiment.variants]},
        "budget": await asyncio.to_thread(service.budget),
    }


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(service: Service) -> Response:
    """Counts and latencies for Prometheus; no user and no item is in them."""
    return PlainTextResponse(service.telemetry.text())


def _models(service: RecommendationService) -> dict[str, Any]:
    versions = service.versions
    previous = versions.previous.name if versions.previous is not None else None
    return {"current": versions.current.name, "previous": previous, "kept": versions.names()}


def _page(name: str) -> Response:
    content = (_FOLDER / name).read_text(encoding="utf-8")
    return HTMLResponse(content, headers={"content-security-policy": _POLICY})
