"""Routes: lists, similar items, explanations, ratings; feedback, forget; the operator's models, status and pages."""

import asyncio
import json
import math
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.security import HTTPBearer
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from recsys_fed.context import TIMED, contexts_at, sum_effects, used_effects
from recsys_fed.serving._ranking import Page
from recsys_fed.serving._ratings import check_orders, predict_ratings
from recsys_fed.serving._service import Answer, RecommendationService
from recsys_fed.serving.api import _schemas
from recsys_fed.serving.api._schemas import Problem
from recsys_fed.serving.api._strict import StrictRoute
from recsys_fed.serving.fold_in import Explanation
from recsys_fed.serving.history import Event
from recsys_fed.serving.packed_model import Floats, PackedModel, Rows
from recsys_fed.serving.reload import ModelReloader
from recsys_fed.serving.search import similar, top_rows
from recsys_fed.serving.store import OF_FORGOTTEN
from recsys_fed.serving.versions import Served

# Only for the OpenAPI page: the gate has looked at the token before any route is reached.
_bearer = HTTPBearer(auto_error=False, description="A token of `recsys-fed silo token`.")

_REFUSALS: dict[int | str, dict[str, object]] = {
    status: {"model": Problem} for status in (400, 401, 403, 409, 413, 422, 429, 503)
}


def _needs(scope: str) -> Callable[[Request, object], Awaitable[None]]:
    """A dependency that refuses tokens without the scope."""

    async def check(request: Request, _: Annotated[object, Depends(_bearer)]) -> None:
        if scope not in request.scope.get("token_scopes", ()):
            raise HTTPException(status_code=403, detail=f"Expected a token with the scope {scope}.")

    return check


async def _service_of(request: Request) -> RecommendationService:
    """The service of this application."""
    service: RecommendationService = request.app.state.service
    return service


async def _take_over_of(request: Request) -> ModelReloader:
    """What takes over new models."""
    take_over: ModelReloader = request.app.state.take_over
    return take_over


_Service = Annotated[RecommendationService, Depends(_service_of)]
_Taking = Annotated[ModelReloader, Depends(_take_over_of)]


def as_json(record: object, served: Served | None = None, *, status: int = 200) -> Response:
    """A response; with the version that made it."""
    headers = {"x-model-version": served.name} if served is not None else {}
    return Response(_text(record).encode(), status_code=status, headers=headers, media_type="application/json")


def _text(record: object) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _list_items(release: PackedModel, rows: Rows, scores: Floats, *, offset: int = 0) -> list[dict[str, Any]]:
    """Places of a list."""
    return [
        {"rank": rank, "item": release.item_ids[row], "title": release.titles[row], "score": score}
        for rank, (row, score) in enumerate(zip(rows.tolist(), scores.tolist(), strict=True), start=offset + 1)
    ]


def _now() -> dict[str, str]:
    """The contexts of a request that comes now."""
    found = contexts_at(np.array([time.time_ns()]), TIMED)
    return {name: str(values[0]) for name, values in found.items()}


def _page_record(answer: Answer, *, offset: int, limit: int, explored: bool) -> dict[str, Any]:
    """A page of recommendations."""
    by_offset = answer.ranked.more and not explored and not answer.shown
    offset = offset or len(answer.shown)
    return {
        "request": answer.request,
        "model": answer.served.name,
        "variant": answer.variant,
        "basis": answer.basis,
        "items": _list_items(answer.served.release, answer.ranked.rows, answer.ranked.scores, offset=offset),
        "next_offset": offset + limit if by_offset else None,
        "next_cursor": answer.cursor if offset == len(answer.shown) else None,
        "unknown": list(answer.unknown),
        "mapped": dict(answer.mapped or {}),
    }


def _explanation_record(
    served: Served, found: Explanation, item: str, *, limit: int, told: dict[str, str]
) -> dict[str, Any]:
    """The largest contributions, by their size, and the sum of the others."""
    release = served.release
    added = sum_effects(release.effects, told)
    effects = 0.0 if added is None else float(added[release.row_of[item]])
    pairs = sorted(zip(found.rows.tolist(), found.parts.tolist(), strict=True), key=lambda pair: -abs(pair[1]))
    return {
        "model": served.name,
        "item": item,
        "title": release.titles[release.row_of[item]],
        "score": found.score + effects,
        "bias": found.bias,
        "effects": effects,
        "contributions": [
            {"item": release.item_ids[row], "title": release.titles[row], "contribution": part}
            for row, part in pairs[:limit]
        ],
        "rest": sum(part for _, part in pairs[limit:]),
    }


