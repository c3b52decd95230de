"""How far a long command is: steps out of those planned, and within a step releases of silos."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from recsys_fed.federation.run_files import EVENTS, FEDERATION


def _nothing(*_: object) -> None:
    """Heed nothing."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a caller wants to hear while a simulation, a comparison or an audit runs.

    Attributes:
        step: called with the number of a step, of how many, and its name, as it begins.
        releases: called with the releases of silos so far, of how many planned, and the number of silos.
        say: called with a line for people.
    """

    step: Callable[[int, int, str], None] = _nothing
    releases: Callable[[int, int, int], None] = _nothing
    say: Callable[[str], None] = _nothing


class Steps:
    """Numbers steps as they begin."""

    def __init__(self, planned: int, progress: Progress) -> None:
        self._planned, self._progress = planned, progress
        self._begun = 0

    def begin(self, name: str) -> None:
        """Announce the next step."""
        self._begun += 1
        self._progress.step(self._begun, self._planned, name)


@contextmanager
def timed(name: str, seconds: dict[str, float], steps: Steps) -> Iterator[None]:
    """Announce a step and keep how long it took."""
    steps.begin(name)
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = time.perf_counter() - start


class ReleaseCounter:
    """Counts releases of a run, from replies as they come or from the server's own files."""

    def __init__(self, folder: Path, silos: int, progress: Progress) -> None:
        self._folder, self._silos, self._progress = folder, silos, progress
        self._planned = 0
        self._done = 0
        self._lock = threading.Lock()

    def count(self) -> None:
        """One more silo has answered a round."""
        with self._lock:
            self._done += 1
            self._report()

    def look(self) -> None:
        """Read from the server's files how far the run is."""
        events = self._folder / EVENTS
        done = events.read_text().count("\n") if events.is_file() else 0
        if done != self._done:
            self._done = done
            self._report()

    def _report(self) -> None:
        plan = self._folder / FEDERATION
        if not self._planned and plan.is_file():
            self._planned = json.loads(plan.read_text())["planned_rounds"] * self._silos
        self._progress.releases(self._done, self._planned, self._silos)
