"""The one thread that writes to the log: what waits is committed together, and callers hear after the commit."""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from recsys_fed.errors import DataError, RecsysFedError, StoreBusyError
from recsys_fed.serving.history import Event
from recsys_fed.serving.store import FeedbackStore

_TOGETHER = 512


@dataclass(frozen=True, kw_only=True, eq=False)
class _Task:
    """Something to do in a transaction (`do`) or between transactions (`apart`), and who waits for its result."""

    done: "Future[Any]"
    do: Callable[[sa.Connection], Any] | None = None
    apart: Callable[[], Any] | None = None


class FeedbackWriter:
    """Writes to a store in the order in which it is asked.

    Guarantees: a future is resolved after its transaction is durable, never before; tasks are done in the order of
    the calls, so whoever forgets a user after handing in events removes those events too. A future that its caller
    cancelled before its turn is not written.
    """

    def __init__(self, store: FeedbackStore) -> None:
        self._store = store
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="feedback-writer", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def append(self, event: Event) -> "Future[int | None]":
        """Add an event; the result is that of `FeedbackStore.append`."""
        return self._submit(lambda connection: self._store.append(connection, event))

    def append_all(self, batch: Sequence[Event]) -> "Future[list[int | None]]":
        """Add events in one transaction; the result of each."""
        return self._submit(lambda connection: self._store.append_all(connection, batch))

    def expose(self, row: Mapping[str, Any]) -> "Future[None]":
        """Log what was shown; nobody needs to wait for it."""
        return self._submit(lambda connection: self._store.log_exposures(connection, [row]))

    def put_aside(self, user: str, *, since: float) -> "Future[int]":
        """Mark a user's events as a robot's."""
        return self._submit(lambda connection: self._store.put_aside(connection, user, since=since))

    def forget(self, user: str) -> "Future[tuple[dict[str, int], str]]":
        """Remove a user; the result is that of `FeedbackStore.forget`."""
        return self._submit(lambda connection: self._store.forget(connection, user, time=time.time()))

    def readmit(self, user: str) -> "Future[bool]":
        """Take in again what a forgotten user does from now on."""
        return self._submit(lambda connection: self._store.readmit(connection, user, time=time.time()))

    def erase_forgotten(self) -> "Future[bool]":
        """Remove the last copies of what was forgotten, between two transactions."""
        return self._apart(self._store.erase_forgotten)

    def take_noted(self) -> "Future[frozenset[str]]":
        """Forget whom others have noted; the result is that of `FeedbackStore.take_noted`."""
        return self._apart(self._store.take_noted)

    def close(self) -> None:
        """Write what waits, and stop."""
        self._tasks.put(None)
        self._thread.join()

    def _apart(self, do: Callable[[], Any]) -> "Future[Any]":
        done: Future[Any] = Future()
        self._tasks.put(_Task(done=done, apart=do))
        return done

    def _submit(self, do: Callable[[sa.Connection], Any]) -> "Future[Any]":
        done: Future[Any] = Future()
        self._tasks.put(_Task(done=done, do=do))
        return done

    def _run(self) -> None:
        open_ = True
        while open_:
            batch, open_ = self._waiting()
            while batch:
                length = next((n for n, task in enumerate(batch) if task.do is None), len(batch))
                if length:
                    self._commit(batch[:length])
                if length < len(batch):
                    self._do_apart(batch[length])
                batch = batch[length + 1 :]

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
                # The lock is ours. Whoever gave up waiting for it was told that nothing was acknowledged.
                batch = [task for task in batch if _begin(task)]
                results = [task.do(connection) for task in batch if task.do is not None]
        except StoreBusyError as error:
            # That is not the fault of one of them: to try each by itself would only take as long again.
            for task in filter(_begin, batch):
                task.done.set_exception(error)
        except Exception as error:  # noqa: BLE001  (whatever it was, the callers must hear of it)
            self._fail([task for task in batch if _begin(task)], _as_data_error(error))
        else:
            for task, result in zip(batch, results, strict=True):
                task.done.set_result(result)

    def _do_apart(self, task: _Task) -> None:
        if not _begin(task):
            return
        try:
            result = task.apart() if task.apart is not None else None
        except Exception as error:  # noqa: BLE001  (as above)
            task.done.set_exception(_as_data_error(error))
        else:
            task.done.set_result(result)

    def _fail(self, batch: list[_Task], error: RecsysFedError) -> None:
        """Nothing of the batch was written. One bad task must not fail the others: they are tried by themselves."""
        if len(batch) == 1:
            batch[0].done.set_exception(error)
            return
        for task in batch:
            self._commit([task])


def _begin(task: _Task) -> bool:
    """Whether its caller still waits; from now on it can no longer give up."""
    return task.done.running() or task.done.set_running_or_notify_cancel()


def _as_data_error(error: Exception) -> RecsysFedError:
    if isinstance(error, RecsysFedError):
        return error
    return DataError(f"Cannot write to the store: {type(error).__name__}.")
