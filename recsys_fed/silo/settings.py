"""silo.toml: all that a silo's operator decides. Only the silo reads it; nothing that a server sends changes it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys_fed import checks
from recsys_fed.config import COLUMN_ROLES, FederationConfig, check_kinds, check_run_keys, parse
from recsys_fed.context import parse_contexts
from recsys_fed.data.readers.cells import UNITS, UNREADABLE, moment_of_text
from recsys_fed.data.readers.reading import DATABASES, SOURCES, Reading, text_format_of
from recsys_fed.data.readers.users import UserRule, groups_rule, parse_attribute_columns, weights_rule
from recsys_fed.errors import ConfigurationError
from recsys_fed.settings_file import check_tables, flatten, parse_table, read_tables

if TYPE_CHECKING:
    from recsys_fed.certificates.terms import LedgerTerms

FILE = "silo.toml"
# What the silo has taken in of its federation, last; see `deployment.updating`.
NOTICE = "notice.json"
PERSONALISATION = ("user-only", "silo-trusted")
HOLD_OUT = ("none", "last")
TRAIN_ON = ("all", "new")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """The table [data]: where a silo's interactions are and which of them count.

    Attributes:
        source: csv (any text table), json (an object a line), parquet, each a file or a folder of them; sqlite or
            postgresql.
        path: of a file or folder. url: SQLAlchemy's, of a database; leave a password to ~/.pgpass.
        query: the one query that is ever run, for databases; ":since" and ":until" in it are bound.
        user, item, value, time, kind, weight: names of columns, or their positions from 0 in a text table without a
            header; the last four are optional.
        format: of text tables, see `data.readers.reading.text_format_of`.
        time_unit: of times that are numbers: s, ms, us or ns; "" leaves it to each cell's own size, see
            `data.readers.cells`.
        since, until: ISO dates or times, UTC; since is included, until is not. "" is open.
        train_on: "all" interactions; or "new", in a training that builds on earlier ones only those since the newest
            of them in which this silo took part began. It bears on training alone: a user's vector is made of all.
        minimum_value: only interactions with at least this value count.
        minimum_history: users with fewer interactions with items of the catalogue take no part.
        block_rows: rows that are read at a time.
        hold_out: "last" keeps each user's latest interaction out of training, to measure the model on.
        blocks: folder for a silo that does not fit into memory, see `silo.on_disk`; "" holds all in memory.
        hit_weight: only interactions of at least this weight are held out; -1 takes half of the heaviest kind's.
        kinds: kind of event -> weight of its rows (the table [kinds]); rows of other kinds are left out.
    """

    source: str = "csv"
    path: str = ""
    url: str = ""
    query: str = ""
    user: str = "user"
    item: str = "item"
    value: str = ""
    time: str = ""
    kind: str = ""
    weight: str = ""
    format: str = ""
    time_unit: str = ""
    since: str = ""
    until: str = ""
    train_on: str = "all"
    minimum_value: float = float("-inf")
    minimum_history: int = 1
    block_rows: int = 200_000
    hold_out: str = "none"
    blocks: str = ""
    hit_weight: float = -1.0
    kinds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checks.one_of(SOURCES, source=self.source)
        checks.one_of(HOLD_OUT, hold_out=self.hold_out)
        checks.one_of(TRAIN_ON, train_on=self.train_on)
        checks.one_of(UNITS, time_unit=self.time_unit)
        checks.at_least(1, minimum_history=self.minimum_history, block_rows=self.block_rows)
        needed, other = ("url", "path") if self.source in DATABASES else ("path", "url")
        if not getattr(self, needed) or getattr(self, other):
            raise ConfigurationError(f"Expected data.{needed} and no data.{other} for a source {self.source}.")
        if (self.source in DATABASES) != bool(self.query):
            raise ConfigurationError(f"Expected data.query for databases and only there, source is {self.source}.")
        timed = self.since or self.until or self.hold_out == "last" or self.time_unit or self.train_on == "new"
        if timed and not self.time:
            raise ConfigurationError(
                "Expected data.time, the column that since, until, hold-out, time-unit and train-on need, got none."
            )
        if self.minimum_value > float("-inf") and not self.value:
            raise ConfigurationError("Expected data.value, the column that minimum-value needs, got none.")
        if bool(self.kind) != bool(self.kinds):
            raise ConfigurationError("Expected data.kind, a column, and the table [kinds] together, got one of them.")
        check_kinds(self.kinds)
        self.reading()

    @property
    def columns(self) -> dict[str, str]:
        """Role -> name of its column, of the roles that there are."""
        named = {role: getattr(self, role) for role in ("user", "item", "value", "time", "kind", "weight")}
        return {role: name for role, name in named.items() if name}

    def reading(self) -> Reading:
        """What is to be read, and how."""
        return Reading(
            source=self.source,
            path=self.path,
            url=self.url,
            query=self.query,
            columns=self.columns,
            usual=False,
            kinds=self.kinds,
            time_unit=self.time_unit,
            since=moment(self.since, name="since"),
            until=moment(self.until, name="until"),
            parameters={"since": self.since, "until": self.until},
            format=text_format_of(self.format),
            block_rows=self.block_rows,
        )


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """The table [schedule]: the trainings that this silo agrees to for years; see `ledger.agreed_schedule`.

    Attributes:
        trainings: how many may begin in all.
        spacing_days: least days from the beginning of one to that of the next.
        epsilon: of all of them together.
        period_days: 0, or `epsilon` is for any so many days, again and again.
        since: ISO date or time, UTC, from which on they count; "" counts all that the ledger has.
    """

    trainings: int
    spacing_days: float
    epsilon: float = float("inf")
    period_days: float = 0.0
    since: str = ""

    def __post_init__(self) -> None:
        moment(self.since, name="since")


@dataclass(frozen=True, kw_only=True)
class AttributeSettings:
    """The table [attributes]: what counts beside histories for "silo-trusted"; see `personalisation.fusion`.

    The attributes that user-weights and metric-groups in [agreed] read are among them, whatever the personalisation.

    Attributes:
        path: of a text table of users, see `data.readers.users`; "" for none.
        columns: NAME=COLUMN,... of it.
        context: of hour and weekday, with commas between them; they follow from data.time.
    """

    path: str = ""
    columns: str = ""
    context: str = ""

    def __post_init__(self) -> None:
        if bool(self.path) != bool(self.columns):
            raise ConfigurationError("Expected attributes.path, a table of users, and attributes.columns together.")
        if self.columns:
            parse_attribute_columns(self.columns)
        parse_contexts(self.context)


@dataclass(frozen=True, kw_only=True)
class SiloSettings:
    """All of silo.toml. Paths are absolute once it is read.

    Attributes:
        name: public name. folder: of silo.toml.
        personalisation: "user-only": what a user is shown follows from the released model and the own history alone.
            "silo-trusted": also from a model of this silo's users, which is never released; see `silo.state`.
        self_attention: whether a model of the next item of this silo's users may have self-attention: for thousands
            of users; it takes 40 passes over them, twice.
        device, threads: on which this silo computes, see `FederationConfig`.
        address: of the federation, HOST:PORT. root_certificate: of its authority.
        catalogue: the public catalogue that was agreed on.
        roster: names and ledger keys of the silos with which this one takes part in secure aggregation.
        node_key, ledger_key, secret_key: the silo's three key files.
        ledger: path or URL. witness: file that notes the ledger's head; "" is none.
        federation: what tells this federation's trainings apart in a ledger that another one uses as well, see
            `ledger.entries.run_name`; "" for the federation that made the ledger.
        state: folder of what the silo keeps.
        service: folder of the silo's service (`silo api --state`), "" for none; see `opt_out`. service_store: its
            PostgreSQL URL, where it has one.
        agreed: the terms of training that this silo accepts. schedule: how many, in years; None: no schedule.
        data: its interactions. attributes: what else it knows of its users, in the silo alone.
        trainings, per_days: how many trainings may begin in so many days; 0 trainings: any number. Each may cost what
            was agreed, and the ledger's limit holds besides.
        simulated_seed, simulated_index: noise from this seed, as the silo of this number in a simulation; -1 in
            every real silo. The ledger must have been started as a simulation's, and says so for ever.
    """

    name: str = ""
    folder: str = ""
    personalisation: str = "user-only"
    self_attention: bool = False
    device: str = "auto"
    threads: int = 0
    address: str = ""
    root_certificate: str = ""
    catalogue: str = ""
    roster: str = ""
    node_key: str = "keys/node.key"
    ledger_key: str = "keys/ledger.key"
    secret_key: str = "keys/secret.key"  # noqa: S105  (a path)
    ledger: str = "ledger.sqlite"
    witness: str = "ledger.witness"
    federation: str = ""
    state: str = "state"
    service: str = ""
    service_store: str = ""
    trainings: int = 3
    per_days: float = 7.0
    simulated_seed: int = -1
    simulated_index: int = -1
    agreed: FederationConfig = field(default_factory=FederationConfig)
    schedule: ScheduleSettings | None = None
    data: DataSettings = field(default_factory=lambda: DataSettings(path="interactions.csv"))
    attributes: AttributeSettings = field(default_factory=AttributeSettings)

    def __post_init__(self) -> None:
        checks.one_of(PERSONALISATION, personalisation=self.personalisation)
        checks.at_least(0, threads=self.threads, trainings=self.trainings)
        checks.positive(per_days=self.per_days)
        if self.per_days > checks.MOST_DAYS:
            raise ConfigurationError(f"Expected per-days of at most {checks.MOST_DAYS:,}, got {self.per_days:g}.")
        checks.at_least(-1, simulated_seed=self.simulated_seed, simulated_index=self.simulated_index)
        if not self.name or not self.name.isprintable() or len(self.name) > 64:
            raise ConfigurationError(f"Expected a silo name of 1 to 64 printable characters, got {self.name!r}.")
        if self.agreed.silos < 1:
            raise ConfigurationError("Expected agreed.silos >= 1: how many silos there are is public.")
        if not re.fullmatch(r"[A-Za-z0-9-]{0,64}", self.federation, re.ASCII):
            raise ConfigurationError(f"Expected letters, digits and hyphens for federation, got {self.federation!r}.")
        if (self.simulated_seed < 0) != (self.simulated_index < 0):
            raise ConfigurationError("Expected simulated-seed and simulated-index together, or none of them.")
        read = (self.agreed.user_weights or self.agreed.metric_groups) and not self.attributes.context
        if self.attributes != AttributeSettings() and self.personalisation != "silo-trusted" and not read:
            raise ConfigurationError(
                "Expected [attributes] with personalisation = silo-trusted only; or without context where "
                "user-weights or metric-groups in [agreed] read them."
            )
        if self.attributes.context and not self.data.time:
            raise ConfigurationError("Expected data.time, the column that attributes.context needs, got none.")

    def column_of(self, rule: UserRule) -> str:
        """The column of [attributes] with the attribute of a rule.

        Raises:
            ConfigurationError: the silo does not know that attribute of its users.
        """
        columns = parse_attribute_columns(self.attributes.columns) if self.attributes.columns else {}
        if rule.attribute not in columns:
            raise ConfigurationError(
                f"Expected {rule.attribute} in columns of [attributes], which {rule.key} in the federation's terms "
                f"reads. Name a table of users that has it: path = ..., columns = "
                f'"{rule.attribute}=COLUMN".'
            )
        return columns[rule.attribute]

    def check_rules(self, agreed: FederationConfig) -> None:
        """Refuse terms whose rules read attributes that the silo does not know; raises as `column_of`."""
        for rule in (weights_rule(agreed.user_weights), groups_rule(agreed.metric_groups)):
            if rule is not None:
                self.column_of(rule)

    @property
    def simulated(self) -> bool:
        """Whether the silo's noise follows from a seed: for tests only, it protects nobody."""
        return self.simulated_seed >= 0


