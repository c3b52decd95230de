"""Forgetting to its end: until the last copy of what was removed is gone, and a receipt that says when."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

from recsys_fed.errors import ConfigurationError, StoreBusyError
from recsys_fed.serving._writer import FeedbackWriter
from recsys_fed.serving.store import FeedbackStore

T = TypeVar("T")
# A request waits so long for the store, and no longer.
_STORE_SECONDS = 2.0
# And for the files to be rewritten before the answer says that this is still to come.
_ERASURE_SECONDS = 2.0
# Writing the tables anew takes at most one part in so many of the time.
_ERASE_SHARE = 5.0
FORGET_STATEMENT = (
    "Models that were released before hold no vector, history or id of any user. What this user added to their sums "
    "cannot be taken out again; the guarantee bounds what anybody can learn of it. This service hands the user's "
    "events to no further round, and takes in no more of them. A silo whose silo.toml names this service leaves the "
    "user out of every later training; `silo opt-out add` does so for any silo, and takes the user out of what the "
    "silo keeps. If the silo's own database has the user's events too, remove them there."
)


async def in_time(work: Awaitable[T]) -> T:
    """Wait for the store as long as a request may; what could not begin by then is not done afterwards.

    Raises:
        StoreBusyError: it took longer.
    """
    try:
        async with asyncio.timeout(_STORE_SECONDS):
            return await work
    except TimeoutError as error:
        raise StoreBusyError(
            f"The store did not answer within {_STORE_SECONDS:g} s. Send the request again."
        ) from error


class Forgetting:
    """Owned by one event loop. Removing the last copies waits until nobody reads an older state (see `erasure`)."""

    def __init__(self, store: FeedbackStore, writer: FeedbackWriter) -> None:
        self._store, self._writer = store, writer
        self._one = asyncio.Lock()
        self._next = 0.0
        self._passes: set[asyncio.Task[None]] = set()

    async def finish(self, receipt: str) -> dict[str, Any]:
        """Remove the last copies of a user who was just removed; returns what `receipt` does.

        "done", or "pending" where somebody still reads an older state: then `erase_pending` goes on.
        """
        erasing = asyncio.create_task(self._pass())
        self._passes.add(erasing)
        erasing.add_done_callback(self._passes.discard)
        await asyncio.wait({erasing}, timeout=_ERASURE_SECONDS)
        return await self.receipt(receipt)

    async def receipt(self, receipt: str) -> dict[str, Any]:
        """What became of a request to forget. Raises ConfigurationError for an unknown receipt."""
        note = self._store.receipt(receipt)
        if note is None:
            raise ConfigurationError("Expected the receipt of a request to forget, got an unknown one.")
        return {
            "receipt": receipt,
            "state": "pending" if note.erased is None else "done",
            "forgotten": note.time,
            "erased": note.erased,
            "remains": await in_time(asyncio.to_thread(self._store.remains)),
        }

    async def erase_pending(self) -> None:
        """Remove the last copies of what was forgotten, where that is still to be done."""
        if self._store.waiting_receipts():
            await self._pass()

    async def _pass(self) -> None:
        async with self._one:
            if not self._store.waiting_receipts():
                return
            await asyncio.sleep(max(0.0, self._next - time.monotonic()))
            began = time.monotonic()
            try:
                await asyncio.wrap_future(self._writer.erase_forgotten())
            except StoreBusyError:
                # Somebody holds a lock: it is tried again.
                return
            finally:
                now = time.monotonic()
                self._next = now + (_ERASE_SHARE - 1.0) * (now - began)
