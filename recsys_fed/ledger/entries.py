"""What a ledger holds: entries that are chained by hash and signed by the silo.

    content    = canonical record of (version, number, time, previous, kind, body)
    signature  = Ed25519(purpose "ledger entry", content)
    hash       = SHA-256(content, signature)   previous of the next entry; of the first it is 64 zeros

Kinds: *genesis* (the terms, number 0), *release* (an event and the name of the draw that it pays for), *limit* (a
new epsilon limit and its reason), *key* (the key that signs every later entry; this one is signed by the key before,
and the new key has signed what it follows). Every byte of an exported line is covered, see `signing`.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from typing import Any, Self

from recsys_fed.certificates.terms import LedgerTerms, epsilon_from_record, epsilon_to_record
from recsys_fed.errors import ConfigurationError, DataFormatError, LedgerIntegrityError
from recsys_fed.privacy.events import ReleaseEvent
from recsys_fed.signing import (
    SigningKey,
    canonical,
    parse_public_key,
    read_json,
    require_keys,
    sha256,
    text_of,
    verify_signature,
)

_VERSION = 1
_PURPOSE, _KEY_PURPOSE = "ledger entry", "ledger key"
NOTHING_BEFORE = "0" * 64
_KINDS = ("genesis", "release", "limit", "key")
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"
_TIME_FORM = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
_RELEASE_TEXTS = ("run", "request", "payload", "code_version")
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Release:
    """Body of a release entry: what was charged, and the one draw of noise that it pays for.

    Attributes:
        event: the frozen privacy event.
        run: id of the run that asked.
        request: SHA-256 of the request that is answered.
        payload: name of the draw, see `draw_name`; it is the nonce in the bytes that leave. Entries of versions that
            charged what they had computed hold the SHA-256 of those bytes.
        code_version: of this library.
    """

    event: ReleaseEvent
    run: str
    request: str
    payload: str
    code_version: str

    def __post_init__(self) -> None:
        for name in ("request", "payload"):
            if not _DIGEST.fullmatch(getattr(self, name)):
                raise DataFormatError(f"Expected {name} to be 64 hexadecimal digits, got {getattr(self, name)!r}.")

    def to_record(self) -> dict[str, Any]:
        """Return the body as JSON values."""
        return {name: getattr(self, name) for name in _RELEASE_TEXTS} | {"event": self.event.to_dict()}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read a body; raises DataFormatError for anything else."""
        known = require_keys(record, {"event", *_RELEASE_TEXTS}, "a release")
        texts = {name: text_of(known, name) for name in _RELEASE_TEXTS}
        return cls(event=_event(known["event"]), **texts)


def run_name(federation: str, training: str) -> str:
    """The run of a training in a ledger that several federations share; "" is the federation that made the ledger.

    Names of trainings and of federations have no "/": one federation cannot name a run of another's.
    """
    return f"{federation}/{training}" if federation else training


def federation_in(run: str) -> str:
    """The federation of a run, "" for the one that made the ledger."""
    return run.rpartition("/")[0]


def training_in(run: str) -> str:
    """The name of a run's training, as its federation says it."""
    return run.rpartition("/")[2]


def draw_name(*, silo: str, number: int, request: str) -> str:
    """The name of the draw that entry `number` pays for: one entry, one name, before anything is computed."""
    return sha256(canonical({"silo": silo, "number": number, "request": request}))


def _event(record: object) -> ReleaseEvent:
    """Read an event; a long ledger holds few different ones, so each is read once.

    Values that are equal to Python but spelled otherwise (1 and 1.0) give the same event; readers of entries
    compare the spelling of the whole afterwards.
    """
    try:
        return _event_of(tuple(record.items())) if isinstance(record, dict) else ReleaseEvent.from_dict(record)
    except TypeError:
        return ReleaseEvent.from_dict(record)


@lru_cache(maxsize=4096)
def _event_of(items: tuple[tuple[str, Any], ...]) -> ReleaseEvent:
    return ReleaseEvent.from_dict(dict(items))


