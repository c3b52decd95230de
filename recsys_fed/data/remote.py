"""Files and folders that lie elsewhere, by fsspec: s3://, gs://, az://, https://, and whatever else it knows.

They are copied whole and read from the copy, in a folder that only this account may enter and that is gone
afterwards.
Credentials are those of fsspec's own configuration and of the cloud's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from recsys_fed.errors import ConfigurationError, DataNotFoundError, MissingExtraError, RecsysFedError
from recsys_fed.versions import import_extra


def is_remote(place: str | Path) -> bool:
    """Whether a place is an address with a scheme; a path is not."""
    return isinstance(place, str) and "://" in place


@contextmanager
def local_copy(address: str, *names: str) -> Iterator[Path]:
    """A copy of a file or a folder, as long as the block runs; of a folder perhaps only the files of some names.

    Raises:
        ConfigurationError: nobody knows the scheme.
        MissingExtraError: the library that speaks it is not installed.
        DataNotFoundError: there is nothing, or it cannot be read.
    """
    with TemporaryDirectory(prefix="recsys-fed-") as folder:
        yield fetch(address, Path(folder), *names)


def fetch(address: str, folder: Path, *names: str) -> Path:
    """Copy into a folder and return the path of the copy; see `local_copy`."""
    with _explained(address, DataNotFoundError):
        files, path = _opened(address)
        copy = folder / path.rpartition("/")[2]
        if not files.isdir(path):
            files.get_file(path, str(copy))
            return copy
        for found in [f"{path}/{name}" for name in names] or files.find(path):
            inside = copy / found.removeprefix(f"{path}/")
            inside.parent.mkdir(parents=True, exist_ok=True)
            files.get_file(found, str(inside))
        return copy


def send(folder: Path, address: str) -> None:
    """Copy a folder to an address at which there is nothing yet.

    Raises:
        ConfigurationError: there is something, or it cannot be written. MissingExtraError: see `local_copy`.
    """
    with _explained(address, ConfigurationError):
        files, path = _opened(address)
        if files.exists(path):
            raise ConfigurationError(f"There is a file or folder at {address} already.")
        for found in sorted(file for file in folder.rglob("*") if file.is_file()):
            there = f"{path}/{found.relative_to(folder).as_posix()}"
            files.makedirs(there.rpartition("/")[0], exist_ok=True)
            files.put_file(str(found), there)


def _opened(address: str) -> tuple[Any, str]:
    """The file system of an address and the path in it."""
    try:
        files, path = import_extra("fsspec.core").url_to_fs(address)
    except ValueError as error:
        raise ConfigurationError(f"Cannot read or write {address}: {error}.") from error
    return files, path.rstrip("/")


@contextmanager
def _explained(address: str, kind: type[RecsysFedError]) -> Iterator[None]:
    try:
        yield
    except RecsysFedError:
        raise
    except ImportError as error:
        raise MissingExtraError(f"Cannot read or write {address}: {error}.") from error
    except Exception as error:  # every cloud has errors of its own
        raise kind(f"Cannot read or write {address}: {type(error).__name__}: {error}.") from error
