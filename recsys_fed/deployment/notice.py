"""The federation's notice: who is admitted, the terms and the catalogue, with their versions, signed.

    public/notice.json    {"notice": {...}, "key": the federation's Ed25519 key, "signature"}
    public/federation.pub that key, 64 hexadecimal digits: what silos pin when they join

Where the federation has changed its key, the notice has "changes" besides: each, oldest first, is signed by the key
before and by the new one. A silo follows them from the key that it has pinned to the one that signs, and pins that
one when its operator agrees. From then on the keys before are nothing to it: whoever has stolen one of them can
mislead silos that have not gone along yet, and no others.

Silos fetch it from the running server, or get it by hand; neither has to be trusted with it. What the key's owner
could still do is sign two notices at once, one for each of two groups of silos; so a notice has a fingerprint, which
the operators of silos compare among themselves.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from recsys_fed.catalogue.items import Catalogue, extend_catalogue
from recsys_fed.config import FederationConfig, flat, parse
from recsys_fed.deployment.federation import (
    AUTHORITY,
    CATALOGUE,
    FEDERATION_KEY,
    NOTICE,
    TERMS,
    FederationFolder,
    FederationSettings,
    federation_toml,
    read_federation_text,
    terms_toml,
)
from recsys_fed.deployment.roster import admitted_silos, publish_roster
from recsys_fed.errors import ConfigurationError, DataFormatError, DataNotFoundError, LedgerIntegrityError
from recsys_fed.files import file_lock, write_whole
from recsys_fed.settings_file import Value
from recsys_fed.signing import (
    SigningKey,
    canonical,
    parse_canonical,
    parse_public_key,
    require_keys,
    sha256,
    text_of,
    verify_signature,
)

_PURPOSE, _CHANGE, _AUTHORITY = "federation notice", "change of a federation's key", "authority"
_DIGITS, _GROUP = 20, 4
# What the first entry of every silo's ledger says for ever.
FOR_EVER = ("delta", "max-silos-per-user", "declared-users")


@dataclass(frozen=True, kw_only=True)
class Notice:
    """See the module.

    Attributes:
        version: counts every change of what follows. time: UTC.
        terms_version: of the terms. terms: text of terms.toml.
        roster: name -> ledger key of the admitted silos.
        catalogue_version: of the catalogue. catalogue: its content hash.
        authority: certificates (PEM) that silos trust to sign the server's; "" for those that they joined with.
    """

    version: int
    time: str
    terms_version: int
    terms: str
    roster: Mapping[str, str]
    catalogue_version: int
    catalogue: str
    authority: str = ""

    def settings(self) -> FederationSettings:
        """The terms, read; raises DataFormatError, ConfigurationError."""
        return read_federation_text(self.terms, place="the federation's notice")

    def content(self) -> bytes:
        """The one text that is signed."""
        record = asdict(self) | {"roster": dict(self.roster)}
        # Earlier versions know no such field, and need none where nothing was changed.
        return canonical({name: value for name, value in record.items() if value or name != _AUTHORITY})

    def fingerprint(self) -> str:
        """What operators compare: the first 80 bits of SHA-256 of the text, in groups of four digits."""
        digits = sha256(self.content())[:_DIGITS]
        return "-".join(digits[at : at + _GROUP] for at in range(0, _DIGITS, _GROUP))

    @classmethod
    def from_record(cls, record: object) -> Self:
        """Read it; raises DataFormatError for anything else."""
        if isinstance(record, Mapping) and record.get(_AUTHORITY) != "":
            record = {_AUTHORITY: "", **record}
        known: Any = require_keys(record, {f.name for f in fields(cls)}, "a federation's notice")
        numbers = {name: known[name] for name in ("version", "terms_version", "catalogue_version")}
        if not all(type(number) is int and number > 0 for number in numbers.values()):
            raise DataFormatError("Expected versions of a notice as numbers from 1.")
        if not isinstance(known["roster"], Mapping):
            raise DataFormatError("Expected the roster of a notice.")
        try:
            roster = {str(name): parse_public_key(str(key)) for name, key in known["roster"].items()}
        except ConfigurationError as error:
            raise DataFormatError(f"Expected ledger keys in the roster of a notice: {error}") from error
        texts: dict[str, Any] = {name: text_of(known, name) for name in ("time", "terms", "catalogue", _AUTHORITY)}
        return cls(roster=roster, **numbers, **texts)


@dataclass(frozen=True, kw_only=True)
class KeyOfFederation:
    """One change of the federation's key.

    Attributes:
        before, after: the key until then, and from then on. time: UTC. reason: of the operator.
        signature: by the key before. proof: by the new one, so that nobody can name another's key.
    """

    before: str
    after: str
    time: str
    reason: str
    signature: str = ""
    proof: str = ""

    def content(self) -> bytes:
        """What both keys sign."""
        return canonical({"before": self.before, "after": self.after, "time": self.time, "reason": self.reason})

    def signed(self, before: SigningKey, after: SigningKey) -> "KeyOfFederation":
        """By both keys."""
        content = self.content()
        return replace(self, signature=before.sign(_CHANGE, content), proof=after.sign(_CHANGE, content))

    def check(self) -> None:
        """Raise LedgerIntegrityError unless both keys have signed."""
        content = self.content()
        pairs = ((self.before, self.signature), (self.after, self.proof))
        if not all(verify_signature(key, _CHANGE, content, signature) for key, signature in pairs):
            raise LedgerIntegrityError("A change of the federation's key is not signed by both keys.")

    @classmethod
    def from_record(cls, record: object) -> Self:
        """Read it; raises DataFormatError for anything else."""
        known: Any = require_keys(record, {f.name for f in fields(cls)}, "a change of a federation's key")
        return cls(**{name: text_of(known, name) for name in known})


@dataclass(frozen=True, kw_only=True)
class SignedNotice:
    """A notice with the key that has signed it, and how that one came to follow the key that is trusted."""

    notice: Notice
    key: str
    changes: tuple[KeyOfFederation, ...] = ()


def read_notice(content: bytes, *, public_key: str) -> SignedNotice:
    """Read a notice that this key has signed, or one that follows it.

    Raises:
        DataFormatError: it is something else.
        LedgerIntegrityError: neither this federation's key nor one that it was changed to has signed it.
    """
    record: Any = parse_canonical(content.strip())
    if isinstance(record, Mapping):
        record = {"changes": [], **record}
    record = require_keys(record, {"notice", "key", "signature", "changes"}, "a signed notice")
    if not isinstance(record["changes"], list):
        raise DataFormatError("Expected the changes of a federation's key, oldest first.")
    notice, key = Notice.from_record(record["notice"]), text_of(record, "key")
    changes = _follow([KeyOfFederation.from_record(one) for one in record["changes"]], public_key)
    signed = verify_signature(key, _PURPOSE, canonical(record["notice"]), text_of(record, "signature"))
    if key != (changes[-1].after if changes else public_key) or not signed:
        raise LedgerIntegrityError(
            f"The notice is not signed by the federation's key {public_key[:16]}.... Ask its operator what has "
            "happened; nothing was taken in."
        )
    return SignedNotice(notice=notice, key=key, changes=changes)


def _follow(changes: list[KeyOfFederation], key: str) -> tuple[KeyOfFederation, ...]:
    """The changes since a key, each by the one before; raises LedgerIntegrityError where one does not hold."""
    since = next((number for number, change in enumerate(changes) if change.before == key), len(changes))
    for change in changes[since:]:
        if change.before != key:
            raise LedgerIntegrityError("The changes of the federation's key do not follow each other.")
        change.check()
        key = change.after
    return tuple(changes[since:])


def public_federation_key(folder: Path) -> str:
    """The key that a public folder hands out.

    Raises:
        DataNotFoundError: there is none: an earlier version made the folder. ConfigurationError: it is no key.
    """
    path = folder / FEDERATION_KEY
    if not path.is_file():
        raise DataNotFoundError(
            f"Cannot find the federation's key at {path}: an earlier version made this folder. Ask the federation's "
            "operator to read it out (`federation publish` makes it) and give it with --federation-key."
        )
    return parse_public_key(path.read_text(encoding="ascii"))


def publish(folder: FederationFolder, *, passphrase: str | None) -> Notice:
    """Write the notice of how things are now, if anything has changed, and the roster; returns the notice.

    The federation's key is made where an earlier version made the folder.

    Raises:
        KeyFileError: the federation's key cannot be read with this passphrase.
        DataError: the last notice or the catalogue cannot be read.
    """
    key = _federation_key(folder, passphrase=passphrase)
    settings, path, changes = folder.settings(), folder.public / NOTICE, _key_changes(folder)
    first = changes[0].before if changes else key.public_key
    with file_lock(folder.path / "publish.lock", wait=True):
        publish_roster(folder)
        last = read_notice(path.read_bytes(), public_key=first) if path.is_file() else None
        before = last.notice if last else None
        now = Notice(
            version=before.version if before else 1,
            time=before.time if before else _utc(),
            terms_version=settings.terms_version,
            terms=terms_toml(settings),
            roster={known.name: known.ledger_key for known in admitted_silos(folder)},
            catalogue_version=settings.catalogue_version,
            catalogue=Catalogue.load(folder.public / CATALOGUE).content_hash,
            authority=(folder.public / AUTHORITY).read_text(encoding="ascii") if changes else "",
        )
        if last is not None and (now, key.public_key) == (before, last.key):
            return now
        if before is not None:
            now = replace(now, version=before.version + 1, time=_utc())
        write_whole(folder.public / TERMS, now.terms)
        content = now.content()
        record: dict[str, Any] = {
            "notice": parse_canonical(content),
            "key": key.public_key,
            "signature": key.sign(_PURPOSE, content),
        }
        record |= {"changes": [asdict(change) for change in changes]} if changes else {}
        write_whole(path, canonical(record) + b"\n")
    return now


def change_terms(folder: FederationFolder, changes: Mapping[str, Value], *, passphrase: str | None) -> Notice:
    """Set new terms, of the next version; every silo has to agree before it answers a training under them.

    Raises:
        ConfigurationError: a value that is not allowed, or a change of what ledgers fix for ever.
    """
    settings = folder.settings()
    before = flat(settings.training)
    training = parse(FederationConfig, before | dict(changes))
    after = flat(training)
    for name in FOR_EVER:
        if before[name] != after[name]:
            raise ConfigurationError(
                f"Expected {name} = {before[name]}, as the first entry of every silo's ledger says for ever, got "
                f"{after[name]}. Make a new federation for others."
            )
    if after != before:
        changed = replace(settings, training=training, terms_version=settings.terms_version + 1)
        write_whole(folder.settings_file, federation_toml(changed))
    return publish(folder, passphrase=passphrase)


def change_catalogue(folder: FederationFolder, items: Path, *, passphrase: str | None) -> Notice:
    """Append the items of a catalogue that the federation's lacks, as its next version; the others stay as they are.

    An item that is gone from `items` stays in the catalogue: every row of every earlier model keeps its meaning, and
    its number. Columns of items that are there already stay too, or the version would not begin with the one before.

    Raises:
        DataError: one of the two cannot be read.
    """
    settings, path = folder.settings(), folder.public / CATALOGUE
    before = Catalogue.load(path)
    after = extend_catalogue(before, Catalogue.load(items))
    if after.n_items > before.n_items:
        after.save(path)
        path.chmod(0o644)
        changed = replace(settings, catalogue_version=settings.catalogue_version + 1)
        write_whole(folder.settings_file, federation_toml(changed))
    return publish(folder, passphrase=passphrase)


def change_federation_key(folder: FederationFolder, *, reason: str, passphrase: str | None) -> None:
    """Let another key sign notices from now on, by the signature of the one before.

    What a call that was interrupted has begun, the next one finishes; `publish` says it to silos.

    Raises:
        ConfigurationError: there is no reason.
        KeyFileError: the key cannot be read with this passphrase.
    """
    if not reason.strip():
        raise ConfigurationError("Expected a reason for the new keys: silos' operators read it.")
    path, changes = folder.federation_key, _key_changes(folder)
    before, fresh = _federation_key(folder, passphrase=passphrase), path.with_name(f"{path.name}.new")
    if not fresh.exists():
        SigningKey.generate().save(fresh, passphrase=passphrase)
    after = SigningKey.load(fresh, passphrase=passphrase)
    if not changes or changes[-1].after != after.public_key:
        change = KeyOfFederation(before=before.public_key, after=after.public_key, time=_utc(), reason=reason)
        changes = (*changes, change.signed(before, after))
        write_whole(folder.key_changes, canonical({"changes": [asdict(one) for one in changes]}))
    write_whole(folder.public / FEDERATION_KEY, f"{after.public_key}\n")
    fresh.replace(path)


def _key_changes(folder: FederationFolder) -> tuple[KeyOfFederation, ...]:
    path = folder.key_changes
    if not path.is_file():
        return ()
    record: Any = require_keys(parse_canonical(path.read_bytes()), {"changes"}, "changes of a federation's key")
    return tuple(map(KeyOfFederation.from_record, record["changes"]))


def _federation_key(folder: FederationFolder, *, passphrase: str | None) -> SigningKey:
    path = folder.federation_key
    if not path.is_file():
        SigningKey.generate().save(path, passphrase=passphrase)
    key = SigningKey.load(path, passphrase=passphrase)
    public = folder.public / FEDERATION_KEY
    if not public.is_file():
        write_whole(public, f"{key.public_key}\n")
    return key


def _utc() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