_PATHS = (
    "root_certificate",
    "catalogue",
    "roster",
    "node_key",
    "ledger_key",
    "secret_key",
    "witness",
    "state",
    "service",
)
# Where each field of a silo is written; the others are in [silo].
_TABLES = ("silo", "agreed", "schedule", "data", "kinds", "attributes")


def settings_file(path: Path) -> Path:
    """The one path of a silo's settings, given as the file or as its folder."""
    return (path / FILE if path.is_dir() else path).resolve()


def handed_out_folder(settings: SiloSettings) -> Path:
    """The folder beside silo.toml with what the federation has handed out."""
    return Path(settings.folder) / "federation"


def read_silo_settings(path: Path) -> SiloSettings:
    """Read silo.toml (or the one in a folder).

    Raises:
        DataNotFoundError: there is none.
        DataFormatError: it is not TOML.
        ConfigurationError: a key that nothing reads, or a value that is not allowed.
    """
    path = settings_file(path)
    tables, folder = read_tables(path, what="a silo's settings (`silo init` makes them)"), path.parent
    check_tables(tables, _TABLES, place=str(path))
    agreed = flatten(tables.get("agreed", {}))
    check_run_keys(agreed, place=f"[agreed] in {path}")
    settings = parse_table(
        SiloSettings,
        tables.get("silo", {}),
        place=f"[silo] in {path}",
        folder=str(folder),
        agreed=parse(FederationConfig, agreed),
        schedule=_schedule(tables["schedule"], path) if "schedule" in tables else None,
        data=_data(tables.get("data", {}), tables.get("kinds", {}), path),
        attributes=_attributes(tables.get("attributes", {}), path),
    )
    paths: dict[str, Any] = {name: _within(folder, getattr(settings, name)) for name in _PATHS}
    return replace(settings, ledger=_address(folder, settings.ledger), **paths)


