"""A file of users under keyed digests: those who opted out of a silo, those whom its service has forgotten.

A line a change, the newest last, mode 0600:

    DIGEST SECONDS              left out since then (seconds since 1970)
    DIGEST SECONDS SECONDS      the same, and taken in again since the second time

Without the key a digest names nobody, not even to somebody with a list of all ids. Lines are only ever added, so that
a file that is put back from a copy can be told from the newest; a line that is not whole is damage, and is refused.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from recsys_fed.errors import DataFormatError
from recsys_fed.files import OWNER_ONLY, append_lines

# Changes when a file does; None where there is none.
Stamp = tuple[int, int, int] | None


@dataclass(frozen=True)
class LeftOut:
    """Since when a user is left out, and taken in again (None: not), both in seconds since 1970."""

    since: float
    readmitted: float | None = None

    @property
    def now(self) -> bool:
        """Whether the user is left out still."""
        return self.readmitted is None


def digest_of(user: str, *, key: bytes) -> str:
    """Keyed digest (HMAC-SHA256, hex) of the id of a user whom a service has forgotten."""
    return hmac.new(key, b"forgotten\0" + user.encode(), sha256).hexdigest()


def read_digests(path: Path) -> dict[str, LeftOut]:
    """The newest line of each digest; nothing where there is no file.

    Raises:
        DataFormatError: it cannot be read, or a line is something else. Nobody is taken in because of that.
    """
    if not path.exists():
        return {}
    found: dict[str, LeftOut] = {}
    try:
        for line in path.read_text(encoding="ascii").splitlines():
            digest, *times = line.split()
            since, *readmitted = map(float, times)
            found[digest] = LeftOut(since, *readmitted)
    except (OSError, ValueError, TypeError) as error:
        raise DataFormatError(
            f"Expected lines of a digest and one or two times in {path}: {type(error).__name__}. Put the newest copy "
            "of the file in its place."
        ) from error
    return found


def append_digests(path: Path, found: Mapping[str, LeftOut]) -> None:
    """Add a line each; they are on the disk when this returns. Raises OSError: none of them was added."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    append_lines(path, "".join(map(_line_of, found, found.values())), mode=OWNER_ONLY)


def _line_of(digest: str, note: LeftOut) -> str:
    times = (note.since,) if note.readmitted is None else (note.since, note.readmitted)
    return " ".join([digest, *map(repr, times)]) + "\n"


def stamp_of(path: Path) -> Stamp:
    """What the file is known by."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
