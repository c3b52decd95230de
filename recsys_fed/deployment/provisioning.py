"""Make the folder of a federation, and the folder of a silo from what the federation hands out."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.certificates.terms import LedgerTerms
from recsys_fed.database import parse_address
from recsys_fed.deployment._keys import (
    Admission,
    make_authority,
    make_node_key,
    make_server_certificate,
    public_node_key,
)
from recsys_fed.deployment.federation import (
    AUTHORITY,
    CATALOGUE,
    FEDERATION_KEY,
    NOTICE,
    ROSTER,
    TERMS,
    FederationFolder,
    FederationSettings,
    agreed_keys,
    federation_toml,
    read_federation,
    split_address,
)
from recsys_fed.deployment.notice import Notice, change_federation_key, public_federation_key, publish
from recsys_fed.errors import ConfigurationError
from recsys_fed.files import write_whole
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.privacy.guarantee import Guarantee
from recsys_fed.settings_file import Value, to_toml
from recsys_fed.signing import SigningKey
from recsys_fed.silo.secret import SiloSecret
from recsys_fed.silo.settings import FILE as SILO_FILE
from recsys_fed.silo.settings import SiloSettings, check_ledger, read_silo_settings

_FEDERATION, _LABEL = "federation", 12


def init_federation(
    path: Path,
    settings: FederationSettings,
    *,
    catalogue: Path,
    hosts: Sequence[str] = (),
    passphrase: str | None = None,
) -> FederationFolder:
    """Make the authority, the server's certificate, federation.toml and the public folder.

    Args:
        path: a new or empty folder.
        settings: name, address and terms.
        catalogue: the public catalogue; a copy is handed to silos.
        hosts: names and addresses for the certificate, beside that of `settings.address`.
        passphrase: of the authority's key.

    Raises:
        ConfigurationError: the folder holds a federation already.
        DataError: the catalogue cannot be read.
    """
    folder = FederationFolder(path)
    if folder.settings_file.exists():
        raise ConfigurationError(f"There is a federation in {path} already.")
    items = Catalogue.load(catalogue)
    for part in (folder.public, folder.admitted, folder.revoked, folder.trainings):
        part.mkdir(parents=True, exist_ok=True)
    authority = folder.public / AUTHORITY
    make_authority(folder.authority_key, authority, name=settings.name, passphrase=passphrase)
    own = split_address(settings.address)[0]
    make_server_certificate(
        folder.server_key,
        folder.server_certificate,
        authority_key=folder.authority_key,
        authority_certificate=authority,
        # The server's own programs reach it on loopback.
        hosts=list(dict.fromkeys([own, *hosts, "localhost", "127.0.0.1"])),
        passphrase=passphrase,
    )
    items.save(folder.public / CATALOGUE)
    (folder.public / CATALOGUE).chmod(0o644)
    folder.settings_file.write_text(federation_toml(settings), encoding="utf-8")
    publish(folder, passphrase=passphrase)
    return folder


def init_silo(
    path: Path,
    *,
    federation: Path,
    name: str,
    epsilon: float | None,
    data: Mapping[str, Value],
    kinds: Mapping[str, float] | None = None,
    extra: Mapping[str, Value] | None = None,
    passphrase: str | None = None,
) -> Admission:
    """Make a silo's keys, its ledger and silo.toml; returns what the federation needs to admit it.

    Args:
        path: a new or empty folder.
        federation: the public folder that the federation handed out; it is copied.
        name: public name.
        epsilon: limit of the silo's ledger over its lifetime; None where `extra` names a ledger, see `shared_ledger`.
        data: keys of the table [data]. kinds: the table [kinds].
        extra: more keys of the table [silo].
        passphrase: of the three keys.

    Raises:
        ConfigurationError: the folder holds a silo already, or a setting is not allowed.
    """
    if (path / SILO_FILE).exists():
        raise ConfigurationError(f"There is a silo in {path} already.")
    if (epsilon is None) != ("ledger" in (extra or {})):
        raise ConfigurationError(
            "Expected either --epsilon, the limit of a new ledger, or --beside, the folder of this silo in another "
            "federation: then the ledger and its limit are the one that is there."
        )
    _check_name(name)
    _check_no_password(str(data.get("url", "")))
    terms = read_federation(federation / TERMS)
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    before = set(path.iterdir())
    try:
        (path / _FEDERATION).mkdir(exist_ok=True)
        for file in (TERMS, AUTHORITY, CATALOGUE, FEDERATION_KEY, NOTICE):
            # The last two are missing where an earlier version made the federation.
            if file in (TERMS, AUTHORITY, CATALOGUE) or (federation / file).is_file():
                shutil.copyfile(federation / file, path / _FEDERATION / file)
        Catalogue.load(path / _FEDERATION / CATALOGUE)
        text = _silo_toml(terms, name=name, tables={"data": data, "kinds": kinds or {}}, extra=extra or {})
        write_whole(path / SILO_FILE, text)
        admission = _make_keys(read_silo_settings(path), epsilon=epsilon, passphrase=passphrase)
        write_whole(path / f"{name}.pub", admission.line())
    except BaseException:
        # Half a silo is none: the next try starts anew.
        for made in set(path.iterdir()) - before:
            shutil.rmtree(made) if made.is_dir() else made.unlink()
        raise
    return admission


def shared_ledger(beside: Path, federation: Path) -> dict[str, Value]:
    """Keys of [silo] for a silo that takes part in another federation too: what both ask for is charged to one limit.

    Args:
        beside: the silo's folder in the other federation, whose ledger, key and witness this one uses.
        federation: the public folder; in the ledger it goes by the first digits of the key that it has now.
    """
    there = read_silo_settings(beside)
    return {
        "ledger": there.ledger,
        "ledger-key": there.ledger_key,
        "witness": there.witness,
        "federation": public_federation_key(federation)[:_LABEL],
    }


def change_keys(
    path: Path, *, reason: str, also: Sequence[Path] = (), passphrase: str | None = None
) -> list[Admission]:
    """Give a silo a new node key and a new ledger key; returns what each federation needs to admit it with them.

    The ledger takes the new key by an entry that the old one signs: earlier entries and certificates stay verifiable.
    Pseudonyms and sealed state are of the silo's secret, which stays. What a call that was interrupted has begun, the
    next one finishes. The silo's processes have to be started again: with the old keys they can neither write to the
    ledger nor, once the federation has admitted the new ones, reach it.

    Args:
        path: of the silo's folder.
        reason: kept in the ledger.
        also: its folders in other federations, which share the ledger; their node keys stay.
        passphrase: of the keys, old and new.

    Raises:
        ConfigurationError: there is no reason, or a folder of `also` has another ledger key.
        KeyFileError: the key is not the ledger's.
    """
    settings, others = read_silo_settings(path), [read_silo_settings(other) for other in also]
    for other in others:
        if other.ledger_key != settings.ledger_key:
            raise ConfigurationError(
                f"Expected silos that share the key {settings.ledger_key}, {other.folder} does not."
            )
    node_file, ledger_file = Path(settings.node_key), Path(settings.ledger_key)
    new_node, new_ledger = (file.with_name(f"{file.name}.new") for file in (node_file, ledger_file))
    old = SigningKey.load(ledger_file, passphrase=passphrase)
    if not new_ledger.exists():
        SigningKey.generate().save(new_ledger, passphrase=passphrase)
    new = SigningKey.load(new_ledger, passphrase=passphrase)
    with closing(Ledger.open(settings.ledger)) as ledger:
        changed = ledger.terms().public_key == new.public_key
    if not changed:
        witness = Path(settings.witness) if settings.witness else None
        with closing(Ledger.open(settings.ledger, key=old, witness=witness)) as ledger:
            ledger.change_key(new, reason=reason)
    if not new_node.exists():
        make_node_key(new_node, passphrase=passphrase)
    admissions = []
    for one, node_key in ((settings, new_node), *((other, Path(other.node_key)) for other in others)):
        public = public_node_key(node_key, passphrase=passphrase)
        admissions.append(Admission(name=one.name, node_key=public, ledger_key=new.public_key).approved(old))
        write_whole(Path(one.folder) / f"{one.name}.pub", admissions[-1].line())
    new_node.replace(node_file)
    new_ledger.replace(ledger_file)
    return admissions


def change_federation_keys(folder: FederationFolder, *, reason: str, passphrase: str | None) -> Notice:
    """Give a federation a new key for notices and a new authority for server certificates; returns the notice.

    Silos keep trusting the authority before, whose server certificate serves on, until `renew_server_certificate`
    makes one of the new authority. What a call that was interrupted has begun, the next one finishes.

    Args:
        folder: of the federation.
        reason: shown to silos' operators.
        passphrase: of the federation's keys, old and new.

    Raises:
        ConfigurationError: there is no reason.
        KeyFileError: the federation's key cannot be read with this passphrase.
    """
    settings, certificates = folder.settings(), folder.public / AUTHORITY
    new_key = folder.authority_key.with_name(f"{folder.authority_key.name}.new")
    new_certificate = new_key.with_suffix(".pem")
    if not settings.insecure:
        if not new_certificate.exists():
            new_key.unlink(missing_ok=True)
            make_authority(new_key, new_certificate, name=settings.name, passphrase=passphrase)
        added, there = new_certificate.read_text(encoding="ascii"), certificates.read_text(encoding="ascii")
        if added not in there:
            # Whichever authority has signed the certificate that serves, it is among those before.
            write_whole(certificates, added + there)
    change_federation_key(folder, reason=reason, passphrase=passphrase)
    if not settings.insecure:
        new_key.replace(folder.authority_key)
        new_certificate.unlink()
    return publish(folder, passphrase=passphrase)


def _first_certificate(text: str) -> str:
    """The authority of today, in a file that may have those before as well."""
    end = "-----END CERTIFICATE-----\n"
    return text.partition(end)[0] + end


def _check_name(name: str) -> None:
    """Raise ConfigurationError for a silo's name that cannot be a file's: NAME.pub is handed on."""
    if "/" in name or "\0" in name or name in (".", "..") or not name.isprintable():
        raise ConfigurationError(f"Expected a name of the silo that can be a file's name, got {name!r}.")


def _check_no_password(url: str) -> None:
    """Raise ConfigurationError for a URL with a password, which silo.toml would keep for whoever reads it."""
    if "://" in url and parse_address(url, error=ConfigurationError).password is not None:
        raise ConfigurationError(
            "Expected no password in --url: silo.toml would hold it. PostgreSQL reads ~/.pgpass, or PGPASSWORD of "
            "the environment."
        )


def _make_keys(settings: SiloSettings, *, epsilon: float | None, passphrase: str | None) -> Admission:
    """Make the keys of a silo, and the ledger; without a limit it has one, which must fit."""
    secret, witness = SiloSecret.generate(), Path(settings.witness) if settings.witness else None
    if epsilon is None:
        signing = SigningKey.load(Path(settings.ledger_key), passphrase=passphrase)
        with closing(Ledger.open(settings.ledger, key=signing, witness=witness)) as ledger:
            check_ledger(settings, ledger.terms())
    else:
        signing = SigningKey.generate()
        signing.save(Path(settings.ledger_key), passphrase=passphrase)
        Ledger.create(
            settings.ledger, key=signing, terms=_ledger_terms(settings, epsilon, signing), witness=witness
        ).close()
    node_key = make_node_key(Path(settings.node_key), passphrase=passphrase)
    secret.save(Path(settings.secret_key), passphrase=passphrase)
    return Admission(name=settings.name, node_key=node_key, ledger_key=signing.public_key)


def _ledger_terms(settings: SiloSettings, epsilon: float, key: SigningKey) -> LedgerTerms:
    agreed = settings.agreed
    guarantee = Guarantee(epsilon=epsilon, delta=agreed.delta, max_silos_per_user=agreed.max_silos_per_user)
    return LedgerTerms(
        silo=settings.name,
        public_key=key.public_key,
        guarantee=guarantee,
        declared_users=agreed.declared_users,
        simulated=settings.simulated,
    )


def _silo_toml(
    terms: FederationSettings, *, name: str, tables: Mapping[str, Mapping[str, Value]], extra: Mapping[str, Value]
) -> str:
    silo: dict[str, Value] = {
        "name": name,
        "address": terms.address,
        "root-certificate": "" if terms.insecure else f"{_FEDERATION}/{AUTHORITY}",
        "catalogue": f"{_FEDERATION}/{CATALOGUE}",
        "roster": f"{_FEDERATION}/{ROSTER}",
        "trainings": SiloSettings.trainings,
        "per-days": SiloSettings.per_days,
        **extra,
    }
    return (
        f"# Paths are relative to this file.\n[silo]\n{to_toml(silo)}\n"
        f"# The terms of the federation when this silo joined: it answers no request for anything else.\n"
        f"[agreed]\n{to_toml(agreed_keys(terms.training))}\n"
        + "\n".join(f"[{table}]\n{to_toml(keys)}" for table, keys in tables.items() if keys)
    )


def renew_server_certificate(folder: FederationFolder, *, hosts: Sequence[str], passphrase: str | None) -> None:
    """Replace the server's key and certificate under the federation's authority.

    Silos notice nothing; after a change of the federation's keys, those that have not taken in the new authority can
    connect no more, and the others are told to let go of the one before.
    """
    settings, certificates = folder.settings(), folder.public / AUTHORITY
    own = split_address(settings.address)[0]
    new = replace(folder, path=folder.path / ".renewed")
    make_server_certificate(
        new.server_key,
        new.server_certificate,
        authority_key=folder.authority_key,
        authority_certificate=certificates,
        hosts=list(dict.fromkeys([own, *hosts, "localhost", "127.0.0.1"])),
        passphrase=passphrase,
    )
    new.server_key.replace(folder.server_key)
    new.server_certificate.replace(folder.server_certificate)
    shutil.rmtree(new.path)
    there = certificates.read_text(encoding="ascii")
    if there != _first_certificate(there):
        write_whole(certificates, _first_certificate(there))
        publish(folder, passphrase=passphrase)