def check_ledger(settings: SiloSettings, terms: "LedgerTerms") -> None:
    """Refuse a ledger that does not fit silo.toml.

    Raises:
        ConfigurationError: another silo's; terms of another delta or overlap; or seeded noise where the ledger is
            not a simulation's, and the reverse. Only federations that came later may declare other numbers of users.
    """
    facts = {
        "silo": (terms.silo, settings.name),
        "delta": (terms.guarantee.delta, settings.agreed.delta),
        "max-silos-per-user": (terms.guarantee.max_silos_per_user, settings.agreed.max_silos_per_user),
        "simulated": (terms.simulated, settings.simulated),
    }
    if not settings.federation:
        facts["declared-users"] = (terms.declared_users, settings.agreed.declared_users)
    for name, (expected, got) in facts.items():
        if expected != got:
            raise ConfigurationError(
                f"Expected {name} {expected} in silo.toml, as in the first entry of its ledger, got {got}. "
                "Terms of a ledger never change: start a silo anew for others."
            )


def moment(text: str, *, name: str = "time") -> int | None:
    """Nanoseconds since 1970 of a date or time, UTC where it says nothing else; None for "".

    >>> moment("1970-01-02"), moment("")
    (86400000000000, None)
    """
    if not text:
        return None
    found = moment_of_text(text)
    if found == UNREADABLE:
        raise ConfigurationError(f"Expected {name} as 2026-01-31 or 2026-01-31T12:00:00Z, got {text!r}.")
    return found


