"""`silo check` and `federation check`: everything that can be wrong on one's own side, before anything is sent."""

import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from client.deployed import schedule_of
from recsys_fed.catalogue.items import Catalogue
from recsys_fed.data.readers.users import weights_rule
from recsys_fed.deployment._keys import expiry, public_node_key
from recsys_fed.deployment._standing import standing_of
from recsys_fed.deployment.federation import (
    AUTHORITY,
    CATALOGUE,
    FEDERATION_KEY,
    ROSTER,
    TERMS,
    FederationFolder,
    agreed_keys,
    read_federation,
    split_address,
)
from recsys_fed.deployment.roster import admitted_silos, surplus
from recsys_fed.deployment.serving import check_certificates, check_port
from recsys_fed.deployment.updating import fetch_update
from recsys_fed.errors import ConfigurationError, LedgerIntegrityError, RecsysFedError
from recsys_fed.federation.admission import read_roster
from recsys_fed.federation.noise_split import masking_of, resolve_masking
from recsys_fed.flower import healthy
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.verification import verify_ledger
from recsys_fed.privacy.guarantee import check_delta
from recsys_fed.signing import SigningKey
from recsys_fed.silo.on_disk import open_silo_data
from recsys_fed.silo.opt_out import Participants
from recsys_fed.silo.secret import Pseudonyms, SiloSecret, passphrase
from recsys_fed.silo.settings import SiloSettings, handed_out_folder, read_silo_settings
from recsys_fed.silo.told import numbers_of_users

_Where = TypeVar("_Where")
_Steps = list[tuple[str, Callable[[_Where], str]]]
# Flower refuses a node whose clock is further off.
_MOST_CLOCK_SECONDS = 5.0
# A certificate that ends sooner, or a disk with less room, is said to be bad.
_LEAST_DAYS, _LEAST_FREE = 14, 1 << 30


@dataclass(frozen=True, kw_only=True)
class _Finding:
    """One thing that was looked at; `detail` is for the operator only."""

    name: str
    good: bool
    detail: str


def check_silo(path: Path, *, reach: bool = True, data: bool = True) -> list[_Finding]:
    """Look at settings, keys, ledger, catalogue, data, and (with `reach`) at the federation's server and clock."""
    found: list[_Finding] = []
    try:
        settings = read_silo_settings(path)
    except RecsysFedError as error:
        return [_Finding(name="settings", good=False, detail=str(error))]
    found.append(_Finding(name="settings", good=True, detail=f"silo {settings.name}, federation {settings.address}"))
    steps: _Steps[SiloSettings] = [
        ("keys", _keys),
        ("ledger", _ledger),
        *([("schedule", _schedule)] if settings.schedule is not None else []),
        ("catalogue", _catalogue),
        ("roster", _roster),
        *([("data", _data)] if data else []),
        *([("federation", _federation)] if reach else []),
    ]
    return [*found, *(_look(name, step, settings) for name, step in steps)]


def check_federation(folder: FederationFolder) -> list[_Finding]:
    """Look at what `federation serve` and the next training will meet, before they do."""
    try:
        settings = folder.settings()
    except RecsysFedError as error:
        return [_Finding(name="settings", good=False, detail=str(error))]
    found = _Finding(name="settings", good=True, detail=f"{settings.name}, silos connect to {settings.address}")
    steps: _Steps[FederationFolder] = [
        *([] if settings.insecure else [("certificates", _certificates)]),
        ("public folder", _public),
        ("silos", _silos),
        ("server", _server),
        ("disk", _disk),
    ]
    return [found, *(_look(name, step, folder) for name, step in steps)]


def _look(name: str, step: Callable[[_Where], str], where: _Where) -> _Finding:
    try:
        return _Finding(name=name, good=True, detail=step(where))
    except RecsysFedError as error:
        return _Finding(name=name, good=False, detail=str(error))