_Limit = Annotated[int, Query(ge=1, le=200)]
recommending = APIRouter(
    prefix="/v1",
    tags=["recommend"],
    dependencies=[Depends(_needs("recommend"))],
    responses=_REFUSALS,
    route_class=StrictRoute,
)


@recommending.post("/recommendations", response_model=_schemas.Recommendations)
async def recommend(request: _schemas.RecommendRequest, service: _Service) -> Response:
    """Items for a known user (`user`), or for a raw history (`history`, `titles` or both); not for both at once."""
    page = Page(
        offset=request.offset,
        limit=request.limit,
        blocked=tuple(request.blocked),
        allowed=None if request.allowed is None else tuple(request.allowed),
        categories=None if request.categories is None else tuple(request.categories),
        exclude_consumed=request.exclude_consumed,
        told=_now() | request.context | request.attributes,
    )
    raw = request.history is not None or request.titles is not None
    if (request.user is not None) == raw:
        raise HTTPException(status_code=422, detail="Expected either user, or history and titles.")
    if request.cursor is not None and request.offset:
        raise HTTPException(status_code=422, detail="Expected either a cursor or an offset.")
    if request.user is not None:
        answer = await service.recommend(request.user, page, cursor=request.cursor)
    else:
        answer = service.recommend_history(
            request.history or [], page, texts=request.titles or [], cursor=request.cursor
        )
    explored = request.user is not None and service.settings.exploration.method != "none"
    record = _page_record(answer, offset=request.offset, limit=request.limit, explored=explored)
    record["used"] = used_effects(answer.served.release.effects, page.told)
    return as_json(record, answer.served)


@recommending.post("/recommendations/batch", response_model=_schemas.Batch)
async def batch(asked: Request, request: _schemas.BatchRequest, service: _Service) -> Response:
    """Lists of up to 1,000 known users from one model version. Costs a request and one more for every four users."""
    asked.scope["charge"](len(request.users) / 4)
    served, parts = service.versions.current, []
    # Written as it comes: a thousand lists at once would keep everybody waiting.
    async with aclosing(service.recommend_many(request.users, request.limit)) as lists:
        async for own in lists:
            record = {
                "user": own.user,
                "basis": "history" if own.known else "popularity",
                "items": _list_items(served.release, own.rows, own.scores),
            }
            parts.append(_text(record))
    body = f'{{"model":{_text(served.name)},"lists":[{",".join(parts)}]}}'
    return Response(body, headers={"x-model-version": served.name}, media_type="application/json")


@recommending.get("/similar", response_model=_schemas.Recommendations)
async def similar_items(
    service: _Service,
    item: _schemas.Id,
    title: Annotated[_schemas.Text | None, Query(description="Mapped to a known item if `item` is unknown.")] = None,
    limit: _Limit = 10,
) -> Response:
    """Items with the nearest vectors. For an unknown item: those of the nearest title, else the popular ones."""
    served = service.versions.current
    release = served.release
    check_orders(release)
    row, basis = release.row_of.get(item), "item"
    if row is None and title is not None:
        row, basis = served.titles.nearest(title), "text"
    if row is None:
        basis, scores = "popularity", release.bias.copy()
    else:
        scores = similar(release, row)
        scores[row] = -math.inf
    rows = top_rows(scores, limit)
    record = {
        "request": "", "model": served.name, "variant": "", "basis": basis,
        "items": _list_items(release, rows, scores[rows]), "next_offset": None,
        "unknown": [] if item in release.row_of else [item],
        "mapped": {title: release.item_ids[row]} if basis == "text" and row is not None else {},
    }  # fmt: skip
    return as_json(record, served)


@recommending.post("/explanation", response_model=_schemas.ExplanationAnswer)
async def explanation(request: _schemas.ExplanationRequest, service: _Service) -> Response:
    """What the items of a user's history add to the score of an item: exact parts that sum to it."""
    served, found = await service.explain(request.user, request.item)
    told = _now() | request.context | request.attributes
    return as_json(_explanation_record(served, found, request.item, limit=request.limit, told=told), served)


