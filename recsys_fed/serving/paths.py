"""Where a service keeps what is its own.

FOLDER/feedback.sqlite   the log of events (or a PostgreSQL URL)
FOLDER/versions/         model versions; FOLDER/current.json which one is in use
FOLDER/tokens.json       digests of the bearer tokens
FOLDER/service.key       256 random bits, mode 0600: assignments, digests of forgotten users
FOLDER/forgotten.txt     those digests, see `user_digests`: they outlive an older copy of the log

Bearer tokens: 256 random bits each, kept as digests, with the scopes that they open.

    tokens.json   [{"name", "digest": SHA-256 of the token (hex), "scopes": [...]}], mode 0600

A token has too much entropy to be guessed from its digest, so one pass of SHA-256 is enough. A file that is not there
or cannot be read admits nobody.
"""

import fcntl
import hmac
import json
import math
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from recsys_fed import checks
from recsys_fed.errors import ConfigurationError, DataFormatError, KeyFileError
from recsys_fed.files import OWNER_ONLY, write_whole

_KEY_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class ServicePaths:
    """A service's folder; `store` is a PostgreSQL URL, or "" for the SQLite file in the folder."""

    folder: Path
    store: str = ""

    @property
    def address(self) -> str:
        """Where the log of events is."""
        return self.store or str(self.folder / "feedback.sqlite")

    @property
    def tokens(self) -> Path:
        """The file of bearer tokens."""
        return self.folder / "tokens.json"

    @property
    def forgotten(self) -> Path:
        """The file of digests of users who were forgotten."""
        return self.folder / "forgotten.txt"

    def key(self) -> bytes:
        """The service's key, made at the first call.

        Raises:
            KeyFileError: the file is not such a key.
        """
        path = self.folder / "service.key"
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with suppress(FileExistsError):
            write_whole(path, secrets.token_bytes(_KEY_BYTES), mode=OWNER_ONLY, new=True)
        key = path.read_bytes()
        if len(key) != _KEY_BYTES:
            raise KeyFileError(f"Expected a key of {_KEY_BYTES} bytes in {path}, got {len(key)}.")
        return key


_SCOPES = ("recommend", "feedback", "admin")
_PREFIX = "rf_"
_LOOK_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class _Token:
    """A token that may be used; the token itself is nowhere."""

    name: str
    digest: str
    scopes: tuple[str, ...]


class TokenFile:
    """The tokens of a service.

    Guarantees: fails closed (no file, no token; a file that cannot be read admits nobody). A change is made under a
    lock, and whole or not at all, also when several are made at once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._tokens: tuple[_Token, ...] = ()
        self._looked = -math.inf

    def create(self, name: str, scopes: Sequence[str]) -> str:
        """Make a token and return it: this is the only time that it can be read.

        Raises:
            ConfigurationError: a scope that there is not, or a name that is taken.
        """
        for scope in scopes:
            checks.one_of(_SCOPES, scope=scope)
        token = _PREFIX + secrets.token_urlsafe(32)
        with self._lock():
            known = self.tokens()
            if not scopes or not name or any(token.name == name for token in known):
                raise ConfigurationError(
                    f"Expected a new name and at least one scope, got {name!r} and {list(scopes)}."
                )
            self._write((*known, _Token(name=name, digest=_digest(token), scopes=tuple(scopes))))
        return token

    def revoke(self, name: str) -> None:
        """Remove a token. Raises ConfigurationError if there is none of this name."""
        with self._lock():
            known = self.tokens()
            if all(token.name != name for token in known):
                raise ConfigurationError(f"Expected the name of a token, got {name!r}.")
            self._write(tuple(token for token in known if token.name != name))

    def tokens(self) -> tuple[_Token, ...]:
        """All tokens, as they are in the file.

        Raises:
            DataFormatError: the file is damaged or cannot be read.
        """
        self._looked = time.monotonic()
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp != self._stamp:
                # Nothing is known until all of it was read.
                self._tokens, self._stamp = (), None
                self._tokens = self._read()
                self._stamp = stamp
        except FileNotFoundError:
            self._tokens, self._stamp = (), None
        except OSError as error:
            self._tokens, self._stamp = (), None
            raise DataFormatError(f"Cannot read the tokens in {self._path}: {error.strerror}.") from error
        return self._tokens

    def holder(self, presented: str) -> _Token | None:
        """The token that was presented. All digests are compared, each in constant time.

        A token that is made or revoked by another process counts within a second.

        Raises:
            DataFormatError: the file of tokens is damaged: nobody is admitted.
        """
        digest, found = _digest(presented), None
        fresh = self._stamp is not None and time.monotonic() - self._looked < _LOOK_SECONDS
        for token in self._tokens if fresh else self.tokens():
            if hmac.compare_digest(token.digest.encode(), digest.encode()):
                found = token
        return found

    def _read(self) -> tuple[_Token, ...]:
        try:
            records = json.loads(self._path.read_text(encoding="utf-8"))
            tokens = tuple(_Token(name=r["name"], digest=r["digest"], scopes=tuple(r["scopes"])) for r in records)
            if not all(isinstance(value, str) for t in tokens for value in (t.name, t.digest, *t.scopes)):
                raise TypeError("not text")
        except (ValueError, KeyError, TypeError) as error:
            raise DataFormatError(f"Expected tokens in {self._path}, got {type(error).__name__}.") from error
        return tokens

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One process at a time; the lock is that of a file beside it, which stays."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self._path.with_name(f".{self._path.name}.lock"), os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _write(self, tokens: tuple[_Token, ...]) -> None:
        write_whole(self._path, json.dumps([asdict(token) for token in tokens], indent=2), mode=OWNER_ONLY)
        self.tokens()


def _digest(token: str) -> str:
    return sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
