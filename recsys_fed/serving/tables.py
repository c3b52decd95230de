"""The service's tables, the same on SQLite and PostgreSQL, and how connections to either are set up.

SQLite runs with a write-ahead log and synchronous = FULL: what is committed survives a power failure. Deleted rows
are overwritten (secure_delete), so that what is forgotten is not left in free pages.
"""

import time
from pathlib import Path

import sqlalchemy as sa

from recsys_fed.database import build_engine, parse_address
from recsys_fed.errors import ConfigurationError
from recsys_fed.serving.history import UNTIMED

_SCHEMA = 1
_LOCK_SECONDS = 30.0
_PRAGMAS = ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON")
_BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")

_metadata = sa.MetaData()
events = sa.Table(
    "events",
    _metadata,
    sa.Column("number", _BIG, primary_key=True, autoincrement=True),
    sa.Column("event_key", sa.String(128), unique=True),
    sa.Column("user", sa.String(128), nullable=False),
    sa.Column("item", sa.String(128), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("value", sa.Double),
    # When it happened, as the application says (see `history.Event.time`), and when it came in.
    sa.Column("time", sa.Double, nullable=False),
    sa.Column("received", sa.Double, nullable=False),
    sa.Column("request", sa.String(64)),
    sa.Column("accepted", sa.Boolean, nullable=False),
    sa.Index("ix_events_user", "user", "number"),
    sqlite_autoincrement=True,
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
)
# Keyed digests of users who were forgotten: an import of the silo's interactions leaves them out.
forgotten = sa.Table(
    "forgotten",
    _metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("time", sa.Double, nullable=False),
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
_VIEW = "2"
_TRAINING_QUERY = f"""
SELECT e."user" AS "user", e.item AS item, COALESCE(e.value, 1.0) AS value,
CASE WHEN e.time > {UNTIMED!r} AND NOT (e.time = 0 AND e.received = 0) THEN e.time END AS time, e.number AS number
FROM events e
WHERE e.accepted AND e.kind IN ('imported', 'click', 'like', 'buy', 'rating')
AND NOT EXISTS (
    SELECT 1 FROM events d
    WHERE d."user" = e."user" AND d.item = e.item AND d.kind = 'dislike' AND d.accepted AND d.number > e.number
)
"""  # noqa: S608  (a constant)


def open_engine(address: str) -> sa.Engine:
    """An engine for a path of SQLite or a PostgreSQL URL.

    Raises:
        ConfigurationError: it is neither, or the driver is not installed.
    """
    url = parse_address(address, error=ConfigurationError)
    if url.get_backend_name() != "sqlite":
        return build_engine(url, error=ConfigurationError)
    if "://" not in address:
        path = Path(url.database or "")
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # SQLite gives its log the mode of the file: what users do is for this account alone.
        path.touch(mode=0o600)
    arguments = {"timeout": _LOCK_SECONDS, "check_same_thread": False}
    return build_engine(url, error=ConfigurationError, connect=arguments, pragmas=_PRAGMAS)


def create_tables(engine: sa.Engine) -> float:
    """Make what is missing; no row of an existing database of this schema is changed.

    Returns:
        When this version first opened the database, seconds since 1970: what the version before imported counts as of
        then where it has no time.

    Raises:
        ConfigurationError: it is a database of a newer version.
    """
    with engine.begin() as connection:
        _metadata.create_all(connection)
        known = {row.name: row.value for row in connection.execute(sa.select(settings))}
        if known.get("schema", str(_SCHEMA)) != str(_SCHEMA):
            raise ConfigurationError(
                f"Expected tables of schema {_SCHEMA}, got {known['schema']}. Install the version for it."
            )
        fresh = {"schema": str(_SCHEMA), "opened": repr(time.time())}
        for name in fresh.keys() - known.keys():
            connection.execute(settings.insert().values(name=name, value=fresh[name]))
        if known.get("view") != _VIEW:
            _create_view(connection)
            connection.execute(settings.delete().where(settings.c.name == "view"))
            connection.execute(settings.insert().values(name="view", value=_VIEW))
    return float((fresh | known)["opened"])


def _create_view(connection: sa.Connection) -> None:
    """The view as this version has it. On PostgreSQL it is replaced, so that who may read it stays as it was."""
    replaces = connection.dialect.name != "sqlite"
    if not replaces:
        connection.exec_driver_sql(f"DROP VIEW IF EXISTS {TRAINING_VIEW}")
    create = "CREATE OR REPLACE VIEW" if replaces else "CREATE VIEW"
    connection.exec_driver_sql(f"{create} {TRAINING_VIEW} AS {_TRAINING_QUERY}")