@dataclass(frozen=True, kw_only=True)
class Limit:
    """Body of a limit entry: from here on the silo's users may lose up to `epsilon`, and why that was decided."""

    epsilon: float
    reason: str

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise ConfigurationError(f"Expected an epsilon limit > 0 (or inf), got {self.epsilon}.")
        if not self.reason.strip():
            raise ConfigurationError("Expected a reason for the new limit, got none. It is kept in the ledger.")

    def to_record(self) -> dict[str, Any]:
        """Return the body as JSON values."""
        return asdict(self) | {"epsilon": epsilon_to_record(self.epsilon)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read a body; raises DataFormatError for anything else."""
        known = require_keys(record, {"epsilon", "reason"}, "a limit")
        try:
            return cls(epsilon=epsilon_from_record(known["epsilon"]), reason=text_of(known, "reason"))
        except ConfigurationError as error:
            raise DataFormatError(f"Not a limit: {error}") from error


@dataclass(frozen=True, kw_only=True)
class KeyChange:
    """Body of a key entry: every later entry is signed by another key, and why.

    Attributes:
        public_key: the new one.
        reason: kept in the ledger.
        proof: the new key's signature of the entry before (its hash): nobody can name another's key as the next one.
    """

    public_key: str
    reason: str
    proof: str

    def __post_init__(self) -> None:
        if parse_public_key(self.public_key) != self.public_key:
            raise ConfigurationError("Expected a public key in lower case.")
        if not self.reason.strip():
            raise ConfigurationError("Expected a reason for the new key, got none. It is kept in the ledger.")

    @classmethod
    def to(cls, key: SigningKey, *, previous: str, reason: str) -> Self:
        """A change to `key`, to follow the entry whose hash is `previous`."""
        return cls(public_key=key.public_key, reason=reason, proof=key.sign(_KEY_PURPOSE, previous.encode()))

    def check_proof(self, previous: str) -> None:
        """Raise LedgerIntegrityError unless the owner of the new key took over after the entry `previous`."""
        if not verify_signature(self.public_key, _KEY_PURPOSE, previous.encode(), self.proof):
            raise LedgerIntegrityError(
                f"Expected the new key {self.public_key[:16]}... to have signed the entry before, it has not."
            )

    def to_record(self) -> dict[str, Any]:
        """Return the body as JSON values."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read a body; raises DataFormatError for anything else."""
        known = require_keys(record, {"public_key", "reason", "proof"}, "a change of the key")
        try:
            return cls(**{name: text_of(known, name) for name in ("public_key", "reason", "proof")})
        except ConfigurationError as error:
            raise DataFormatError(f"Not a change of the key: {error}") from error


Body = LedgerTerms | Release | Limit | KeyChange
_BODIES: dict[str, type[LedgerTerms] | type[Release] | type[Limit] | type[KeyChange]] = {
    "genesis": LedgerTerms,
    "release": Release,
    "limit": Limit,
    "key": KeyChange,
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry. `time` is UTC in microseconds, as text that sorts like the time itself."""

    number: int
    time: str
    previous: str
    kind: str
    body: Body
    signature: str = ""

    @cached_property
    def content(self) -> bytes:
        """The bytes that are hashed and signed."""
        return canonical(self._record())

    @cached_property
    def hash(self) -> str:
        """SHA-256 of content and signature: the next entry vouches for both."""
        return sha256(self.content + b"\0" + self.signature.encode())

    @property
    def draw(self) -> str:
        """Name of the draw that a release entry pays for; "" of other kinds."""
        return self.body.payload if isinstance(self.body, Release) else ""

    def signed(self, key: SigningKey) -> Self:
        """Return the entry with the key's signature."""
        return type(self)(
            number=self.number,
            time=self.time,
            previous=self.previous,
            kind=self.kind,
            body=self.body,
            signature=key.sign(_PURPOSE, self.content),
        )

    def check_signature(self, public_key: str) -> None:
        """Raise LedgerIntegrityError unless the owner of the key signed exactly this content."""
        if not verify_signature(public_key, _PURPOSE, self.content, self.signature):
            raise LedgerIntegrityError(f"The signature of entry {self.number} is not by key {public_key[:16]}....")

    def line(self) -> bytes:
        """The entry as one line of an export, without the line's end."""
        return canonical({"entry": self._record(), "signature": self.signature})

    def _record(self) -> dict[str, Any]:
        return {
            "version": _VERSION,
            "number": self.number,
            "time": self.time,
            "previous": self.previous,
            "kind": self.kind,
            "body": self.body.to_record(),
        }


def read_entry(content: bytes, signature: str) -> Entry:
    """Read an entry from its content and signature; nothing is verified beyond the format.

    Raises:
        DataFormatError: it is no entry of this version, or not in the one spelling of its values.
    """
    entry = _entry(read_json(content), signature)
    if entry.content != content:
        raise DataFormatError(f"Expected entry {entry.number} in the one spelling of its values, got another.")
    return entry


def read_entry_line(line: bytes) -> Entry:
    """Read a line of an export; raises DataFormatError."""
    record = require_keys(read_json(line), {"entry", "signature"}, "a line of an exported ledger")
    entry = _entry(record["entry"], text_of(record, "signature"))
    if entry.line() != line:
        raise DataFormatError(f"Expected entry {entry.number} in the one spelling of its values, got another.")
    return entry


def _entry(record: object, signature: str) -> Entry:
    known = require_keys(record, {"version", "number", "time", "previous", "kind", "body"}, "an entry")
    if known["version"] != _VERSION:
        raise DataFormatError(f"Expected an entry of version {_VERSION}, got {known['version']!r}.")
    if type(known["number"]) is not int or known["kind"] not in _KINDS or not isinstance(known["body"], dict):
        raise DataFormatError(f"Expected an entry with a number, a kind of {_KINDS} and a body.")
    time, previous = text_of(known, "time"), text_of(known, "previous")
    if not _is_time(time) or not _DIGEST.fullmatch(previous):
        raise DataFormatError("Expected an entry with a UTC time and the hash of the entry before.")
    return Entry(
        number=known["number"],
        time=time,
        previous=previous,
        kind=known["kind"],
        body=_BODIES[known["kind"]].from_record(known["body"]),
        signature=signature,
    )


def utc_text(moment: datetime) -> str:
    """A moment as an entry's time."""
    return moment.astimezone(UTC).strftime(_TIME)


def parse_utc(text: str) -> datetime:
    """The moment of an entry's time."""
    if not _TIME_FORM.fullmatch(text):
        raise ValueError(f"Expected a time such as 2026-01-31T12:00:00.000000Z, got {text!r}.")
    return datetime.fromisoformat(text)


def _is_time(text: str) -> bool:
    try:
        parse_utc(text)
    except ValueError:
        return False
    return True
