"""Where a service keeps what is its own.

FOLDER/feedback.sqlite   the log of events (or a PostgreSQL URL)
FOLDER/versions/         model versions; FOLDER/current.json which one is in use
FOLDER/tokens.json       digests of the bearer tokens
FOLDER/service.key       256 random bits, mode 0600: assignments, digests of forgotten users
"""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from recsys_fed.errors import KeyFileError

_KEY_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class ServicePlace:
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

    def key(self) -> bytes:
        """The service's key, made at the first call.

        Raises:
            KeyFileError: the file is not such a key.
        """
        path = self.folder / "service.key"
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            key = path.read_bytes()
        else:
            key = secrets.token_bytes(_KEY_BYTES)
            with os.fdopen(descriptor, "wb") as file:
                file.write(key)
                file.flush()
                os.fsync(file.fileno())
        if len(key) != _KEY_BYTES:
            raise KeyFileError(f"Expected a key of {_KEY_BYTES} bytes in {path}, got {len(key)}.")
        return key
