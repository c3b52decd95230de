"""The download of MovieLens-1M: bounded in time, verified, written whole or not at all."""

import hashlib
import http.client
import io
import shutil
import tempfile
import threading
import time
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from recsys_fed.errors import DataFormatError, DataNotFoundError

_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A published zip file.

    Attributes:
        name: folder that it becomes in the cache.
        url: where it is published (http or https).
        md5: its published checksum (hex).
        members: the files to take from it.
        licence: what its publisher asks for, said before the download.
        connect_timeout: seconds until the answer must have begun.
        total_timeout: seconds for all of it.
        max_bytes: refuse more.
    """

    name: str
    url: str
    md5: str
    members: tuple[str, ...]
    licence: str
    connect_timeout: float = 5.0
    total_timeout: float = 120.0
    max_bytes: int = 64_000_000


MOVIELENS_1M = Archive(
    name="ml-1m",
    url="https://files.grouplens.org/datasets/movielens/ml-1m.zip",
    md5="c4d9eecfca2ab87c1945afe126590906",
    members=("ml-1m/ratings.dat", "ml-1m/movies.dat", "ml-1m/README"),
    licence=(
        "MovieLens-1M (GroupLens, University of Minnesota): research use only, no redistribution; cite "
        "Harper and Konstan 2015, The MovieLens Datasets, doi 10.1145/2827872."
    ),
)


def fetch(archive: Archive, cache: Path, *, say: Callable[[str], None]) -> Path:
    """Download an archive into the cache, `cache / archive.name`, and return that folder.

    Raises:
        DataNotFoundError: no network, no such file, too slow, or the cache cannot be written.
        DataFormatError: what came does not have the published checksum.
    """
    say(f"Downloading {archive.url}. {archive.licence}")
    content = _download(archive)
    got = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if got != archive.md5:
        raise DataFormatError(f"Expected {archive.url} to have the MD5 {archive.md5}, got {got}; nothing was kept.")
    return _unpack(archive, content, cache)


class _Transfer(threading.Thread):
    """The blocking part in a thread of its own: name resolution knows no timeout."""

    def __init__(self, archive: Archive) -> None:
        super().__init__(daemon=True, name=f"download {archive.name}")
        self.archive = archive
        self.deadline = time.monotonic() + archive.total_timeout
        self.answered = threading.Event()
        self.content: bytes | None = None
        self.error: Exception | None = None

    def run(self) -> None:
        """Fetch the file into memory; what fails is kept for the waiting thread."""
        try:
            self.content = self._receive()
        except (OSError, ValueError, http.client.HTTPException) as error:
            self.error = error
        finally:
            self.answered.set()

    def _receive(self) -> bytes:
        body = io.BytesIO()
        request = urllib.request.Request(self.archive.url)  # noqa: S310 (an address fixed in the code)
        with urllib.request.urlopen(request, timeout=self.archive.connect_timeout) as answer:  # noqa: S310
            self.answered.set()
            while chunk := answer.read(_CHUNK_BYTES):
                body.write(chunk)
                if body.tell() > self.archive.max_bytes:
                    raise ValueError(f"more than {self.archive.max_bytes} bytes")
                if time.monotonic() > self.deadline:
                    raise TimeoutError(f"longer than {self.archive.total_timeout:g} s")
        return body.getvalue()


def _download(archive: Archive) -> bytes:
    transfer = _Transfer(archive)
    transfer.start()
    if transfer.answered.wait(archive.connect_timeout):
        transfer.join(max(0.0, transfer.deadline - time.monotonic()))
    if transfer.content is None:
        reason = transfer.error or "no answer in time"
        raise DataNotFoundError(f"Expected a download from {archive.url}, got none: {reason}.")
    return transfer.content


def _unpack(archive: Archive, content: bytes, cache: Path) -> Path:
    target = cache / archive.name
    try:
        cache.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=cache, prefix=f".{archive.name}."))
    except OSError as error:
        raise DataNotFoundError(f"Expected a folder to write to at {cache}: {error}.") from error
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as zipped:
            for member in archive.members:
                (staging / Path(member).name).write_bytes(zipped.read(member))
        if not target.exists():
            staging.rename(target)
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataFormatError(f"Expected {', '.join(archive.members)} in {archive.url}: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target
