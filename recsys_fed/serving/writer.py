"""One thread that writes: whatever waits is committed together, and each caller hears of it after the commit."""

import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from recsys_fed.errors import DataError, RecsysFedError
from recsys_fed.serving.events import Event
from recsys_fed.serving.store import FeedbackStore

_TOGETHER = 512


@dataclass(frozen=True, kw_only=True, eq=False)
class _Task:
    """Something to do in a transaction, and who waits for its result."""

    do: Callable[[sa.Connection], Any]
    done: "Future[Any]"


class FeedbackWriter:
    """Writes to a store in the order in which it is asked.

    Guarantees: a future is resolved after its transaction is durable, never before; tasks are done in the order of
    the calls, so whoever forgets a user after handing in events removes those events too.
    """

    def __init__(self, store: FeedbackStore) -> None:
        self._store = store
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="feedback-writer", daemon=True)
        self._thread.start()

    def append(self, event: Event) -> "Future[int | None]":
        """Add an event; the result is its number, or None if its key is there already."""
        return self._submit(lambda connection: self._store.append(connection, event))

    def expose(self, row: Mapping[str, Any]) -> "Future[None]":
        """Log what was shown; nobody needs to wait for it."""
        return self._submit(lambda connection: self._store.log_exposures(connection, [row]))

    def put_aside(self, user: str, *, since: float) -> "Future[int]":
        """Mark a user's events as a robot's."""
        return self._submit(lambda connection: self._store.put_aside(connection, user, since=since))

    def forget(self, user: str) -> "Future[dict[str, int]]":
        """Remove a user."""
        return self._submit(lambda connection: self._store.forget(connection, user, time=time.time()))

    def close(self) -> None:
        """Write what waits, and stop."""
        self._tasks.put(None)
        self._thread.join()

    def _submit(self, do: Callable[[sa.Connection], Any]) -> "Future[Any]":
        done: Future[Any] = Future()
        self._tasks.put(_Task(do=do, done=done))
        return done

    def _run(self) -> None:
        open_ = True
        while open_:
            batch, open_ = self._waiting()
            if batch:
                self._commit(batch)

    def _waiting(self) -> tuple[list[_Task], bool]:
        """Wait for a task, and take along what else is there; False where the writer is closed."""
        batch: list[_Task] = []
        task = self._tasks.get()
        while task is not None:
            batch.append(task)
            if len(batch) == _TOGETHER:
                return batch, True
            try:
                task = self._tasks.get_nowait()
            except queue.Empty:
                return batch, True
        return batch, False

    def _commit(self, batch: list[_Task]) -> None:
        results: list[Any] = []
        try:
            with self._store.writing() as connection:
                results = [task.do(connection) for task in batch]
        except RecsysFedError as error:
            self._fail(batch, error)
        except Exception as error:  # noqa: BLE001  (whatever it was, the callers must hear of it)
            self._fail(batch, DataError(f"Expected to write to the store, got {type(error).__name__}."))
        else:
            for task, result in zip(batch, results, strict=True):
                task.done.set_result(result)

    def _fail(self, batch: list[_Task], error: RecsysFedError) -> None:
        """Nothing of the batch was written. One bad task must not fail the others: they are tried by themselves."""
        if len(batch) == 1:
            batch[0].done.set_exception(error)
            return
        for task in batch:
            self._commit([task])