@recommending.post("/questions", response_model=_schemas.Questions)
async def questions(request: _schemas.QuestionsRequest, service: _Service) -> Response:
    """Items to ask a new user about. Report the answers as feedback (like, dislike): none is asked about again."""
    served, rows, gains = await service.questions(request.user, request.limit)
    return as_json({"model": served.name, "items": _list_items(served.release, rows, gains)}, served)


@recommending.post("/ratings", response_model=_schemas.PredictedRatings)
async def ratings(request: _schemas.RatingsRequest, service: _Service) -> Response:
    """What a known user (`user`), or somebody with these `ratings`, would rate items; of a model of ratings."""
    if (request.user is None) == (request.ratings is None):
        raise HTTPException(status_code=422, detail="Expected either user or ratings.")
    served = service.versions.current
    release = served.release
    rated = request.ratings if request.user is None else await service.ratings_of(request.user)
    known = [item for item in request.items if item in release.row_of]
    rows = np.array([release.row_of[item] for item in known], dtype=np.int64)
    found, n_known = predict_ratings(release, rated or {}, rows)
    record = {
        "model": served.name,
        "known_ratings": n_known,
        "ratings": [
            {"item": item, "title": release.titles[row], "rating": round(float(value), 6)}
            for item, row, value in zip(known, rows.tolist(), found, strict=True)
        ],
        "unknown": [item for item in request.items if item not in release.row_of],
    }
    return as_json(record, served)


reporting = APIRouter(prefix="/v1", responses=_REFUSALS, route_class=StrictRoute)


@reporting.post(
    "/feedback", response_model=_schemas.FeedbackAnswer, tags=["feedback"], dependencies=[Depends(_needs("feedback"))]
)
async def feedback(asked: Request, request: _schemas.FeedbackRequest, service: _Service) -> Response:
    """Report what a user did. When this answers, the event is on disk and counts.

    The same `event` of the same user from the same token is one event, however often it is sent.
    """
    event = _event_of(request, asked)
    stored = await service.feedback(event)
    known = request.item in service.versions.current.release.row_of
    return as_json({"event": event.key, "duplicate": stored is None, "known_item": known})


@reporting.post(
    "/feedback/batch",
    response_model=_schemas.FeedbackBatchAnswer,
    tags=["feedback"],
    dependencies=[Depends(_needs("feedback"))],
)
async def feedback_batch(asked: Request, request: _schemas.FeedbackBatchRequest, service: _Service) -> Response:
    """Report up to 1,000 events. Counts as a request and one more for every ten events."""
    asked.scope["charge"](len(request.events) / 10)
    batch = [_event_of(one, asked) for one in request.events]
    stored = await service.feedback_of_many(batch)
    rows = service.versions.current.release.row_of
    answers = [
        {
            "event": event.key,
            "duplicate": kept is None,
            "known_item": event.item in rows,
            "forgotten": kept is not None and kept.number == OF_FORGOTTEN,
        }
        for event, kept in zip(batch, stored, strict=True)
    ]
    return as_json({"events": answers})


def _event_of(request: _schemas.FeedbackRequest, asked: Request) -> Event:
    return Event(
        user=request.user,
        item=request.item,
        kind=request.kind,
        time=time.time() if request.time is None else request.time,
        value=request.value,
        key=request.event or secrets.token_hex(16),
        request=request.request,
        source=asked.scope["token_name"],
    )


@reporting.post("/forget", response_model=_schemas.Forgotten, tags=["admin"], dependencies=[Depends(_needs("admin"))])
async def forget(request: _schemas.UserRequest, service: _Service) -> Response:
    """Remove a user's history, vectors, caches and pending feedback; says what released models still contain.

    What the user does later is not taken in either.
    """
    return as_json(await service.forget(request.user))


@reporting.post(
    "/forget/receipt", response_model=_schemas.Receipt, tags=["admin"], dependencies=[Depends(_needs("admin"))]
)
async def forget_receipt(request: _schemas.ReceiptRequest, service: _Service) -> Response:
    """Whether the last copies of a forgotten user are gone."""
    return as_json(await service.forgetting.receipt(request.receipt))


