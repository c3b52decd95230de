"""Users who take no part in a silo: those who opted out of it, and those whom its service has forgotten.

Guarantees: the unit is a user of this silo. A user who takes no part has no history, vector or count in anything that
is computed after the user was noted: every later training, the silo's own model, exports, recommendations. So
everything that the silo releases from then on is, under the same noise, the same with and without that user's rows.
That follows from the reading (`interactions.read_silo_data`): all such users have one pseudonym, that of nobody, and
whoever bears it is left out among the user's own rows, before anything is counted. What was released before stays as
it is; `certificates.erasure` says what that is.

The list is the file opt-out.txt beside silo.toml (`user_digests`), of pseudonyms. With `service` in silo.toml the
service's forgotten.txt counts as well, and who opts out is noted there too.
"""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from recsys_fed.errors import ConfigurationError
from recsys_fed.silo.secret import NOBODY, Pseudonyms, SiloSecret
from recsys_fed.silo.settings import SiloSettings
from recsys_fed.user_digests import LeftOut, Stamp, append_digests, digest_of, read_digests, stamp_of

if TYPE_CHECKING:
    from recsys_fed.serving.paths import ServicePaths

_FILE = "opt-out.txt"


class Listed(NamedTuple):
    """A line of the list: the pseudonym, and since when (seconds since 1970)."""

    pseudonym: str
    since: float


class OptOuts:
    """The list of a silo, as it was when this was made."""

    def __init__(self, settings: SiloSettings, pseudonyms: Pseudonyms) -> None:
        """Read the list.

        Raises:
            DataFormatError: a list cannot be read; nobody is taken in because of that.
            ConfigurationError: silo.toml names a service and there is none.
        """
        self._path, self._pseudonyms = Path(settings.folder) / _FILE, pseudonyms
        self._service = service_of(settings)
        self._own = read_digests(self._path)
        self._key = b"" if self._service is None else self._service.key()
        self._forgotten = {} if self._service is None else read_digests(self._service.forgotten)

    def pseudonym(self, user: str) -> str:
        """The user's pseudonym, or that of nobody for a user who takes no part."""
        found = self._pseudonyms.of(user)
        note = self._own.get(found)
        if note is not None and note.now:
            return NOBODY
        if self._forgotten:
            note = self._forgotten.get(digest_of(user, key=self._key))
            if note is not None and note.now:
                return NOBODY
        return found

    def listed(self) -> list[Listed]:
        """Who has opted out of the silo itself, the first to do so first."""
        return sorted(
            (Listed(name, note.since) for name, note in self._own.items() if note.now), key=lambda one: one.since
        )

    def pseudonyms(self) -> frozenset[str]:
        """The same as a set, of those who opted out."""
        return frozenset(one.pseudonym for one in self.listed())

    def add(self, users: Iterable[str]) -> list[str]:
        """Note users, here and at the service; returns the pseudonyms of all of them, noted before or not.

        From its return on no training counts them. What the service holds of them is gone if it could be opened.
        """
        now, users = time.time(), list(dict.fromkeys(users))
        names = {user: self._pseudonyms.of(user) for user in users}
        fresh = {name: LeftOut(now) for name in names.values() if not self._is_noted(name)}
        append_digests(self._path, fresh)
        self._own |= fresh
        if self._service is not None:
            digests = {digest_of(user, key=self._key): LeftOut(now) for user in users}
            lost = {d: note for d, note in digests.items() if (old := self._forgotten.get(d)) is None or not old.now}
            append_digests(self._service.forgotten, lost)
            self._forgotten |= lost
        return list(names.values())

    def remove(self, user: str) -> None:
        """Let a user take part again, from the next training on.

        Raises:
            ConfigurationError: the user had not opted out.
        """
        name = self._pseudonyms.of(user)
        if not self._is_noted(name):
            raise ConfigurationError("Expected a user who has opted out, got one who has not.")
        now = time.time()
        self._own[name] = LeftOut(self._own[name].since, now)
        append_digests(self._path, {name: self._own[name]})
        if self._service is not None:
            digest = digest_of(user, key=self._key)
            note = self._forgotten.get(digest)
            if note is not None and note.now:
                append_digests(self._service.forgotten, {digest: LeftOut(note.since, now)})

    def _is_noted(self, name: str) -> bool:
        note = self._own.get(name)
        return note is not None and note.now


class Participants(Pseudonyms):
    """Pseudonyms of the users who take part; everybody else is nobody."""

    def __init__(self, secret: SiloSecret, opt_outs: OptOuts) -> None:
        super().__init__(secret)
        self._opt_outs = opt_outs

    @classmethod
    def of_silo(cls, settings: SiloSettings, secret: SiloSecret) -> "Participants":
        """Those of a silo, by its list as it is now; raises as `OptOuts`."""
        return cls(secret, OptOuts(settings, Pseudonyms(secret)))

    def of(self, user: str) -> str:
        """The pseudonym of one raw id."""
        return self._opt_outs.pseudonym(user)


def stamp_of_lists(settings: SiloSettings) -> tuple[Stamp, Stamp]:
    """Changes when somebody opts out, is forgotten, or comes back."""
    service = service_of(settings)
    return stamp_of(Path(settings.folder) / _FILE), None if service is None else stamp_of(service.forgotten)


def service_of(settings: SiloSettings) -> "ServicePaths | None":
    """The service that silo.toml names.

    Raises:
        ConfigurationError: it is not there, or another account's.
    """
    if not settings.service:
        return None
    from recsys_fed.serving.paths import ServicePaths  # noqa: PLC0415  (only where there is a service)

    folder = Path(settings.service)
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigurationError(
            f"Expected the folder of this silo's service at {folder}, for this account: who was forgotten there "
            "takes no part. Start `silo api` once, or take `service` out of silo.toml."
        )
    return ServicePaths(folder=folder, store=settings.service_store)


def forget_in_service(settings: SiloSettings) -> bool:
    """Remove from the service's log whoever was noted there; False while a copy may be left, see `serving.erasure`.

    Raises:
        StoreBusyError: the log is locked or cannot be reached. They are forgotten when it is opened next.
    """
    place = service_of(settings)
    if place is None or not (place.store or Path(place.address).is_file()):
        return True
    from recsys_fed.serving.store import open_store  # noqa: PLC0415

    store = open_store(place)
    try:
        return store.erase_forgotten()
    finally:
        store.close()