def _certificates(folder: FederationFolder) -> str:
    check_certificates(folder)
    ends = expiry(folder.server_certificate)
    if ends < datetime.now(UTC) + timedelta(days=_LEAST_DAYS):
        raise ConfigurationError(
            f"The server's certificate ends on {ends:%Y-%m-%d}: recsys-fed federation renew-certificate {folder.path}"
        )
    kept = "" if folder.authority_key.is_file() else "; the authority's key is kept elsewhere"
    return f"the server's ends on {ends:%Y-%m-%d}{kept}"


def _public(folder: FederationFolder) -> str:
    """What silos are handed must be what the server trains with, or they refuse each other."""
    terms, own = read_federation(folder.public / TERMS), folder.settings()
    handed_out, used = agreed_keys(terms.training), agreed_keys(own.training)
    differing = [name for name in sorted(handed_out | used) if handed_out.get(name) != used.get(name)]
    if differing:
        raise ConfigurationError(
            f"Expected the terms in {folder.public / TERMS} to be those of {folder.settings_file}, they differ in "
            f"{', '.join(differing)}. Silos refuse what they have not agreed to: put the old values back."
        )
    catalogue = Catalogue.load(folder.public / CATALOGUE)
    return f"terms as in {folder.settings_file.name}; {catalogue.n_items} items, {catalogue.content_hash[:16]}..."


def _silos(folder: FederationFolder) -> str:
    there, training = admitted_silos(folder), folder.settings().training
    if warning := surplus(folder):
        raise ConfigurationError(warning)
    if len(there) < training.silos:
        raise ConfigurationError(
            f"{len(there)} silos are admitted, the terms are for {training.silos}: a training waits for the others. "
            "Admit them: `federation admit`."
        )
    roster = read_roster(folder.public / ROSTER)
    if roster != {known.name: known.ledger_key for known in there}:
        raise ConfigurationError(
            "The published roster is not that of the admitted silos: `federation admit` writes it."
        )
    return f"{len(there)} are admitted, as many as the terms are for"


def _server(folder: FederationFolder) -> str:
    settings = folder.settings()
    port, authority = split_address(settings.address)[1], None if settings.insecure else folder.public / AUTHORITY
    if not healthy("127.0.0.1", port, authority=authority):
        return f"serves on {settings.listen}:{port}"
    check_port(settings.listen, port)
    return f"does not serve; {settings.listen}:{port} is free"


def _disk(folder: FederationFolder) -> str:
    free = shutil.disk_usage(folder.path).free
    if free < _LEAST_FREE:
        raise ConfigurationError(
            f"{free / 1e9:.1f} GB are free in {folder.path}: a training writes checkpoints there."
        )
    return f"{free / 1e9:.1f} GB are free"


def _keys(settings: SiloSettings) -> str:
    words = passphrase()
    for file in (settings.node_key, settings.ledger_key, settings.secret_key):
        path = Path(file)
        if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise ConfigurationError(f"Expected {path} to be readable by its owner only: chmod 600.")
    public_node_key(Path(settings.node_key), passphrase=words)
    SiloSecret.load(Path(settings.secret_key), passphrase=words)
    return f"ledger key {SigningKey.load(Path(settings.ledger_key), passphrase=words).public_key[:16]}..."


def _ledger(settings: SiloSettings) -> str:
    key = SigningKey.load(Path(settings.ledger_key), passphrase=passphrase())
    ledger = Ledger.open(settings.ledger, key=key, witness=Path(settings.witness) if settings.witness else None)
    with closing(ledger):
        verify_ledger(ledger, public_key=key.public_key)
        spent = ledger.spending().epsilon
        limit = ledger.terms().guarantee.epsilon
        if ledger.terms().simulated != settings.simulated:
            raise LedgerIntegrityError(
                "Expected simulated-seed in silo.toml exactly where the ledger is a simulation's."
            )
        if spent + settings.agreed.epsilon > limit:
            note = f"; a whole training of epsilon {settings.agreed.epsilon:g} may not fit"
        else:
            note = ""
        return f"it holds; epsilon {spent:.4f} of {limit:g} is spent{note}"


def _schedule(settings: SiloSettings) -> str:
    schedule = schedule_of(settings)
    return "none" if schedule is None else schedule.sentence()