@reporting.post(
    "/forget/readmit", response_model=_schemas.Readmitted, tags=["admin"], dependencies=[Depends(_needs("admin"))]
)
async def readmit(request: _schemas.UserRequest, service: _Service) -> Response:
    """Take in what a forgotten user does from now on. What happened before stays refused."""
    return as_json({"readmitted": await service.readmit(request.user)})


_FOLDER = Path(__file__).parent
# The pages carry their own script and style, and may speak to this service alone.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

pages = APIRouter(include_in_schema=False)
health = APIRouter(tags=["health"])
operating = APIRouter(
    prefix="/v1",
    tags=["admin"],
    dependencies=[Depends(_needs("admin"))],
    responses=_REFUSALS,
    route_class=StrictRoute,
)


@pages.get("/")
async def operators_page() -> Response:
    """The operators' page: one file, nothing from elsewhere."""
    return _page("operators.html")


@pages.get("/docs")
async def documentation() -> Response:
    """The OpenAPI page, drawn from /openapi.json without anything from elsewhere."""
    return _page("openapi.html")


@health.get("/health")
async def alive(service: _Service) -> dict[str, Any]:
    """Whether the process answers, and whether what it does by itself goes well."""
    tasks = service.background.state()
    tasks["feedback writer"] = "ok" if service.writer.alive else "ended"
    well = all(state == "ok" for state in tasks.values())
    return {"status": "ok" if well else "degraded", "tasks": tasks}


@health.get("/ready")
async def ready(service: _Service) -> dict[str, str]:
    """Whether recommendations can be served, and from which model version."""
    return {"status": "ready", "model": service.versions.current.name, "privacy_mode": service.mode}


@operating.get("/models", response_model=_schemas.ModelsAnswer)
async def models(service: _Service) -> Response:
    """All versions that are kept."""
    return as_json(_models(service))


@operating.post("/models/take-over", response_model=_schemas.ModelsAnswer)
async def take_over(service: _Service, taking: _Taking) -> Response:
    """Take over the model that the service was started with, as its file is now."""
    await taking.take()
    return as_json(_models(service))


@operating.post("/models/roll-back", response_model=_schemas.ModelsAnswer)
async def roll_back(service: _Service) -> Response:
    """Serve the version before."""
    service.use(service.versions.before())
    return as_json(_models(service))


@operating.post("/models/activate", response_model=_schemas.ModelsAnswer)
async def activate(request: _schemas.VersionRequest, service: _Service, taking: _Taking) -> Response:
    """Serve a version that is kept."""
    await taking.activate(request.version)
    return as_json(_models(service))


@operating.get("/quarantine")
async def quarantine(service: _Service) -> dict[str, Any]:
    """Users whose events were put aside as a robot's, why, and how many events."""
    reasons = service.guard.found
    found = await asyncio.to_thread(service.store.quarantined)
    return {
        "users": [
            {"user": user, "events": count, "reason": reasons.get(user, "found before the last start")}
            for user, count in found
        ]
    }


@operating.get("/status")
async def status(service: _Service, taking: _Taking) -> dict[str, Any]:
    """What the operators' page shows."""
    now = time.time()
    recent = {name: None if math.isnan(v) else v for name, v in service.telemetry.recent(now=now).items()}
    release = service.versions.current.release
    experiment = service.settings.experiment
    return {
        **_models(service),
        "problem": taking.problem,
        "tasks": service.background.state(),
        "erasures_pending": len(service.store.waiting_receipts()),
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


@operating.get("/metrics", response_class=PlainTextResponse)
async def metrics(service: _Service) -> Response:
    """Counts and latencies for Prometheus; no user and no item is in them."""
    return PlainTextResponse(service.telemetry.text())


def _models(service: RecommendationService) -> dict[str, Any]:
    versions = service.versions
    previous = versions.previous.name if versions.previous is not None else None
    return {"current": versions.current.name, "previous": previous, "kept": versions.names()}


def _page(name: str) -> Response:
    content = (_FOLDER / name).read_text(encoding="utf-8")
    return HTMLResponse(content, headers={"content-security-policy": _POLICY})
