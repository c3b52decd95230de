"""What a service is told: serving.toml, read once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recsys_fed import checks
from recsys_fed.errors import ConfigurationError
from recsys_fed.settings_file import check_keys, check_tables, parse_table, read_tables

_PERSONALISATION = ("user-only", "silo-trusted")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, kw_only=True)
class ApiSettings:
    """Where the service listens and what it accepts.

    Attributes:
        host, port: loopback unless TLS files are given.
        tls_certificate, tls_key: PEM files; "" is none.
        max_body_bytes: a longer request gets a 413.
        max_connections: at most so many at once; see `connections`.
        request_seconds: from the first byte of a request to its last.
        requests_per_second, burst: token bucket of every bearer token; above it, 429. A batch of lists costs one more
            for every four users, one of events for every ten.
        cached_users: whose histories and vectors are held in memory, least recently used out first.
        watch_seconds: how often the model's file is looked at; 0 never takes over by itself.
        personalisation: "user-only": what a user gets follows from the released model and the user's own events;
            "silo-trusted": also from a residual item model of this silo's users, which is never released.
        search: "exact", "int8" (quantised, then re-ranked exactly; the result is the exact one) or "hnsw"
            (approximate).
    """

    host: str = "127.0.0.1"
    port: int = 8765
    tls_certificate: str = ""
    tls_key: str = ""
    max_body_bytes: int = 262_144
    max_connections: int = 2_048
    request_seconds: float = 10.0
    requests_per_second: float = 1_000.0
    burst: int = 2_000
    cached_users: int = 10_000
    watch_seconds: float = 2.0
    personalisation: str = "user-only"
    search: str = "exact"

    def __post_init__(self) -> None:
        checks.at_least(1, max_body_bytes=self.max_body_bytes, burst=self.burst, cached_users=self.cached_users)
        checks.at_least(1, max_connections=self.max_connections)
        checks.positive(request_seconds=self.request_seconds)
        checks.at_least(0, port=self.port)
        checks.positive(requests_per_second=self.requests_per_second)
        checks.non_negative(watch_seconds=self.watch_seconds)
        checks.one_of(_PERSONALISATION, personalisation=self.personalisation)
        checks.one_of(("exact", "int8", "hnsw"), search=self.search)
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ConfigurationError("Expected tls-certificate and tls-key together, got one of them.")
        if self.host not in _LOOPBACK and not self.tls_certificate:
            raise ConfigurationError(
                f"Expected TLS files for a host that others can reach, got {self.host} without. "
                "Set tls-certificate and tls-key, or listen on 127.0.0.1."
            )


_WEIGHED = ("view", "click", "cart", "like", "buy", "rating", "imported")


@dataclass(frozen=True, kw_only=True)
class FeedbackSettings:
    """How events count in a history.

    Attributes:
        view, click, cart, like, buy, rating, imported: weight of an event of this kind; of an item the strongest
            counts.
        rating_minimum: a rating below it counts as a dislike.
        half_life_days: after so many days an event weighs half; 0: events do not age.
        exclude_viewed: whether items that were only viewed, clicked or put into a cart are left out, too.
        burst_events, burst_seconds: more events of one user in so many seconds are a robot's.
        daily_events: more events of one user in a day are a robot's.
        quarantine_seconds: for how long a robot's further events are put aside too.
    """

    view: float = 0.1
    click: float = 0.3
    cart: float = 0.5
    like: float = 1.0
    buy: float = 1.0
    rating: float = 1.0
    imported: float = 1.0
    rating_minimum: float = 0.0
    half_life_days: float = 0.0
    exclude_viewed: bool = False
    burst_events: int = 60
    burst_seconds: float = 10.0
    daily_events: int = 2_000
    quarantine_seconds: float = 3_600.0

    def __post_init__(self) -> None:
        for name in _WEIGHED:
            checks.positive(**{name: getattr(self, name)})
        checks.non_negative(half_life_days=self.half_life_days)
        checks.at_least(1, burst_events=self.burst_events, daily_events=self.daily_events)
        checks.positive(burst_seconds=self.burst_seconds, quarantine_seconds=self.quarantine_seconds)


@dataclass(frozen=True, kw_only=True)
class ExplorationSettings:
    """One place of a list that is filled at random, with known probabilities. Off by default.

    Attributes:
        method: "none", "thompson" or "linucb".
        position: the place of the list, 1 the first.
        pool: how many best-scored candidates may be drawn.
        scale: standard deviation of a user's taste in units of the fold-in's own uncertainty.
        samples: posterior samples of which one is chosen (thompson); propensities are exact given them.
        floor: probability with which the place is drawn uniformly, so that every item of the pool has a chance.
        own_share: probability with which the model's own choice is shown whatever the method favours: what it would
            have been worth can only be estimated where it had a chance.
        new_items: file of item ids, one a line, that count as new; the uniform draw is among them where there are
            any.
    """

    method: str = "none"
    position: int = 1
    pool: int = 50
    scale: float = 0.3
    samples: int = 32
    floor: float = 0.05
    own_share: float = 0.0
    new_items: str = ""

    def __post_init__(self) -> None:
        checks.one_of(("none", "thompson", "linucb"), method=self.method)
        checks.at_least(1, position=self.position, pool=self.pool, samples=self.samples)
        checks.positive(scale=self.scale)
        checks.fraction(floor=self.floor)
        checks.non_negative(own_share=self.own_share)
        if self.floor + self.own_share > 1.0:
            raise ConfigurationError(f"Expected floor + own_share <= 1, got {self.floor + self.own_share:g}.")


@dataclass(frozen=True, kw_only=True)
class RerankSettings:
    """What a list gives up in score for breadth; all off by default.

    Attributes:
        candidates: how many best-scored items are re-ranked.
        diversity: 0 to 1, weight of dissimilarity to what is listed already (MMR).
        calibration: 0 to 1, weight of the list's genres following the user's own.
        group_share: least share of the places of a list for items outside the `head_share` best-known ones.
        head_share: share of the catalogue, by released bias, that is the head.
    """

    candidates: int = 100
    diversity: float = 0.0
    calibration: float = 0.0
    group_share: float = 0.0
    head_share: float = 0.1

    def __post_init__(self) -> None:
        checks.at_least(1, candidates=self.candidates)
        for name in ("diversity", "calibration", "group_share"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigurationError(f"Expected 0 <= {name} <= 1, got {value}.")
        checks.fraction(head_share=self.head_share)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One arm of an experiment: a model version and how its lists are made.

    Attributes:
        name: of the arm. share: of the users, in proportion to the other arms'.
        model: "current", "previous" or the first digits of a version.
        explore: whether the exploration of the service applies. The others: see RerankSettings.
    """

    name: str = ""
    share: float = 1.0
    model: str = "current"
    explore: bool = True
    diversity: float = 0.0
    calibration: float = 0.0
    group_share: float = 0.0

    def __post_init__(self) -> None:
        checks.positive(share=self.share)
        if not self.name:
            raise ConfigurationError("Expected a name for every variant, got none.")


