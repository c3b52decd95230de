"""A disk whose n-th write fails, at the seams that every writer of this project goes through.

Files: opening to write, write (half of it gets there), fsync, rename, link and mkdir. SQLite: the statements that
write and the commit, as the driver reports them. What fails is counted below one folder only.
"""

import errno
import io
import os
import sqlite3.dbapi2
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

ONCE, FULL, UNHEARD = "once", "from then on", "the answer to a commit is lost"
_WRITING = os.O_WRONLY | os.O_RDWR
_STATEMENTS = ("INSERT", "UPDATE", "DELETE", "BEGIN IMMEDIATE", "CREATE")


class FailingDisk:
    """Counts writes below a folder and lets the n-th (from 1) fail.

    Attributes:
        failed: what was to be written where, of each write that failed.
        count: writes so far.
    """

    def __init__(self, folder: Path, *, number: int, how: str = ONCE) -> None:
        self.failed: list[tuple[str, str]] = []
        self.count = 0
        self._folder, self._number, self._how = str(folder.resolve()) + "/", number, how

    def fails(self, what: str, path: object) -> bool:
        """Whether the write that comes now fails."""
        if isinstance(path, int):
            path = Path(f"/proc/self/fd/{path}").readlink()
        # A log that cannot be written never stops what is logged: its lines are not counted.
        if not str(path).startswith(self._folder) or str(path).endswith("log.jsonl"):
            return False
        if self._how == UNHEARD and what != "COMMIT":
            return False
        self.count += 1
        if self.count == self._number or (self._how == FULL and self.count > self._number > 0):
            self.failed.append((what, str(path)))
            return True
        return False

    def check(self, what: str, path: object, code: int = errno.EIO) -> None:
        """Raise what the system would."""
        if self.fails(what, path):
            # Of a file that is open the system says no name.
            raise OSError(code, os.strerror(code), *([] if isinstance(path, int) else [str(path)]))


class _File:
    """An open file whose writes are counted."""

    def __init__(self, file: io.IOBase, disk: FailingDisk) -> None:
        self._file, self._disk = file, disk

    def write(self, data):
        try:
            self._disk.check("write", self._file.fileno(), errno.ENOSPC)
        except OSError:
            self._file.write(data[: len(data) // 2])
            self._file.flush()
            raise
        return self._file.write(data)

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def __iter__(self):
        return iter(self._file)

    def __getattr__(self, name):
        return getattr(self._file, name)


def _connection_class(disk: FailingDisk, path: str) -> type[sqlite3.Connection]:
    class Cursor(sqlite3.Cursor):
        def execute(self, statement, *arguments):
            if statement.lstrip().startswith(_STATEMENTS) and disk.fails(statement.split()[0], path):
                raise sqlite3.OperationalError("database or disk is full")
            return super().execute(statement, *arguments)

    class Connection(sqlite3.Connection):
        def cursor(self, factory=Cursor):
            return super().cursor(factory)

        def commit(self):
            fails = self.in_transaction and disk.fails("COMMIT", path)
            if fails and disk._how == UNHEARD:
                super().commit()
            if fails:
                raise sqlite3.OperationalError("disk I/O error")
            super().commit()

    return Connection


@contextmanager
def failing(disk: FailingDisk) -> Iterator[FailingDisk]:
    """While the block runs, this process writes to that disk."""
    real_open, real_io, connect = os.open, io.open, sqlite3.dbapi2.connect

    def open_number(path, flags, *rest, **more):
        if flags & _WRITING:
            disk.check("open", path, errno.ENOSPC)
        return real_open(path, flags, *rest, **more)

    def open_file(file, mode="r", *rest, **more):
        writes = set(mode) & set("wax+")
        if writes and not isinstance(file, int):
            disk.check("open", file, errno.ENOSPC)
        opened = real_io(file, mode, *rest, **more)
        return _File(opened, disk) if writes else opened

    def connected(database, *rest, **more):
        return connect(database, *rest, factory=_connection_class(disk, database), **more)

    def counted(name, which):
        real = getattr(os, name)

        def call(*arguments, **more):
            # To make a folder that is there writes nothing.
            if name != "mkdir" or not Path(arguments[0]).is_dir():
                disk.check(name, arguments[which])
            return real(*arguments, **more)

        return mock.patch.object(os, name, call)

    with (
        counted("fsync", 0),
        counted("replace", 1),
        counted("link", 1),
        counted("mkdir", 0),
        mock.patch.object(os, "open", open_number),
        mock.patch.object(io, "open", open_file),
        mock.patch.object(sqlite3.dbapi2, "connect", connected),
    ):
        yield disk