def _schedule(table: Mapping[str, Any], path: Path) -> ScheduleSettings:
    plain = {key: v.isoformat() if isinstance(v, date | datetime) else v for key, v in table.items()}
    missing = {"trainings", "spacing-days"} - plain.keys()
    if missing:
        raise ConfigurationError(f"Expected {' and '.join(sorted(missing))} in [schedule] of {path}.")
    return parse_table(ScheduleSettings, plain, place=f"[schedule] in {path}")


def _data(table: Mapping[str, Any], kinds: Mapping[str, Any], path: Path) -> DataSettings:
    folder = path.parent
    plain = {key: v.isoformat() if isinstance(v, date | datetime) else v for key, v in table.items()}
    # Positions of columns may be written as numbers.
    plain |= {role: str(plain[role]) for role in COLUMN_ROLES if isinstance(plain.get(role), int)}
    data = parse_table(DataSettings, plain, place=f"[data] in {path}", kinds=dict(kinds))
    return replace(
        data,
        path=_within(folder, data.path),
        url=_address(folder, data.url) if data.url else "",
        blocks=_within(folder, data.blocks),
    )


def _attributes(table: Mapping[str, Any], path: Path) -> AttributeSettings:
    attributes = parse_table(AttributeSettings, table, place=f"[attributes] in {path}")
    return replace(attributes, path=_within(path.parent, attributes.path))


def _within(folder: Path, text: str) -> str:
    """A path relative to the settings' folder."""
    return str((folder / Path(text).expanduser()).resolve()) if text else ""


def _address(folder: Path, text: str) -> str:
    """A database's URL as it is; a path relative to the settings' folder."""
    return text if "://" in text else _within(folder, text)
