"""A silo keeps up with its federation: the notice is fetched, shown, and taken in by its operator's word.

What a silo takes part in never changes by itself. A notice that is signed and not older than the last one is shown:
roster, terms and catalogue, each against what the silo has. Only what the operator agrees to is taken in, noted in
the silo's ledger, and used from the next message on.
"""

import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory

from recsys_fed.catalogue.items import Catalogue, catalogue_of_model
from recsys_fed.config import flat
from recsys_fed.deployment._keys import plain_node_key, signed_headers
from recsys_fed.deployment.federation import (
    CATALOGUE,
    CATALOGUE_PATH,
    FEDERATION_KEY,
    NOTICE,
    NOTICE_PATH,
    TERMS,
    agreed_keys,
    split_address,
)
from recsys_fed.deployment.notice import FOR_EVER, KeyOfFederation, Notice, public_federation_key, read_notice
from recsys_fed.errors import ConfigurationError, DataError, DataNotFoundError, EngineError, LedgerIntegrityError
from recsys_fed.federation.admission import read_roster, write_roster
from recsys_fed.files import write_whole
from recsys_fed.flower import ask
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.settings_file import to_toml
from recsys_fed.signing import SigningKey, canonical, parse_public_key, sha256
from recsys_fed.silo.settings import SiloSettings, handed_out_folder, settings_file

_MOST_BYTES = 1 << 31


@dataclass(frozen=True, kw_only=True)
class Update:
    """A notice beside what a silo has.

    Attributes:
        notice: signed by the federation. content: as it was signed.
        admitted, gone: name -> ledger key of silos that the silo's roster lacks, or has and the notice lacks.
        terms: key -> what the silo agreed to and what the notice says, where they differ.
        catalogue: whether the notice's is another one than the silo's.
        changes: of the federation's key, since the one that the silo has pinned.
        authority: whether the notice's are others than the silo's.
    """

    notice: Notice
    content: bytes
    admitted: dict[str, str]
    gone: dict[str, str]
    terms: dict[str, tuple[object, object]]
    catalogue: bool
    changes: tuple[KeyOfFederation, ...] = ()
    authority: bool = False

    @property
    def is_news(self) -> bool:
        """Whether there is anything to agree to."""
        return bool(self.admitted or self.gone or self.terms or self.catalogue or self.changes or self.authority)

    def lines(self) -> Iterator[str]:
        """What is to be compared and agreed to, for the operator."""
        yield f"notice {self.notice.version} of {self.notice.time}, fingerprint {self.notice.fingerprint()}"
        for name, key in sorted({**self.notice.roster, **self.gone}.items()):
            mark = " (revoked)" if name in self.gone else " (new)" if name in self.admitted else ""
            yield f"{key}  {name}{mark}"
        for name, (before, after) in sorted(self.terms.items()):
            yield f"terms version {self.notice.terms_version}: {name} = {after}, was {before}"
        if self.catalogue:
            yield f"catalogue version {self.notice.catalogue_version}, {self.notice.catalogue[:16]}..."
        for change in self.changes:
            yield f"new key of the federation {change.after}, since {change.time}: {change.reason}"
        if self.authority:
            yield "another authority for the server's certificate: start the silo again once it is taken in"


def pin_federation_key(settings: SiloSettings, key: str) -> None:
    """Keep the federation's key in a silo that joined before there was one.

    Raises:
        ConfigurationError: the silo has pinned another key.
    """
    path = handed_out_folder(settings) / FEDERATION_KEY
    if path.is_file() and public_federation_key(path.parent) != parse_public_key(key):
        raise ConfigurationError(
            f"This silo has pinned another key of the federation, in {path}. Only a notice that this key leads to "
            "can change it: `recsys-fed silo update`."
        )
    write_whole(path, f"{parse_public_key(key)}\n")


def fetch_update(settings: SiloSettings, *, passphrase: str | None, file: Path | None = None) -> Update:
    """Fetch the federation's notice, or read it from a file, and compare it with what the silo has.

    Raises:
        EngineError: the server does not answer, or does not know this silo.
        LedgerIntegrityError: the notice is not signed by the federation's key, older than one taken in before, or
            does not list this silo.
        DataError: something cannot be read.
    """
    public_key = public_federation_key(handed_out_folder(settings))
    content = file.read_bytes() if file is not None else _fetch(settings, NOTICE_PATH, passphrase=passphrase)
    signed = read_notice(content, public_key=public_key)
    notice, last = signed.notice, handed_out_folder(settings) / NOTICE
    if last.is_file() and read_notice(last.read_bytes(), public_key=public_key).notice.version > notice.version:
        raise LedgerIntegrityError(
            f"Expected a notice at least as new as the one that this silo has, got version {notice.version}: "
            "somebody shows an older one. Nothing was taken in."
        )
    if settings.name not in notice.roster:
        raise LedgerIntegrityError(
            f"Expected a notice that lists this silo, {settings.name}, among the admitted ones. Nothing was "
            "taken in. The federation's operator admits it, or runs `recsys-fed federation publish`."
        )
    roster = read_roster(Path(settings.roster)) if Path(settings.roster).is_file() else {}
    agreed, offered = agreed_keys(settings.agreed), agreed_keys(notice.settings().training)
    return Update(
        notice=notice,
        content=content,
        admitted={name: key for name, key in notice.roster.items() if roster.get(name) != key},
        gone={name: key for name, key in roster.items() if name not in notice.roster},
        terms={
            name: (agreed.get(name), offered.get(name))
            for name in agreed.keys() | offered.keys()
            if agreed.get(name) != offered.get(name)
        },
        catalogue=Catalogue.load(settings.catalogue).content_hash != notice.catalogue,
        changes=signed.changes,
        authority=bool(notice.authority and settings.root_certificate)
        and Path(settings.root_certificate).read_text(encoding="ascii") != notice.authority,
    )