def _catalogue(settings: SiloSettings) -> str:
    catalogue = Catalogue.load(settings.catalogue)
    public = catalogue.public_users
    users = f"; public users: {public.sentence()}" if public is not None else ""
    return f"{catalogue.n_items} items, {catalogue.content_hash[:16]}...{users}"


def _roster(settings: SiloSettings) -> str:
    masking = masking_of(resolve_masking(settings.agreed, simulated=settings.simulated))
    if masking is None:
        return "not needed: no secure aggregation"
    found = read_roster(Path(settings.roster))
    own = SigningKey.load(Path(settings.ledger_key), passphrase=passphrase()).public_key
    if own not in found.values() or len(found) < masking.threshold:
        raise ConfigurationError(
            f"Expected a roster of at least {masking.threshold} silos, this one among them, got {len(found)}. "
            "Take in the federation's newest: `silo roster`."
        )
    return f"{len(found)} silos, of which {masking.threshold} must stay to the end of a round"


def _data(settings: SiloSettings) -> str:
    catalogue = Catalogue.load(settings.catalogue)
    secret = SiloSecret.load(Path(settings.secret_key), passphrase=passphrase())
    data = open_silo_data(settings.data, catalogue, Participants.of_silo(settings, secret), prefix="check-")
    if not len(data.users):
        raise ConfigurationError("Expected at least one user with interactions in the catalogue, got none.")
    check_delta(settings.agreed.delta, n_users=len(data.users))
    lines = [f"{len(data.users)} users, {data.interactions} interactions ({data.test.nnz} held out)"]
    lines += [f"{data.unknown_items} with items that the catalogue lacks"] if data.unknown_items else []
    lines += [f"{data.short} users with too short a history are left out"] if data.short else []
    lines += [f"{data.ties} pairs of a user's neighbouring interactions have one time"] if data.ties else []
    settings.check_rules(settings.agreed)
    rule = weights_rule(settings.agreed.user_weights)
    weights = numbers_of_users(settings, rule, data.users, Pseudonyms(secret))
    if weights is not None:
        lines += [f"{count} users count {weight:g}" for weight, count in sorted(Counter(weights.tolist()).items())]
    return "; ".join(lines if data.report.is_clean else [*lines, *data.report.table()])


def _federation(settings: SiloSettings) -> str:
    """Whether the server answers, its clock, whether it knows this silo, and if there is anything to agree to."""
    found = standing_of(settings, passphrase=passphrase())
    if found.reason:
        raise ConfigurationError(found.reason)
    skew = found.clock_ahead
    if abs(skew) > _MOST_CLOCK_SECONDS:
        raise ConfigurationError(
            f"Expected clocks within {_MOST_CLOCK_SECONDS:g} s, the server's is {skew:+.0f} s off."
        )
    ends = f", trusted until {expiry(Path(settings.root_certificate)):%Y-%m-%d}" if settings.root_certificate else ""
    notice = _notice(settings)
    return f"{settings.address} answers and knows this silo, its clock is {skew:+.1f} s off{ends}; {notice}"


def _notice(settings: SiloSettings) -> str:
    """Whether the silo has what the federation's notice says: roster, terms and catalogue."""
    if not (handed_out_folder(settings) / FEDERATION_KEY).is_file():
        return "this silo joined before its federation had a key: `silo update --federation-key`"
    found = fetch_update(settings, passphrase=passphrase())
    if found.is_news:
        what = [("silos", found.admitted or found.gone), ("terms", found.terms), ("catalogue", found.catalogue)]
        raise ConfigurationError(
            f"The federation has new {' and '.join(name for name, there in what if there)} (notice "
            f"{found.notice.version}, fingerprint {found.notice.fingerprint()}). See `recsys-fed silo update`."
        )
    return f"notice {found.notice.version} is taken in, fingerprint {found.notice.fingerprint()}"


def _problems(findings: list[_Finding]) -> Iterator[str]:
    """The findings that are not good, as lines."""
    return (f"{finding.name}: {finding.detail}" for finding in findings if not finding.good)
