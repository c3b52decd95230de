"""What goes over the wire. Every text has a length, every number is finite: the rest is refused before it is used."""

import time
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from recsys_fed.serving._walks import LONGEST_CURSOR
from recsys_fed.serving.history import EARLIEST

_LIST = 1_000
_FUTURE_SECONDS = 300.0


def _plain(text: str) -> str:
    """Text that every database and every header can hold."""
    if not text.isprintable():
        raise ValueError("expected printable characters")
    return text


def _not_future(moment: float) -> float:
    if moment > time.time() + _FUTURE_SECONDS:
        raise ValueError("expected a time that is not in the future")
    return moment


Id = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_plain)]
Text = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_plain)]
_Ids = Annotated[list[Id], Field(max_length=_LIST)]
_Kind = Literal["view", "click", "cart", "like", "buy", "rating", "dislike"]
_Told = Annotated[dict[Id, Id], Field(max_length=20)]
_Moment = Annotated[float, Field(ge=EARLIEST, allow_inf_nan=False), AfterValidator(_not_future)]


class Strict(BaseModel):
    """Refuses what nothing reads."""

    model_config = ConfigDict(extra="forbid")


class PageRequest(Strict):
    """Which part of a list, and from which items."""

    offset: int = Field(
        default=0, ge=0, le=_LIST, description="Places before the first one wanted; not where lists are explored."
    )
    cursor: (
        Annotated[str, Field(min_length=1, max_length=LONGEST_CURSOR, pattern="^[0-9a-f]+[.][A-Za-z0-9_-]+$")] | None
    ) = Field(
        default=None, description="The next_cursor of the page before: no item of it comes again, none is left out."
    )
    limit: int = Field(default=10, ge=1, le=200)
    blocked: _Ids = Field(default_factory=list, description="Items that are left out.")
    allowed: _Ids | None = Field(default=None, description="Only these items.")
    categories: _Ids | None = Field(default=None, description="Only items of one of these.")
    exclude_consumed: bool = Field(default=True, description="Leave out what was bought, liked, rated or disliked.")


class RecommendRequest(PageRequest):
    """For a known user, or for the raw history of an anonymous visitor, of which nothing is kept."""

    user: Id | None = None
    history: _Ids | None = None
    titles: Annotated[list[Text], Field(max_length=20)] | None = Field(
        default=None, description="Titles that are mapped to the nearest item of the catalogue by their words."
    )
    attributes: _Told = Field(
        default_factory=dict,
        description="Of the user, for this request: what the silo's own model knows none of is left out.",
    )
    context: _Told = Field(
        default_factory=dict,
        description="Of this request; hour and weekday are those of now (UTC) where they are not given.",
    )


class BatchRequest(Strict):
    """Lists for many users at once, without exploration."""

    users: Annotated[list[Id], Field(min_length=1, max_length=_LIST)]
    limit: int = Field(default=10, ge=1, le=100)


class Item(BaseModel):
    """A place of a list."""

    rank: int
    item: str
    title: str
    score: float


class Recommendations(BaseModel):
    """A page of a list. `basis` says what it follows from: the history, mapped titles, or popularity."""

    request: str = Field(description="Give it with feedback on these items.")
    model: str
    variant: str = ""
    basis: Literal["history", "text", "popularity", "item"]
    items: list[Item]
    next_offset: int | None = Field(default=None, description="None also where lists are explored: take the cursor.")
    next_cursor: str | None = None
    unknown: list[str] = Field(default_factory=list, description="Items and titles that were left out.")
    mapped: dict[str, str] = Field(default_factory=dict, description="Titles and the items they were mapped to.")
    used: list[str] = Field(
        default_factory=list, description="Attributes and contexts that had effects on the scores."
    )


class UserList(BaseModel):
    """One list of a batch."""

    user: str
    basis: Literal["history", "popularity"]
    items: list[Item]


class Batch(BaseModel):
    """Lists of many users, all of one version."""

    model: str
    lists: list[UserList]


class Contribution(BaseModel):
    """What one item of the history adds to a score."""

    item: str
    title: str
    contribution: float


