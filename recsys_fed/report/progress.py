"""How far a long command is, on standard error: a bar or a spinner in a terminal, else plain lines, not too many."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from recsys_fed.simulation.progress import Progress

# Seconds between two lines where nobody watches a terminal.
PAUSE = 3.0
_SPINNER = "line"  # ASCII, as not every terminal has more.


class PlainLines:
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
def told_line(console: Console) -> Iterator[Callable[[str], None]]:
    """Take lines that replace each other: behind a spinner in a terminal, else as `PlainLines`."""
    if console.is_terminal:
        with console.status("", spinner=_SPINNER) as status:
            yield status.update
        return
    lines = PlainLines(partial(console.print, markup=False, highlight=False))
    try:
        yield lines.tell
    finally:
        lines.close()


@contextmanager
def told_progress(console: Console) -> Iterator[Progress]:
    """Take the progress of a command: bars of rounds and silos in a terminal, else lines, "step 3 of 12: ..."."""
    if console.is_terminal:
        with _bars(console) as progress:
            yield progress
        return
    say = partial(console.print, markup=False, highlight=False)
    with told_line(console) as tell:
        current = [""]

        def step(number: int, planned: int, name: str) -> None:
            current[0] = f"step {number} of {planned}: {name}"
            tell(current[0])

        def releases(done: int, planned: int, n_silos: int) -> None:
            if planned:
                tell(f"{current[0]}, round {-(-done // n_silos)} of {planned // n_silos}")

        yield Progress(step=step, releases=releases, say=say)


@contextmanager
def _bars(console: Console) -> Iterator[Progress]:
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
