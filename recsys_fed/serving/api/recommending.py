"""Routes that read: recommend, batch, similar items, explain."""

from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends, HTTPException, Query
from starlette.responses import Response

from recsys_fed.serving.api import schemas
from recsys_fed.serving.api.access import REFUSALS, Service, needs
from recsys_fed.serving.api.answers import as_json, explanation_record, listed, page_record
from recsys_fed.serving.ranking import Page
from recsys_fed.serving.search import best_of_many, top_rows
from recsys_fed.serving.words_match import similar

Limit = Annotated[int, Query(ge=1, le=200)]
router = APIRouter(prefix="/v1", tags=["recommend"], dependencies=[Depends(needs("recommend"))], responses=REFUSALS)


@router.post("/recommendations", response_model=schemas.Recommendations)
async def recommend(request: schemas.RecommendRequest, service: Service) -> Response:
    """Items for a known user (`user`), or for a raw history (`history`, `titles` or both); not for both at once."""
    page = Page(
        offset=request.offset,
        limit=request.limit,
        blocked=tuple(request.blocked),
        allowed=None if request.allowed is None else tuple(request.allowed),
        categories=None if request.categories is None else tuple(request.categories),
        exclude_consumed=request.exclude_consumed,
    )
    raw = request.history is not None or request.titles is not None
    if (request.user is not None) == raw:
        raise HTTPException(status_code=422, detail="Expected either user, or history and titles.")
    if request.user is not None:
        answer = await service.recommend(request.user, page)
    else:
        answer = service.recommend_history(request.history or [], page, texts=request.titles or [])
    return as_json(page_record(answer, offset=request.offset, limit=request.limit), answer.served)


@router.post("/recommendations/batch", response_model=schemas.Batch)
async def batch(request: schemas.BatchRequest, service: Service) -> Response:
    """Lists of up to 1,000 known users from one model version."""
    served = service.versions.current
    release = served.release
    if release.residual is not None:
        raise HTTPException(
            status_code=409, detail="Expected single requests: batches do not use the silo's residual."
        )
    users = [await service.users.get(name) for name in request.users]
    vectors = np.stack(
        [service.users.vector(name, user, release) for name, user in zip(request.users, users, strict=True)]
    )
    without = [user.history.consumed_rows(release) for user in users]
    rows, scores = best_of_many(release, vectors, request.limit, without=without)
    lists = [
        {
            "user": name,
            "basis": "history" if any(item in release.row_of for item in user.history.levels) else "popularity",
            "items": listed(release, own[own >= 0], values[own >= 0]),
        }
        for name, user, own, values in zip(request.users, users, rows, scores, strict=True)
    ]
    return as_json({"model": served.name, "lists": lists}, served)


@router.get("/similar", response_model=schemas.Recommendations)
async def similar_items(
    service: Service,
    item: schemas.Id,
    title: Annotated[schemas.Text | None, Query(description="Mapped to a known item if `item` is unknown.")] = None,
    limit: Limit = 10,
) -> Response:
    """Items with the nearest vectors. For an unknown item: those of the nearest title, else the popular ones."""
    served = service.versions.current
    release = served.release
    row, basis = release.row_of.get(item), "item"
    if row is None and title is not None:
        row, basis = served.titles.nearest(title), "text"
    if row is None:
        basis, scores = "popularity", release.bias.copy()
    else:
        scores = similar(release, row)
        scores[row] = -np.inf
    rows = top_rows(scores, limit)
    record = {
        "request": "", "model": served.name, "variant": "", "basis": basis,
        "items": listed(release, rows, scores[rows]), "next_offset": None,
        "unknown": [] if item in release.row_of else [item],
        "mapped": {title: release.item_ids[row]} if basis == "text" and row is not None else {},
    }  # fmt: skip
    return as_json(record, served)


@router.get("/explanation", response_model=schemas.ExplanationAnswer)
async def explanation(service: Service, user: schemas.Id, item: schemas.Id, limit: Limit = 10) -> Response:
    """What the items of a user's history add to the score of an item: exact parts that sum to it."""
    served, found = await service.explain(user, item)
    return as_json(explanation_record(served, found, item, limit=limit), served)