def accept_roster(settings: SiloSettings, update: Update, *, passphrase: str | None) -> None:
    """Take in the roster, and the federation's keys, alone."""
    write_roster(Path(settings.roster), update.notice.roster)
    _note(settings, update, ("roster",), passphrase=passphrase)


def accept_update(settings: SiloSettings, update: Update, *, passphrase: str | None) -> None:
    """Take in all of it: a larger catalogue, new terms, the roster; used from the next message on.

    A crash leaves some of it taken in: what is left is shown again, and taken in by the next call.

    Raises:
        ConfigurationError: terms that the ledger rules out for ever, or that read attributes which the silo does
            not know of its users.
        DataError, EngineError: the catalogue cannot be fetched, or does not begin with the one that the silo has.
    """
    before, after = flat(settings.agreed), flat(update.notice.settings().training)
    for name in FOR_EVER:
        if before[name] != after[name]:
            raise ConfigurationError(
                f"Expected {name} = {before[name]}, as this silo's ledger says for ever, got {after[name]}."
            )
    settings.check_rules(update.notice.settings().training)
    if update.catalogue:
        _accept_catalogue(settings, update.notice, passphrase=passphrase)
    if update.terms:
        path = settings_file(Path(settings.folder))
        write_whole(path, _with_agreed(path.read_text(encoding="utf-8"), update.notice))
        write_whole(handed_out_folder(settings) / TERMS, update.notice.terms)
    write_roster(Path(settings.roster), update.notice.roster)
    what = [("terms", bool(update.terms)), ("roster", True), ("catalogue", update.catalogue)]
    _note(settings, update, tuple(name for name, there in what if there), passphrase=passphrase)


def _accept_catalogue(settings: SiloSettings, notice: Notice, *, passphrase: str | None) -> None:
    path = Path(settings.catalogue)
    before = Catalogue.load(path)
    with TemporaryDirectory(dir=path.parent) as folder:
        fetched = Path(folder) / CATALOGUE
        fetched.write_bytes(_fetch(settings, CATALOGUE_PATH, passphrase=passphrase))
        after = Catalogue.load(fetched)
        if after.content_hash != notice.catalogue:
            raise DataError(
                "The catalogue that the server hands out is not that of the notice. Nothing was taken in."
            )
        try:
            catalogue_of_model(after, content_hash=before.content_hash, n_items=before.n_items)
        except DataError as error:
            raise DataError(
                "Expected a catalogue that begins with the one that this silo has: items are appended, never changed "
                "or taken away. Nothing was taken in."
            ) from error
        after.save(path)


def _with_agreed(text: str, notice: Notice) -> str:
    """silo.toml with other terms in its table [agreed]; all else stays as it is written."""
    table = f"[agreed]\n{to_toml(agreed_keys(notice.settings().training))}\n"
    found, count = re.subn(r"^\[agreed\]\s*\n(?:(?!\[).*\n?)*", lambda _: table, text, count=1, flags=re.MULTILINE)
    return found if count else f"{text.rstrip()}\n\n{table}"


def _note(settings: SiloSettings, update: Update, what: tuple[str, ...], *, passphrase: str | None) -> None:
    """Sign what was agreed to into the ledger; last of all the notice is kept, which a silo that serves notices."""
    notice = update.notice
    digests = {
        "terms": (notice.terms_version, sha256(notice.terms.encode())),
        "roster": (notice.version, sha256(canonical(dict(notice.roster)))),
        "catalogue": (notice.catalogue_version, notice.catalogue),
    }
    key = SigningKey.load(Path(settings.ledger_key), passphrase=passphrase)
    with closing(Ledger.open(settings.ledger, key=key)) as ledger:
        known = {(one.what, one.version, one.digest) for one in ledger.agreements()}
        for name in what:
            version, digest = digests[name]
            if (name, version, digest) not in known:
                ledger.agree(name, version=version, digest=digest)
    if update.authority:
        write_whole(Path(settings.root_certificate), notice.authority)
    write_whole(handed_out_folder(settings) / NOTICE, update.content)
    if update.changes:
        # Last: until then the key before leads to both notices.
        write_whole(handed_out_folder(settings) / FEDERATION_KEY, f"{update.changes[-1].after}\n")


def _fetch(settings: SiloSettings, path: str, *, passphrase: str | None) -> bytes:
    host, port = split_address(settings.address)
    authority = Path(settings.root_certificate) if settings.root_certificate else None
    headers = signed_headers(plain_node_key(Path(settings.node_key), passphrase=passphrase)) if authority else {}
    answer = ask(host, port, path, authority=authority, headers=headers, timeout=60.0, most_bytes=_MOST_BYTES)
    if answer.reason:
        raise EngineError(f"Expected the federation at {settings.address} to answer: {answer.reason}.")
    if answer.status == HTTPStatus.NOT_FOUND:
        raise DataNotFoundError("The server has no notice: its operator runs `recsys-fed federation publish`.")
    if answer.status != HTTPStatus.OK:
        raise EngineError(
            f"The federation at {settings.address} hands out nothing to this silo: {answer.text[:200]} "
            f"Hand {settings.name}.pub to its operator, who admits it."
        )
    return answer.content
