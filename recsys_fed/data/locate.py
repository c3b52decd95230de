"""Which data set is meant: a name, a path, or the first place that has one.

MovieLens-1M can be downloaded: bounded in time, verified, written whole or not at all.
"""

import hashlib
import http.client
import io
import os
import shutil
import sys
import tempfile
import threading
import time
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from weakref import WeakKeyDictionary, WeakValueDictionary

from recsys_fed.data.dataset import Dataset
from recsys_fed.data.generate import generate
from recsys_fed.data.readers.reading import TextFormat
from recsys_fed.data.remote import is_remote, local_copy
from recsys_fed.data.sources import GROUP, Request, detect, load_source, read
from recsys_fed.errors import ConfigurationError, DataError, DataFormatError, DataNotFoundError
from recsys_fed.extensions import extension_names

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


def _fetch(archive: Archive, cache: Path, *, say: Callable[[str], None]) -> Path:
    """Download an archive into the cache, `cache / archive.name`, and return that folder.

    Raises:
        DataNotFoundError: no network, no such file, too slow, or the cache cannot be written.
        DataFormatError: what came does not have the published checksum.
    """
    say(f"Downloading {archive.url}. {archive.licence}")
    content = _transfer(archive)
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


def _transfer(archive: Archive) -> bytes:
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


# Where the named sets lie below a folder of data sets.
_NAMED = {"ml-1m": "ml-1m", "ml-100k": "ml-100k", "ultragcn": "ml-1m/ultragcn"}
REPOSITORY = Path(__file__).resolve().parents[2]
NAMES = (*_NAMED, "generated")
_GENERATED = {
    "users": "n_users",
    "items": "n_items",
    "interactions": "mean_interactions",
    "groups": "n_groups",
    "views": "views",
    "seed": "seed",
}

Say = Callable[[str], None]


def _to_stderr(line: str) -> None:
    sys.stderr.write(line + "\n")


@dataclass(frozen=True, kw_only=True)
class _Search:
    """The folders to look in, and what was tried so far."""

    cache: Path
    say: Say
    tried: list[str]

    @property
    def folders(self) -> list[Path]:
        """Folders of data sets, the first wins."""
        given = os.environ.get("RECSYS_FED_DATA")
        shared = [base.parent / "shared" / "data" for base in (Path.cwd(), REPOSITORY)]
        return [*([Path(given).expanduser()] if given else []), self.cache, *shared]


# Data sets that were made in this process, by the specification that means them.
_HELD: WeakValueDictionary[str, Dataset] = WeakValueDictionary()
_SPEC_OF: WeakKeyDictionary[Dataset, str] = WeakKeyDictionary()
_NUMBERS = count(1)
_IN_MEMORY = "memory:"


def hold_dataset(dataset: Dataset) -> str:
    """A specification that means this data set in this process, for as long as somebody holds it."""
    # A number is never used again, as the place of an object in memory is.
    spec = _SPEC_OF.setdefault(dataset, f"{_IN_MEMORY}{next(_NUMBERS)}")
    _HELD[spec] = dataset
    return spec


