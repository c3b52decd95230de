"""JSON lines: an object a line, whose fields are found by their names; a line that is no object is malformed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from recsys_fed.data.readers.lines import LONGEST_LINE, line_blocks, open_text
from recsys_fed.data.readers.reading import Block, Blocks
from recsys_fed.data.readers.roles import Roles, find_roles
from recsys_fed.errors import DataFormatError

# Objects whose fields are looked at.
_FIRST = 100


def json_roles(
    path: Path, columns: Mapping[str, str], *, encoding: str, usual: Sequence[str], needed: Sequence[str]
) -> tuple[Roles, tuple[str, ...]]:
    """Roles of the fields of the first objects, and the names of their fields.

    Fields that are named need no object: which fields one has may follow from somebody's row.

    Raises:
        MissingColumnError: a field that is needed is neither named nor found.
        DataFormatError: none of the first lines is an object.
    """
    named = {role: name for role, name in columns.items() if name}
    open_roles = [role for role in usual if role not in columns]
    if set(needed) <= set(named) and not open_roles:
        names = tuple(dict.fromkeys(named.values()))
        return find_roles(names, named, place=str(path), public=False), names
    with open_text(path, encoding) as (file, _):
        lines = [file.readline(LONGEST_LINE).rstrip(b"\r\n") for _ in range(_FIRST)]
    objects = [found for found in map(_object, lines) if found is not None]
    if not objects:
        raise DataFormatError(f"Expected JSON lines in {path}, an object a line; its first {_FIRST} hold none.")
    names = tuple(dict.fromkeys([*(name for found in objects for name in found), *named.values()]))
    # Somebody's id may be a name, as in {"ann": ["book"]}.
    return find_roles(names, columns, place=str(path), usual=usual, needed=needed, public=False), names


def json_blocks(path: Path, roles: Roles, names: Sequence[str], *, encoding: str, block_rows: int) -> Blocks:
    """The objects of a file, at most `block_rows` at a time; a field that an object lacks is an empty cell."""
    for lines, numbers in line_blocks(path, encoding=encoding, block_rows=block_rows):
        objects = [_object(line) if len(line) <= LONGEST_LINE else None for line in lines.to_pylist()]
        good = [found for found in objects if found is not None]
        yield Block(
            well_formed=np.array([found is not None for found in objects], dtype=bool),
            cells={role: [found.get(names[at]) for found in good] for role, at in roles.at.items()},
            numbers=numbers,
            unit="line",
            positions=roles.positions,
        )


def _object(line: bytes) -> dict[str, object] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
