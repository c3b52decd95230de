"""The service's tables, the same on SQLite and PostgreSQL, and how connections to either are set up.

SQLite runs with a write-ahead log and synchronous = FULL: what is committed survives a power failure. What is
forgotten leaves no copy behind: see `erasure`.
"""

import json
import time
from pathlib import Path

import sqlalchemy as sa

from recsys_fed.database import build_engine, parse_address
from recsys_fed.errors import ConfigurationError
from recsys_fed.serving.history import UNTIMED

_SCHEMA = 2
_CONNECT_SECONDS = 2
_PRAGMAS = ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON")
_BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")

_metadata = sa.MetaData()
events = sa.Table(
    "events",
    _metadata,
    sa.Column("number", _BIG, primary_key=True, autoincrement=True),
    # The id that its source (the name of a token) gave the event: one event of one user from one source.
    sa.Column("event_key", sa.String(128)),
    sa.Column("source", sa.String(128), nullable=False, server_default=""),
    sa.Column("user", sa.String(128), nullable=False),
    sa.Column("item", sa.String(128), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("value", sa.Double),
    # When it happened, as the application says (see `history.Event.time`), and when it came in.
    sa.Column("time", sa.Double, nullable=False),
    sa.Column("received", sa.Double, nullable=False),
    sa.Column("request", sa.String(64)),
    sa.Column("accepted", sa.Boolean, nullable=False),
    # When it was put aside as a robot's, after it had counted.
    sa.Column("aside", sa.Double),
    sa.Index("ix_events_user", "user", "number"),
    sqlite_autoincrement=True,
)
of_source = sa.Index(
    "ix_events_key",
    events.c.user,
    events.c.event_key,
    events.c.source,
    unique=True,
    sqlite_where=events.c.event_key.is_not(None),
    postgresql_where=events.c.event_key.is_not(None),
)
# One row a recommendation that explored or was part of an experiment: what off-policy estimates and tests read.
exposures = sa.Table(
    "exposures",
    _metadata,
    sa.Column("number", _BIG, primary_key=True, autoincrement=True),
    sa.Column("request", sa.String(64), nullable=False, index=True),
    sa.Column("user", sa.String(128), nullable=False, index=True),
    sa.Column("time", sa.Double, nullable=False),
    sa.Column("model", sa.String(64), nullable=False),
    sa.Column("experiment", sa.String(128), nullable=False),
    sa.Column("variant", sa.String(128), nullable=False),
    # The explored place: what was shown, with which probability, and what the model alone would have shown.
    sa.Column("item", sa.String(128)),
    sa.Column("propensity", sa.Double),
    sa.Column("score", sa.Double),
    sa.Column("greedy_item", sa.String(128)),
    sa.Column("greedy_score", sa.Double),
    sa.Column("greedy_propensity", sa.Double),
)
# Shares of an experiment's variants (JSON) from a moment on: whoever sees a first list then is assigned by them.
assignments = sa.Table(
    "assignments",
    _metadata,
    sa.Column("experiment", sa.String(128), primary_key=True),
    sa.Column("since", sa.Double, primary_key=True),
    sa.Column("shares", sa.Text, nullable=False),
)
# Keyed digests of users who were forgotten. `erased`: when the last copy was gone. `readmitted`: since when they
# are taken in again.
forgotten = sa.Table(
    "forgotten",
    _metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("time", sa.Double, nullable=False),
    sa.Column("receipt", sa.String(32), nullable=False, index=True),
    sa.Column("erased", sa.Double),
    sa.Column("readmitted", sa.Double),
)
settings = sa.Table(
    "settings",
    _metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

# What the next training round reads (`data.url` and `data.query` of a silo, or `silo feedback-export`): accepted,
# positive, and not disliked since. The version before wrote 0 for no time, and 0 as received of all that it imported.
TRAINING_VIEW = "training_interactions"
# The service notes its [feedback] rating-minimum here, because a rating below it is a dislike.
RATING_MINIMUM = "rating-minimum"
_VIEW = "4"
_LOW = (
    "{row}.kind = 'rating' AND COALESCE({row}.value < (SELECT CAST(s.value AS DOUBLE PRECISION) "  # noqa: S608
    f"FROM settings s WHERE s.name = '{RATING_MINIMUM}'), FALSE)"
)
_TRAINING_QUERY = f"""
SELECT e."user" AS "user", e.item AS item, COALESCE(e.value, 1.0) AS value,
CASE WHEN e.time > {UNTIMED!r} AND NOT (e.time = 0 AND e.received = 0) THEN e.time END AS time, e.number AS number
FROM events e
WHERE e.accepted AND e.kind IN ('imported', 'click', 'cart', 'like', 'buy', 'rating') AND NOT ({_LOW.format(row="e")})
AND NOT EXISTS (
    SELECT 1 FROM events d
    WHERE d."user" = e."user" AND d.item = e.item AND d.accepted AND d.number > e.number
    AND (d.kind = 'dislike' OR {_LOW.format(row="d")})
)
"""  # noqa: S608  (constants)


def open_engine(address: str, *, lock_seconds: float) -> sa.Engine:
    """An engine for a path of SQLite or a PostgreSQL URL, whose statements wait so long for a lock.

    Raises:
        ConfigurationError: it is neither, or the driver is not installed.
    """
    url = parse_address(address, error=ConfigurationError)
    if url.get_backend_name() != "sqlite":
        waits = {"connect_timeout": _CONNECT_SECONDS, "options": f"-c lock_timeout={round(1e3 * lock_seconds)}"}
        return build_engine(url, error=ConfigurationError, connect=waits)
    if "://" not in address:
        path = Path(url.database or "")
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # SQLite gives its log the mode of the file: what users do is for this account alone.
        path.touch(mode=0o600)
    arguments = {"timeout": lock_seconds, "check_same_thread": False}
    return build_engine(url, error=ConfigurationError, connect=arguments, pragmas=_PRAGMAS)


def create_tables(engine: sa.Engine) -> float:
    """Make what is missing, or turn a database of the version before into one of this: all of it or nothing.

    Returns:
        When this version first opened the database, seconds since 1970: what the version before imported counts as of
        then where it has no time.

    Raises:
        ConfigurationError: it is a database of a newer version.
    """
    with engine.connect() as connection:
        known = _known(connection)
    if known.get("schema") == str(_SCHEMA) and known.get("view") == _VIEW and "opened" in known:
        return float(known["opened"])
    with engine.execution_options(write=True).begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('recsys-fed serving'))")
        known = _known(connection)
        schema = int(known.get("schema", _SCHEMA))
        if schema > _SCHEMA:
            raise ConfigurationError(
                f"Expected tables of schema {_SCHEMA}, got {schema}. Install the version for it."
            )
        if schema < _SCHEMA:
            _from_schema_1(connection)
        _metadata.create_all(connection)
        if schema < _SCHEMA:
            _take_over_events(connection)
        if connection.dialect.name == "postgresql":
            _keep_no_samples(connection)
        _create_view(connection)
        if schema < _SCHEMA:
            connection.exec_driver_sql("DROP TABLE events_before")
        fresh = {"opened": repr(time.time())} | known | {"schema": str(_SCHEMA), "view": _VIEW}
        connection.execute(settings.delete())
        connection.execute(settings.insert(), [{"name": name, "value": value} for name, value in fresh.items()])
    return float(fresh["opened"])


def note_shares(connection: sa.Connection, experiment: str, shares: dict[str, float], *, now: float) -> None:
    """Note the shares of an experiment's variants if they are not those that were noted last."""
    rows = assignments.c
    query = sa.select(rows.shares).where(rows.experiment == experiment).order_by(rows.since.desc()).limit(1)
    text = json.dumps(shares, sort_keys=True)
    if connection.execute(query).scalar() != text:
        connection.execute(assignments.insert().values(experiment=experiment, since=now, shares=text))


def _known(connection: sa.Connection) -> dict[str, str]:
    if not sa.inspect(connection).has_table("settings"):
        return {}
    return {row.name: row.value for row in connection.execute(sa.select(settings))}


def _from_schema_1(connection: sa.Connection) -> None:
    """Move the events out of the way, whose ids were unique over all users; what was forgotten gets a receipt.

    It has no time of erasure yet: so its last copies are erased now.
    """
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(f"DROP VIEW IF EXISTS {TRAINING_VIEW}")
    for statement in (
        "ALTER TABLE events RENAME TO events_before",
        "DROP INDEX ix_events_user",
        "ALTER TABLE forgotten ADD COLUMN receipt VARCHAR(32) NOT NULL DEFAULT ''",
        "ALTER TABLE forgotten ADD COLUMN erased DOUBLE PRECISION",
        "ALTER TABLE forgotten ADD COLUMN readmitted DOUBLE PRECISION",
        "ALTER TABLE exposures ADD COLUMN greedy_propensity DOUBLE PRECISION",
        "UPDATE forgotten SET receipt = SUBSTR(digest, 1, 24)",
        "CREATE INDEX ix_forgotten_receipt ON forgotten (receipt)",
    ):
        connection.exec_driver_sql(statement)


def _take_over_events(connection: sa.Connection) -> None:
    """Copy the events of schema 1. Their ids have no source: they are known again from every one."""
    columns = 'number, event_key, "user", item, kind, value, time, received, request, accepted'
    connection.exec_driver_sql(
        f"INSERT INTO events ({columns}) SELECT {columns} FROM events_before ORDER BY number"  # noqa: S608
    )
    # Numbers that were given once are never given again.
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("DELETE FROM sqlite_sequence WHERE name = 'events'")
        connection.exec_driver_sql(
            "INSERT INTO sqlite_sequence (name, seq) SELECT 'events', seq FROM sqlite_sequence "
            "WHERE name = 'events_before'"
        )
    else:
        connection.exec_driver_sql(
            "SELECT setval(pg_get_serial_sequence('events', 'number'), "
            "nextval(pg_get_serial_sequence('events_before', 'number')))"
        )


def _keep_no_samples(connection: sa.Connection) -> None:
    """PostgreSQL's planner keeps samples of columns where no deletion reaches them: not of these."""
    for table in (events, exposures):
        for column in table.columns:
            if isinstance(column.type, sa.String):
                connection.exec_driver_sql(f'ALTER TABLE {table.name} ALTER COLUMN "{column.name}" SET STATISTICS 0')


def _create_view(connection: sa.Connection) -> None:
    """The view as this version has it. On PostgreSQL it is replaced, so that who may read it stays as it was."""
    replaces = connection.dialect.name != "sqlite"
    if not replaces:
        connection.exec_driver_sql(f"DROP VIEW IF EXISTS {TRAINING_VIEW}")
    create = "CREATE OR REPLACE VIEW" if replaces else "CREATE VIEW"
    connection.exec_driver_sql(f"{create} {TRAINING_VIEW} AS {_TRAINING_QUERY}")
