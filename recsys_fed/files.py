"""Files that readers see whole: what was there, or all of what is new, also after a power failure."""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

OWNER_ONLY = 0o600


@contextmanager
def whole_file(path: Path, *, mode: int = 0o666, new: bool = False) -> Iterator[BinaryIO]:
    """A file to write to, which is at `path` once the block has ended; nothing changes there if it fails.

    Args:
        path: its folder must be there.
        mode: permissions, less those that the process masks.
        new: refuse a file that is there (FileExistsError) rather than take its place.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    # Of a process of the same number that was killed.
    partial.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if new:
            os.link(partial, path)
        else:
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def held(path: Path, *, wait: bool = False) -> Iterator[str]:
    """A lock while the block runs, gone with the process whatever ends it. Gives "" where it is held.

    Without `wait`, what another process that holds it has written there instead: its process id.
    """
    with path.open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            yield file.read().strip() or "?"
            return
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield ""


def write_whole(path: Path, content: bytes | str, *, mode: int = 0o666, new: bool = False) -> None:
    """Write bytes, or text as UTF-8; see `whole_file`."""
    with whole_file(path, mode=mode, new=new) as file:
        file.write(content.encode() if isinstance(content, str) else content)
