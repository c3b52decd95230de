"""The federation's notice: who is admitted, the terms and the catalogue, with their versions, signed.

    public/notice.json    {"notice": {...}, "key": the federation's Ed25519 key, "signature"}
    public/federation.pub that key, 64 hexadecimal digits: what silos pin when they join

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
from recsys_fed.deployment.roster import admitted, publish_roster
from recsys_fed.errors import ConfigurationError, DataFormatError, DataNotFoundError, LedgerIntegrityError
from recsys_fed.files import held, write_whole
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

_PURPOSE = "federation notice"
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
    """

    version: int
    time: str
    terms_version: int
    terms: str
    roster: Mapping[str, str]
    catalogue_version: int
    catalogue: str

    def settings(self) -> FederationSettings:
        """The terms, read; raises DataFormatError, ConfigurationError."""
        return read_federation_text(self.terms, place="the federation's notice")

    def content(self) -> bytes:
        """The one text that is signed."""
        return canonical(asdict(self) | {"roster": dict(self.roster)})

    def fingerprint(self) -> str:
        """What operators compare: the first 80 bits of SHA-256 of the text, in groups of four digits."""
        digits = sha256(self.content())[:_DIGITS]
        return "-".join(digits[at : at + _GROUP] for at in range(0, _DIGITS, _GROUP))

    @classmethod
    def from_record(cls, record: object) -> Self:
        """Read it; raises DataFormatError for anything else."""
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
        texts: dict[str, Any] = {name: text_of(known, name) for name in ("time", "terms", "catalogue")}
        return cls(roster=roster, **numbers, **texts)


def read_notice(content: bytes, *, public_key: str) -> Notice:
    """Read a signed notice.

    Raises:
        DataFormatError: it is something else.
        LedgerIntegrityError: this federation's key has not signed it.
    """
    record = require_keys(parse_canonical(content.strip()), {"notice", "key", "signature"}, "a signed notice")
    notice = Notice.from_record(record["notice"])
    if record["key"] != public_key or not verify_signature(
        public_key, _PURPOSE, canonical(record["notice"]), text_of(record, "signature")
    ):
        raise LedgerIntegrityError(
            f"The notice is not signed by the federation's key {public_key[:16]}.... Ask its operator what has "
            "happened; nothing was taken in."
        )
    return notice


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
    settings, path = folder.settings(), folder.public / NOTICE
    with held(folder.path / "publish.lock", wait=True):
        publish_roster(folder)
        before = read_notice(path.read_bytes(), public_key=key.public_key) if path.is_file() else None
        now = Notice(
            version=before.version if before else 1,
            time=before.time if before else _utc(),
            terms_version=settings.terms_version,
            terms=terms_toml(settings),
            roster={known.name: known.ledger_key for known in admitted(folder)},
            catalogue_version=settings.catalogue_version,
            catalogue=Catalogue.load(folder.public / CATALOGUE).content_hash,
        )
        if now == before:
            return now
        if before is not None:
            now = replace(now, version=before.version + 1, time=_utc())
        write_whole(folder.public / TERMS, now.terms)
        content = now.content()
        record = {"notice": parse_canonical(content), "key": key.public_key, "signature": key.sign(_PURPOSE, content)}
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
