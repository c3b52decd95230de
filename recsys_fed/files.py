"""Files that readers see whole: what was there, or all of what is new, also after a power failure.

An error of the system that comes from writing names the file, also where the system does not: OSError.
"""

import errno
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
    with _naming(path, partial):
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
def _naming(path: Path, partial: Path | None = None) -> Iterator[None]:
    """Errors of a file that is open have no name, and that of a partial file says nothing to anybody."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(partial)):
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


@contextmanager
def file_lock(path: Path, *, wait: bool = False) -> Iterator[str]:
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


def append_lines(path: Path, lines: str, *, mode: int = 0o666) -> None:
    """Add lines to a file: when this returns all of them are on the disk, after an OSError none is there."""
    with _naming(path), os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, mode), "r+b", buffering=0) as file:
        # Of two processes that cut and write at once, one would lose what the other has added.
        fcntl.flock(file, fcntl.LOCK_EX)
        end = file.seek(0, os.SEEK_END)
        try:
            content = lines.encode()
            if file.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise
