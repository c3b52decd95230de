"""Where people read: streams that take any text, a console that cuts no line, and tables that lose no word.

Into a pipe or a file goes a table as wide as it is. In a terminal it fits: columns wrap between words, and where not
even the longest words have room side by side, the table goes on below with the columns that are left.
"""

import codecs
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

# Longer words, such as keys and paths, may be folded.
_LONGEST_WORD = 24
# What stands for our own characters where a terminal lacks them; others become a question mark.
_SUBSTITUTES = {"±": "+-", "█": "#", "░": ".", "━": "-", "╸": "-", "╺": "-", "…": "...", "–": "-", "’": "'"}
_ON_ENCODING = "recsys-fed.substitute"


def let_streams_take_any_text() -> None:
    """Let standard output and standard error replace what their encoding lacks, so that no text ends a command."""
    codecs.register_error(_ON_ENCODING, _substitute)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_ON_ENCODING)


def _substitute(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_SUBSTITUTES.get(c, "?") for c in error.object[error.start : error.end]), error.end


def new_console(*, stderr: bool = False, **settings: Any) -> Console:
    """A console whose lines are broken by the terminal, so that a path can be copied, and not at all in a pipe."""
    return Console(stderr=stderr, soft_wrap=True, **settings)


def new_table(*headings: str, right: Sequence[str] = (), **settings: Any) -> Table:
    """A table with these columns; those in `right` are figures under each other."""
    table = Table(**settings)
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    return table


def print_table(console: Console, table: Table, *, keys: int = 1) -> None:
    """Print a table with every word of it.

    Args:
        console: a terminal, or whatever standard output is.
        table: with columns of text.
        keys: columns at the left that tell rows apart; they stand before every part of a table that is parted.
    """
    if not console.is_terminal:
        _print_in(console, table, max(console.width, _width(console, table)))
        return
    if _width(console, table) > console.width:
        table.box, table.padding = box.SIMPLE_HEAD, (0, 1, 0, 0)
    for part in _parts(console, table, keys):
        for column, width in zip(part.columns, _widths(console, part), strict=True):
            column.width = width
        _print_in(console, part, console.width)


def _print_in(console: Console, table: Table, width: int) -> None:
    table.width = min(width, _width(console, table))
    console.print(table, soft_wrap=False, crop=False)


def _width(console: Console, table: Table) -> int:
    """Columns of the screen that a table takes where none of its cells wraps."""
    return Measurement.get(console, console.options.update(max_width=1 << 16), table).maximum


def _limits(console: Console, table: Table) -> list[tuple[int, int]]:
    """Of each column, the longest word (as far as it is kept whole) and the longest cell."""
    options = console.options.update(max_width=1 << 16)
    limits = []
    for column in table.columns:
        cells = [Measurement.get(console, options, cell) for cell in (column.header, *column.cells)]
        widest = max(cell.maximum for cell in cells)
        limits.append((min(max(cell.minimum for cell in cells), _LONGEST_WORD), widest))
    return limits


def _widths(console: Console, table: Table) -> list[int]:
    """Widths that fit the console: longest words first, and what is left for whoever is shortest of room."""
    limits = _limits(console, table)
    frame = _width(console, table) - sum(widest for _, widest in limits)
    widths = [least for least, _ in limits]
    while sum(widths) + frame < console.width:
        short = [number for number, (_, widest) in enumerate(limits) if widths[number] < widest]
        if not short:
            break
        widths[min(short, key=lambda number: widths[number] / limits[number][1])] += 1
    return widths


def _parts(console: Console, table: Table, keys: int) -> Iterator[Table]:
    """The table, or several of its columns each that fit beside its keys."""
    limits = _limits(console, table)
    gaps = _width(console, table) - sum(widest for _, widest in limits)
    cost = [least + gaps / len(limits) for least, _ in limits]
    bounds, used = [keys], sum(cost[:keys])
    for number in range(keys, len(cost)):
        used += cost[number]
        if used > console.width and number > bounds[-1]:
            bounds.append(number)
            used = sum(cost[:keys]) + cost[number]
    if len(bounds) == 1:
        yield table
        return
    for start, end in pairwise([*bounds, len(cost)]):
        yield _columns_of(table, [*range(keys), *range(start, end)])


def _columns_of(table: Table, numbers: Sequence[int]) -> Table:
    settings: Mapping[str, Any] = {"title": table.title, "box": table.box, "padding": table.padding}
    part = Table(**settings)
    for number in numbers:
        column = table.columns[number]
        part.add_column(column.header, justify=column.justify, overflow="fold")
    for cells in zip(*(table.columns[number].cells for number in numbers), strict=True):
        part.add_row(*cells)
    return part
