"""Answers as JSON. The version that a page was made with is in its header and in its body."""

import json
from typing import Any

from starlette.responses import Response

from recsys_fed.serving.explanation import Explanation
from recsys_fed.serving.release import Floats, Release, Rows
from recsys_fed.serving.service import Answer
from recsys_fed.serving.versions import Served


def as_json(record: object, served: Served | None = None, *, status: int = 200) -> Response:
    """A response; with the version that made it."""
    headers = {"x-model-version": served.name} if served is not None else {}
    body = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    return Response(body, status_code=status, headers=headers, media_type="application/json")


def listed(release: Release, rows: Rows, scores: Floats, *, offset: int = 0) -> list[dict[str, Any]]:
    """Places of a list."""
    return [
        {"rank": rank, "item": release.item_ids[row], "title": release.titles[row], "score": score}
        for rank, (row, score) in enumerate(zip(rows.tolist(), scores.tolist(), strict=True), start=offset + 1)
    ]


def page_record(answer: Answer, *, offset: int, limit: int) -> dict[str, Any]:
    """A page of recommendations."""
    return {
        "request": answer.request,
        "model": answer.served.name,
        "variant": answer.variant,
        "basis": answer.basis,
        "items": listed(answer.served.release, answer.ranked.rows, answer.ranked.scores, offset=offset),
        "next_offset": offset + limit if answer.ranked.more else None,
        "unknown": list(answer.unknown),
        "mapped": dict(answer.mapped or {}),
    }


def explanation_record(served: Served, found: Explanation, item: str, *, limit: int) -> dict[str, Any]:
    """The largest contributions, by their size, and the sum of the others."""
    release = served.release
    pairs = sorted(zip(found.rows.tolist(), found.parts.tolist(), strict=True), key=lambda pair: -abs(pair[1]))
    return {
        "model": served.name,
        "item": item,
        "title": release.titles[release.row_of[item]],
        "score": found.score,
        "bias": found.bias,
        "contributions": [
            {"item": release.item_ids[row], "title": release.titles[row], "contribution": part}
            for row, part in pairs[:limit]
        ],
        "rest": sum(part for _, part in pairs[limit:]),
    }
