"""Where people read: streams that take any text, a console that cuts no line, tables that lose no word, progress.

Into a pipe or a file goes a table as wide as it is. In a terminal it fits: columns wrap between words, and where not
even the longest words have room side by side, the table goes on below with the columns that are left. How far a long
command is stands on standard error: a bar or a spinner in a terminal, else plain lines, not too many.
"""

import codecs
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from recsys_fed.report._page import Section
from recsys_fed.report._page import Table as Rows

if TYPE_CHECKING:
    from recsys_fed.simulation.runner import Progress

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


_MOODS = {"good": "bold green", "bad": "bold red", "plain": "bold"}


def print_sections(sections: Iterable[Section], console: Console | None = None) -> None:
    """Print sections of a report: verdicts, paragraphs and tables. Charts and folded tables are for a page."""
    console = console or new_console()
    for section in sections:
        console.print(section.title, style="bold underline", markup=False, highlight=False)
        for verdict in section.verdicts:
            console.print(verdict.text, style=_MOODS[verdict.mood], markup=False, highlight=False)
        for paragraph in section.paragraphs:
            console.print(paragraph, markup=False, highlight=False)
        for table in section.tables:
            console.print(table.caption, style="dim", markup=False, highlight=False)
            print_rows(console, table)


def print_rows(console: Console, rows: Rows) -> None:
    """Print a table of a report."""
    table = new_table(*rows.header, right=[rows.header[column] for column in rows.numeric])
    for row in rows.rows:
        table.add_row(*map(Text, row))
    print_table(console, table, keys=rows.keys)


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


# Seconds between two lines where nobody watches a terminal.
PAUSE = 3.0
_SPINNER = "line"  # ASCII, as not every terminal has more.


class _PlainLines:
    """Prints what is new, at most a line every `pause` seconds; of several within a pause, the last, at its end."""

    def __init__(self, write: Callable[[str], None], *, pause: float = PAUSE) -> None:
        self._write, self._pause = write, pause
        self._lock = threading.RLock()
        self._last, self._next = "", 0.0
        self._timer: threading.Timer | None = None

    def tell(self, line: str) -> None:
        """Say where the command is now."""
        with self._lock:
            self._drop()
            wait = self._next - time.monotonic()
            if line == self._last:
                return
            if wait <= 0:
                self._print(line)
                return
            self._timer = threading.Timer(wait, self._print, [line])
            self._timer.daemon = True
            self._timer.start()

    def close(self) -> None:
        """Say nothing more: what waits was overtaken by the end."""
        with self._lock:
            self._drop()
            self._next = float("inf")

    def _print(self, line: str) -> None:
        with self._lock:
            if line != self._last and self._next != float("inf"):
                self._write(line)
                self._last, self._next = line, time.monotonic() + self._pause

    def _drop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


@contextmanager
def show_line(console: Console) -> Iterator[Callable[[str], None]]:
    """Take lines that replace each other: behind a spinner in a terminal, else as `_PlainLines`."""
    if console.is_terminal:
        with console.status("", spinner=_SPINNER) as status:
            yield status.update
        return
    lines = _PlainLines(partial(console.print, markup=False, highlight=False))
    try:
        yield lines.tell
    finally:
        lines.close()


@contextmanager
def show_progress(console: Console) -> Iterator["Progress"]:
    """Take the progress of a command: bars of rounds and silos in a terminal, else lines, "step 3 of 12: ..."."""
    from recsys_fed.simulation.runner import Progress  # noqa: PLC0415  (slow to import, and most commands need none)

    if console.is_terminal:
        with _bars(console) as progress:
            yield progress
        return
    say = partial(console.print, markup=False, highlight=False)
    with show_line(console) as tell:
        current = [""]

        def step(number: int, planned: int, name: str) -> None:
            current[0] = f"step {number} of {planned}: {name}"
            tell(current[0])

        def releases(done: int, planned: int, n_silos: int) -> None:
            if planned:
                tell(f"{current[0]}, round {-(-done // n_silos)} of {planned // n_silos}")

        yield Progress(step=step, releases=releases, say=say)


@contextmanager
def _bars(console: Console) -> Iterator["Progress"]:
    from recsys_fed.simulation.runner import Progress  # noqa: PLC0415  (slow to import, and most commands need none)

    columns = (SpinnerColumn(_SPINNER), TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn())
    with Bars(*columns, TimeElapsedColumn(), console=console, transient=True) as bars:
        steps = bars.add_task("", total=None)
        rounds = bars.add_task("rounds", total=None, visible=False)
        silos = bars.add_task("silos", total=None, visible=False)

        def step(number: int, planned: int, name: str) -> None:
            bars.update(steps, description=name, completed=number - 1, total=planned)
            for task in (rounds, silos):
                bars.update(task, visible=False)

        def releases(done: int, planned: int, n_silos: int) -> None:
            bars.update(rounds, completed=done // n_silos, total=planned // n_silos or None, visible=True)
            bars.update(silos, completed=(done - 1) % n_silos + 1 if done else 0, total=n_silos, visible=True)

        yield Progress(step=step, releases=releases, say=partial(console.print, markup=False))
