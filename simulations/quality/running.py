"""Runs jobs on two processes of one thread each, and keeps what is done, so that it can go on after a stop.

What is kept counts only for the code that made it: it lies in a folder named by the digest of the sources that a run
reads, and of the versions installed.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from recsys_fed.versions import versions

ROOT = Path(__file__).resolve().parents[2]
WORKERS = 2
# Then a worker starts afresh, so that its memory stays what a few runs need.
_TASKS = 40
# Rooms that no run enters.
APART = ("audit", "cli", "comparison", "deployment", "report", "serving")
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Job:
    """Something to be computed: a function's name in `simulations.quality.work`, and its arguments as JSON.

    Attributes:
        work: name of the function.
        arguments: for it; they name the result.
    """

    work: str
    arguments: Mapping[str, Any]

    @property
    def name(self) -> str:
        """A file name that follows from all of it."""
        text = json.dumps([self.work, self.arguments], sort_keys=True)
        return f"{self.work}-{hashlib.sha256(text.encode()).hexdigest()[:20]}.json"


def kept_folder(base: Path) -> Path:
    """Where results of the code as it stands are kept."""
    digest = hashlib.sha256(json.dumps(versions(), sort_keys=True).encode())
    for room in ("recsys_fed", "server", "client"):
        for path in sorted((ROOT / room).rglob("*.py")):
            if path.relative_to(ROOT / room).parts[0] not in APART:
                digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    folder = base / digest.hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def results(
    jobs: Sequence[Job], folder: Path, *, minutes: float, on_done: Callable[[int, int, str], None]
) -> dict[str, Json]:
    """Compute what is missing within the time given, and return all that is there by the name of its job.

    Args:
        jobs: what is wanted.
        folder: where results are kept.
        minutes: no new batch of jobs begins after them.
        on_done: called with the number done, of how many, and a line for people.
    """
    deadline = time.monotonic() + 60 * minutes
    missing = [job for job in jobs if not (folder / job.name).is_file()]
    done, left = len(jobs) - len(missing), iter(missing)
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn"), max_tasks_per_child=_TASKS) as pool:
        # Few are handed out at a time: those are finished, and the others are left for the next call.
        first = WORKERS + 1 if minutes > 0 else 0
        running = {pool.submit(_finish, job, folder=folder) for job in islice(left, first)}
        while running:
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                done += 1
                on_done(done, len(jobs), future.result())
            if time.monotonic() < deadline:
                running |= {pool.submit(_finish, job, folder=folder) for job in islice(left, len(finished))}
    return {job.name: json.loads((folder / job.name).read_text()) for job in jobs if (folder / job.name).is_file()}


def _finish(job: Job, *, folder: Path) -> str:
    from simulations.quality import work  # noqa: PLC0415  (torch is imported in the workers only)

    result = getattr(work, job.work)(**job.arguments)
    partial_file = (folder / job.name).with_suffix(".part")
    partial_file.write_text(json.dumps(result), encoding="utf-8")
    partial_file.replace(folder / job.name)
    return f"{job.work} {json.dumps(job.arguments)[:90]}"