class ExplanationAnswer(BaseModel):
    """bias + effects + the sum of all contributions is the score; those that are not listed add up to `rest`."""

    model: str
    item: str
    title: str
    score: float
    bias: float
    effects: float = Field(description="Of attributes and contexts, in a silo's own model.")
    contributions: list[Contribution]
    rest: float


class QuestionsRequest(Strict):
    """Whom to ask, and how much."""

    user: Id
    limit: int = Field(default=5, ge=1, le=50)


class Questions(BaseModel):
    """Items to ask about, the most telling first; `score` is what the answer is expected to tell, in nats."""

    model: str
    items: list[Item]


_Rating = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]


class RatingsRequest(Strict):
    """Items, and whose ratings: a known user's, or those that are given, of which nothing is kept."""

    items: Annotated[list[Id], Field(min_length=1, max_length=_LIST)]
    user: Id | None = None
    ratings: Annotated[dict[Id, _Rating], Field(max_length=_LIST)] | None = None


class PredictedRating(BaseModel):
    """What the user would rate an item, within the scale of the model."""

    item: str
    title: str
    rating: float


class PredictedRatings(BaseModel):
    """In the order in which they were asked for."""

    model: str
    known_ratings: int = Field(description="Ratings of the user that the prediction rests on; 0: those of all.")
    ratings: list[PredictedRating]
    unknown: list[str] = Field(description="Items that the catalogue lacks.")


class FeedbackRequest(Strict):
    """What a user did."""

    user: Id
    item: Id
    kind: _Kind
    value: float | None = Field(default=None, allow_inf_nan=False, ge=-1e6, le=1e6, description="Of a rating.")
    time: _Moment | None = Field(default=None, description="Seconds since 1970, not before 1990; now without it.")
    event: Id | None = Field(default=None, description="Your id of the event: the same one twice is one event.")
    request: Annotated[str, Field(max_length=64, pattern="^[0-9a-f]+$")] | None = Field(
        default=None, description="Of the recommendation that it answers."
    )


class FeedbackAnswer(BaseModel):
    """The event is on disk, and counts from the next recommendation on."""

    event: str
    duplicate: bool = Field(description="This token had reported this event of this user before.")
    known_item: bool


class FeedbackBatchRequest(Strict):
    """What users did, in the order in which it happened: all of it is taken in, or nothing."""

    events: Annotated[list[FeedbackRequest], Field(min_length=1, max_length=_LIST)]


class BatchEventAnswer(FeedbackAnswer):
    """One event of a batch."""

    forgotten: bool = Field(description="Its user was forgotten, and nothing was taken in.")


class FeedbackBatchAnswer(BaseModel):
    """One answer an event, in their order."""

    events: list[BatchEventAnswer]


class UserRequest(Strict):
    """A user."""

    user: Id


class ReleasedModel(BaseModel):
    """What is known of a released model's training."""

    model_config = ConfigDict(extra="allow")
    model: str


class ReceiptRequest(Strict):
    """The receipt of a request to forget."""

    receipt: Annotated[str, Field(min_length=1, max_length=32, pattern="^[0-9a-f]+$")]


class Receipt(BaseModel):
    """What became of a request to forget."""

    receipt: str
    state: Literal["pending", "done"] = Field(description="done: the last copy in the store's files is gone.")
    forgotten: float
    erased: float | None
    remains: list[str] = Field(description="What the service cannot reach, in words.")


class Readmitted(BaseModel):
    """Whether the user had been forgotten, and is taken in again from now on."""

    readmitted: bool


class Forgotten(Receipt):
    """What was removed, and what models that were released before still contain."""

    removed: dict[str, int]
    released_models: list[ReleasedModel]
    statement: str


class ExplanationRequest(Strict):
    """A user and an item. In the body: what stands in an address ends up in logs."""

    user: Id
    item: Id
    limit: int = Field(default=10, ge=1, le=200)
    attributes: _Told = Field(default_factory=dict, description="As in the request of the list.")
    context: _Told = Field(default_factory=dict, description="As in the request of the list.")


class VersionRequest(Strict):
    """A model version by its first digits."""

    version: Annotated[str, Field(min_length=4, max_length=64, pattern="^[0-9a-f]+$")]


class ModelsAnswer(BaseModel):
    """The version in use, the one before it, and all that are kept."""

    current: str
    previous: str | None
    kept: list[str]


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str