@dataclass(frozen=True, kw_only=True)
class ExperimentSettings:
    """A running experiment. The first variant is the control.

    Attributes:
        name: of the experiment; another name assigns users afresh. "" is no experiment.
        rewards: kinds of feedback, separated by commas, that count as a success.
        window_hours: a user succeeds with a reward within so many hours of the first list.
        level: of the test, over all looks at it.
        variants: two or more.
    """

    name: str = ""
    rewards: str = "click,like,buy"
    window_hours: float = 24.0
    level: float = 0.05
    variants: tuple[Variant, ...] = ()

    def __post_init__(self) -> None:
        checks.positive(window_hours=self.window_hours)
        checks.fraction(level=self.level)
        if self.name and len({variant.name for variant in self.variants}) < max(2, len(self.variants)):
            raise ConfigurationError("Expected two or more [[experiment.variants]] with different names.")


@dataclass(frozen=True, kw_only=True)
class ServingSettings:
    """All of serving.toml."""

    api: ApiSettings = field(default_factory=ApiSettings)
    feedback: FeedbackSettings = field(default_factory=FeedbackSettings)
    exploration: ExplorationSettings = field(default_factory=ExplorationSettings)
    rerank: RerankSettings = field(default_factory=RerankSettings)
    experiment: ExperimentSettings = field(default_factory=ExperimentSettings)


def read_serving_settings(path: Path | None) -> ServingSettings:
    """Read serving.toml; without one, the defaults.

    Raises:
        DataNotFoundError, DataFormatError: there is no such file, or it is not TOML.
        ConfigurationError: a key that nothing reads, or a value that is not allowed.
    """
    if path is None:
        return ServingSettings()
    return serving_settings(read_tables(path, what="the service's settings"))


def serving_settings(tables: Mapping[str, Any]) -> ServingSettings:
    """Settings of parsed TOML tables.

    >>> serving_settings({"api": {"port": 9000}}).api.port
    9000
    """
    kinds: dict[str, Any] = {"api": ApiSettings, "feedback": FeedbackSettings, "exploration": ExplorationSettings,
             "rerank": RerankSettings, "experiment": ExperimentSettings}  # fmt: skip
    check_tables(tables, (*kinds, "kinds"), place="serving.toml")
    tables = _with_kinds(tables)
    read: dict[str, Any] = {}
    for name, table in tables.items():
        variants = {"variants": _variants(table)} if name == "experiment" else {}
        plain = {key: value for key, value in table.items() if key not in variants}
        read[name] = parse_table(kinds[name], plain, place=f"[{name}] in serving.toml", **variants)
    return ServingSettings(**read)


def _with_kinds(tables: Mapping[str, Any]) -> dict[str, Any]:
    """The tables with [kinds], as silo.toml has it for training, as weights of [feedback].

    Raises:
        ConfigurationError: a kind that the service does not know, or one that [feedback] weighs, too.
    """
    weights, feedback = tables.get("kinds", {}), tables.get("feedback", {})
    check_keys(weights, _WEIGHED, place="[kinds] in serving.toml")
    if twice := sorted(weights.keys() & feedback.keys()):
        raise ConfigurationError(f"Expected the weight of {', '.join(twice)} once, got it in [kinds] and [feedback].")
    rest = {name: table for name, table in tables.items() if name != "kinds"}
    return rest | ({"feedback": {**feedback, **weights}} if weights else {})


def _variants(table: Mapping[str, Any]) -> tuple[Variant, ...]:
    place = "[[experiment.variants]] in serving.toml"
    return tuple(parse_table(Variant, arm, place=place) for arm in table.get("variants", ()))