def open_dataset(
    spec: str | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    kinds: Mapping[str, float] | None = None,
    form: TextFormat | None = None,
    cache: Path | None = None,
    say: Say = _to_stderr,
) -> Dataset:
    """Read the data set that a specification means.

    Args:
        spec: a name (`ml-1m`, `ml-100k`, `ultragcn`, `generated`), `generated:users=1000,items=500` (also
            interactions, groups, views, seed), or the path of a file or folder, each perhaps with `#split` behind it
            (`ml-1m#random90`), or an address that fsspec knows (`s3://shop/table.parquet`, see `data.remote`).
            SOURCE:PATH is read by a source that somebody brings. Without a
            specification: $RECSYS_FED_DATA, then MovieLens-1M in the cache, in
            ../shared/data, or by download, and if none can be had the generator, which is said in one line.
        columns: for tables, the names of the columns that hold user, item, value, time, kind, weight and test, or
            their positions in a file without a header; see `readers.reading.Reading`.
        kinds: for tables, kind of event -> weight.
        form: of text tables.
        cache: folder of downloads; by default $RECSYS_FED_CACHE or ~/.cache/recsys-fed.
        say: takes a line for people (by default it goes to standard error).

    RECSYS_FED_OFFLINE=1 in the environment skips the download.

    Raises:
        DataNotFoundError: what was asked for is not there; lists what was tried and the names.
        DataFormatError: it is there but cannot be read.
        ConfigurationError: a split, a column or a setting of the generator that does not exist.
    """
    search = _Search(cache=cache or _default_cache(), say=say, tried=[])
    asked = Request(path=Path(), columns=columns or {}, kinds=kinds or {}, format=form or TextFormat())
    if spec is None:
        spec = os.environ.get("RECSYS_FED_DATA") or None
        if spec is None or _is_shelf(Path(spec).expanduser()):
            return _open_default(search, asked)
    if spec.startswith(_IN_MEMORY) and not is_remote(spec):
        if spec not in _HELD:
            raise DataNotFoundError("Expected a data set that this process made, it is gone: it was in memory only.")
        return _HELD[spec]
    if spec == "generated" or spec.startswith("generated:"):
        return generate(**_settings(spec.partition(":")[2]), kinds=kinds)
    source = None
    brought, colon, rest = spec.partition(":")
    if colon and not Path(spec).expanduser().exists() and brought in extension_names(GROUP):
        source, spec = load_source(brought), rest
    if is_remote(spec):
        address, _, split = spec.partition("#")
        with local_copy(address) as copy:
            return read(replace(asked, path=copy, split=split or None), source)
    path, split_name = _split_spec(spec)
    if not path.exists() and str(path) in _NAMED:
        path = _find_named(str(path), split_name, search)
    if not path.exists():
        raise _not_found(spec, [*search.tried, str(path)])
    return read(replace(asked, path=path, split=split_name), source)


def _default_cache() -> Path:
    given = os.environ.get("RECSYS_FED_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "recsys-fed"


def _is_shelf(path: Path) -> bool:
    """Whether the path is a folder of data sets rather than a data set."""
    return path.is_dir() and detect(path) is None and (path / _NAMED["ml-1m"]).is_dir()


def _split_spec(spec: str) -> tuple[Path, str | None]:
    """Path and split of PATH#SPLIT; a path that exists as it stands has no split."""
    if Path(spec).expanduser().exists() or "#" not in spec:
        return Path(spec).expanduser(), None
    path, _, name = spec.rpartition("#")
    return Path(path).expanduser(), name


def _find_named(name: str, split_name: str | None, search: _Search) -> Path:
    """The first folder that holds a named set with the split, or the download of MovieLens-1M."""
    for folder in search.folders:
        path = folder / _NAMED[name]
        source = detect(path)
        if source is not None and (split_name is None or split_name in source.splits):
            return path
        search.tried.append(str(path))
    if name != MOVIELENS_1M.name or split_name is not None:
        raise _not_found(name if split_name is None else f"{name}#{split_name}", search.tried)
    try:
        return _download(search)
    except DataError as error:
        raise _not_found(name, [*search.tried, str(error)]) from error


def _download(search: _Search) -> Path:
    if os.environ.get("RECSYS_FED_OFFLINE") == "1":
        raise DataNotFoundError("RECSYS_FED_OFFLINE=1, no download was tried.")
    return _fetch(MOVIELENS_1M, search.cache, say=search.say)


def _open_default(search: _Search, asked: Request) -> Dataset:
    try:
        path = _find_named("ml-1m", None, search)
    except DataNotFoundError as error:
        line = f"No data set was found ({error.__cause__ or error}); going on with generated interactions."
        search.say(line)
        return replace(generate(), note=line)
    source = detect(path)
    split_name = "random90" if source is not None and "random90" in source.splits else None
    return read(replace(asked, path=path, split=split_name))


def _settings(text: str) -> dict[str, int]:
    """Arguments of the generator from `users=1000,items=500`."""
    settings = {}
    for part in filter(None, text.split(",")):
        key, _, value = part.partition("=")
        if key not in _GENERATED or not value.isdecimal():
            raise ConfigurationError(
                f"Expected generated:KEY=NUMBER,... with a KEY of {', '.join(_GENERATED)}, got {part!r}."
            )
        settings[_GENERATED[key]] = int(value)
    return settings


def _not_found(spec: str, tried: list[str]) -> DataNotFoundError:
    return DataNotFoundError(
        f"There is no data set at {spec!r}. Tried: {'; '.join(tried)}. "
        f"Names: {', '.join(NAMES)}; or give the path of a file or folder."
    )
