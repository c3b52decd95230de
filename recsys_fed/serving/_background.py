"""Work that the service does by itself, again and again: it survives whatever goes wrong, and says so."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from recsys_fed.errors import RecsysFedError

_log = logging.getLogger("recsys_fed.serving")
_LONGEST_PAUSE = 60.0


@dataclass(kw_only=True)
class _Work:
    do: Callable[[], Awaitable[object]]
    every: float
    failures: int = 0
    problem: str = ""
    task: "asyncio.Task[None] | None" = None


class BackgroundWork:
    """Tasks of one event loop.

    Guarantees: an error of a task never ends it: it is tried again, after a pause that grows up to a minute.
    `state` says which tasks fail, and with what kind of error; what the error says goes to the log alone, and only
    where it is one of the library's own, which hold no private values.
    """

    def __init__(self) -> None:
        self._works: dict[str, _Work] = {}

    def start(self, name: str, do: Callable[[], Awaitable[object]], *, every: float) -> None:
        """Call `do` every so many seconds from now on."""
        work = _Work(do=do, every=every)
        self._works[name] = work
        work.task = asyncio.create_task(self._repeat(name, work), name=name)

    def state(self) -> dict[str, str]:
        """Of each task "ok", or what is wrong with it."""
        return {name: self._state_of(work) for name, work in self._works.items()}

    async def stop(self) -> None:
        """End all tasks."""
        for work in self._works.values():
            if work.task is not None:
                work.task.cancel()
                with suppress(asyncio.CancelledError):
                    await work.task

    async def _repeat(self, name: str, work: _Work) -> None:
        while True:
            await asyncio.sleep(min(work.every * 2 ** min(work.failures, 16), max(work.every, _LONGEST_PAUSE)))
            try:
                await work.do()
            except Exception as error:  # noqa: BLE001  (whatever it is, the task goes on)
                work.failures += 1
                work.problem = type(error).__name__
                _log.error("%s failed: %s", name, error if isinstance(error, RecsysFedError) else work.problem)
            else:
                work.failures, work.problem = 0, ""

    @staticmethod
    def _state_of(work: _Work) -> str:
        if work.task is None or work.task.done():
            return "ended"
        return f"failing ({work.problem}, {work.failures} times)" if work.failures else "ok"
