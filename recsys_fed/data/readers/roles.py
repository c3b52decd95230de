"""Which column of a table is which: by the names that were given, else by usual ones; a fact of its header alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from recsys_fed.errors import ConfigurationError, MissingColumnError

ROLES = ("user", "item", "value", "time", "kind", "test")
PRODUCT_ROLES = ("item", "title", "categories", "text")

# The usual names of each column, compared without case, underscores, hyphens and blanks; the first that is there.
_USUAL: dict[str, tuple[str, ...]] = {
    "user": (
        "user",
        "userid",
        "uid",
        "customer",
        "customerid",
        "visitorid",
        "reviewerid",
        "memberid",
        "accountid",
        "clientid",
    ),
    "item": (
        "item",
        "itemid",
        "iid",
        "movieid",
        "productid",
        "trackid",
        "songid",
        "artistid",
        "bookid",
        "newsid",
        "articleid",
        "sku",
        "parentasin",
        "asin",
        "isbn",
        "gameid",
        "businessid",
        "contentid",
    ),
    "value": ("value", "rating", "score", "stars", "overall", "count", "plays", "playcount", "weight"),
    "time": (
        "time",
        "timestamp",
        "unixtime",
        "unixreviewtime",
        "ts",
        "datetime",
        "eventtime",
        "createdat",
        "dateadded",
        "date",
        "timerank",
    ),
    "kind": ("kind", "event", "eventtype", "eventkind", "behavior", "behaviortype", "action", "actiontype", "type"),
    "title": ("title", "name", "movietitle", "itemname", "booktitle"),
    "categories": ("categories", "category", "genres", "genre", "class"),
    "text": ("text", "description", "abstract", "overview", "plot"),
}
# Names of columns that hold places in an order.
_POSITIONS = ("timerank", "rank", "position", "order", "sequence", "seq", "step")


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Columns by their roles.

    Attributes:
        at: role -> position of its column, from 0.
        positions: whether the times are places in an order.
    """

    at: Mapping[str, int]
    positions: bool = False


def find_roles(
    names: Sequence[str],
    asked: Mapping[str, str],
    *,
    place: str,
    usual: Sequence[str] = (),
    needed: Sequence[str] = ("user", "item"),
    public: bool = True,
) -> Roles:
    """Roles of columns by their names.

    Args:
        names: of all columns, in their order.
        asked: role -> name of its column; "" means none.
        place: of the table, for messages.
        usual: roles that are found by usual names where `asked` is silent.
        needed: roles without which there is nothing to read.
        public: whether the names may stand in a message: those of a text file may be somebody's first row.

    Raises:
        MissingColumnError: a column that was asked for or is needed is not there, or stands there twice.
    """
    found: dict[str, int] = {}
    for role in (*asked, *(role for role in usual if role not in asked)):
        name = asked.get(role)
        if name is None:
            place_of = {_plain(there): at for at, there in reversed(list(enumerate(names)))}
            at = next((place_of[one] for one in _USUAL.get(role, ()) if one in place_of), None)
            if at is not None:
                found[role] = at
        elif name:
            found[role] = _named(name, names, place=place, public=public)
    missing = [role for role in needed if role not in found]
    if missing:
        raise MissingColumnError(
            f"Expected a column for {' and '.join(missing)} in {place}, got {_listed(names, public)}. Name it: "
            f"{_example(needed)}; by number (from 0) if the first line is no header."
        )
    time = found.get("time")
    return Roles(at=found, positions=time is not None and are_positions(names[time]))


def are_positions(name: str) -> bool:
    """Whether a column of this name holds places in an order, and no clock times."""
    return _plain(name) in _POSITIONS


def numbered_roles(asked: Mapping[str, str], *, place: str, needed: Sequence[str] = ("user", "item")) -> Roles:
    """Roles of columns that are given by their positions.

    Raises:
        ConfigurationError: one is not, or one that is needed is not given.
    """
    given = {role: text for role, text in asked.items() if text}
    if not all(text.isdecimal() for text in given.values()) or not set(needed) <= set(given):
        raise ConfigurationError(
            f"Expected columns as numbers from 0 for {place}, which has no header ({_example(needed)})."
        )
    return Roles(at={role: int(text) for role, text in given.items()})


def are_numbers(asked: Mapping[str, str]) -> bool:
    """Whether all columns that were asked for are given by their positions."""
    given = [text for text in asked.values() if text]
    return bool(given) and all(text.isdecimal() for text in given)


def _named(name: str, names: Sequence[str], *, place: str, public: bool) -> int:
    same = [at for at, there in enumerate(names) if there == name]
    if not same and name.isdecimal() and int(name) < len(names):
        return int(name)
    if not same:
        near = get_close_matches(name, names, n=1, cutoff=0.8)
        hint = f" Did you mean {near[0]}?" if near and public else ""
        raise MissingColumnError(f"Expected the column {name} in {place}, got {_listed(names, public)}.{hint}")
    if len(same) > 1:
        raise MissingColumnError(
            f"Expected the column {name} once in {place}, it stands there {len(same)} times: give its position."
        )
    return same[0]


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter not in "_- ")


def _listed(names: Sequence[str], public: bool) -> str:
    """The names; of those that may be a row of data only how many they are, and which are usual."""
    if public:
        return ", ".join(names)
    every = {name for usual in _USUAL.values() for name in usual}
    usual = [name for name in names if _plain(name) in every]
    return f"{len(names)} fields in its first line" + (f", among them {', '.join(usual)}" if usual else "")


def _example(needed: Sequence[str]) -> str:
    if "user" in needed:
        return "--columns user=NAME,item=NAME, or user = and item = under [data] of silo.toml"
    return "--columns item=NAME"


def check_roles(asked: Mapping[str, str], known: Sequence[str]) -> None:
    """Refuse a role that there is not.

    Raises:
        ConfigurationError: there is one.
    """
    unknown = [role for role in asked if role not in known]
    if unknown:
        raise ConfigurationError(f"Expected columns for {', '.join(known)}, got one for {', '.join(unknown)}.")
