"""A deployed silo: opened from its own silo.toml, with noise of the operating system and a real ledger.

The path of silo.toml comes from the SuperNode's own command line (--node-config); a server cannot change it.
"""

import secrets
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from client.state import Silo
from recsys_fed.catalogue.items import Catalogue
from recsys_fed.config import FederationConfig
from recsys_fed.errors import BudgetExceededError, ConfigurationError, ProtocolError
from recsys_fed.federation.noise_split import masking_of, settled
from recsys_fed.federation.release import Randomness
from recsys_fed.federation.roster import read_roster
from recsys_fed.federation.secure_aggregation.terms import AcceptedTerms
from recsys_fed.federation.update import Request
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.models.device import resolve_device
from recsys_fed.privacy.events import ReleaseEvent
from recsys_fed.privacy.guarantee import check_delta
from recsys_fed.privacy.noise import SystemNoise
from recsys_fed.signing.keys import SigningKey
from recsys_fed.silo.interactions import SiloData
from recsys_fed.silo.on_disk import StoredSiloData, open_silo_data
from recsys_fed.silo.passphrase import passphrase
from recsys_fed.silo.pseudonyms import Pseudonyms
from recsys_fed.silo.secret import SiloSecret
from recsys_fed.silo.settings import SiloSettings, read_silo_settings, settings_file
from recsys_fed.silo.state import StateFolder

_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True, eq=False)
class DeployedSilo(Silo):
    """A silo as its operator has set it up.

    Attributes:
        settings: silo.toml. data: what was read under it.
        state: what the silo keeps of finished trainings.
    """

    settings: SiloSettings
    data: SiloData | StoredSiloData
    state: StateFolder

    def randomness(self, release: int) -> Randomness:
        """Streams from the operating system; from the seed only where silo.toml and the ledger say "simulated"."""
        if self.settings.simulated:
            return super().randomness(release)
        return Randomness(
            noise=SystemNoise(),
            sampling=SystemNoise(),
            nonce=secrets.token_hex(16),
        )

    def charge(self, request: Request, event: ReleaseEvent, payload: bytes, *, run: str, keep: bool = True) -> None:
        """As every silo; besides, one training may not cost more than the epsilon that was agreed on.

        Raises:
            BudgetExceededError: it would exceed the ledger's limit or the agreed epsilon; nothing leaves.
        """
        spent = self.ledger.would_spend((event,), run=run)
        if spent > self.config.epsilon * (1 + _ROUNDING):
            raise BudgetExceededError(
                f"Expected a training of at most the agreed epsilon {self.config.epsilon:g}, this one would have "
                f"cost {spent:.4f}."
            )
        super().charge(request, event, payload, run=run, keep=keep)

    def check_request(self, request: Request) -> None:
        """Refuse what this silo has not agreed to, whatever the server asks; raises ProtocolError."""
        super().check_request(request)
        if request.trainer != self.config.trainer:
            raise ProtocolError(f"Expected the agreed trainer {self.config.trainer}, got {request.trainer!r}.")

    def keep(self, model: bytes) -> None:
        """Take in the released model: fold in all users and seal them; see `StateFolder`."""
        self.state.keep(model, self.data.parts())


def open_deployed_silo(path: Path) -> DeployedSilo:
    """Open a silo by its silo.toml (or the folder of it); once a process, however the path is written.

    Raises:
        RecsysFedError: settings, keys, ledger or data are not as they should be; the text may hold private paths.
    """
    return _opened(settings_file(path))


@lru_cache(maxsize=4)
def _opened(path: Path) -> DeployedSilo:
    settings = read_silo_settings(path)
    words = passphrase()
    key = SigningKey.load(Path(settings.ledger_key), passphrase=words)
    secret = SiloSecret.load(Path(settings.secret_key), passphrase=words)
    ledger = Ledger.open(settings.ledger, key=key, witness=Path(settings.witness) if settings.witness else None)
    check_terms(settings, ledger)
    catalogue = Catalogue.load(settings.catalogue)
    data = open_silo_data(settings.data, catalogue, Pseudonyms(secret))
    if len(data.users):
        check_delta(settings.agreed.delta, n_users=len(data.users))
    agreed = replace(settings.agreed, device=settings.device, threads=settings.threads)
    config = settled(replace(agreed, seed=max(settings.simulated_seed, 0)), simulated=settings.simulated)
    silo = DeployedSilo(
        name=settings.name,
        index=settings.simulated_index,
        config=config,
        catalogue=catalogue,
        histories=data.histories(resolve_device(settings.device)),
        test=data.test,
        ledger=ledger,
        key=key,
        accepted=_accepted(settings, config),
        settings=settings,
        data=data,
        state=StateFolder(Path(settings.state), secret),
    )
    # No connection is held: a fork must not share one.
    ledger.close()
    return silo


def _accepted(settings: SiloSettings, config: FederationConfig) -> AcceptedTerms | None:
    """With whom this silo takes part in secure aggregation: the roster that its own operator has taken in."""
    masking = masking_of(config)
    if masking is None:
        return None
    return AcceptedTerms(
        admitted=frozenset(read_roster(Path(settings.roster)).values()),
        least_contributors=masking.contributors,
        least_colluding=masking.colluding,
    )


def check_terms(settings: SiloSettings, ledger: Ledger) -> None:
    """Refuse a ledger that does not fit silo.toml.

    Raises:
        ConfigurationError: another silo's; terms of another delta or overlap; or seeded noise where the ledger is
            not a simulation's, and the reverse.
    """
    terms = ledger.terms()
    facts = {
        "silo": (terms.silo, settings.name),
        "delta": (terms.guarantee.delta, settings.agreed.delta),
        "max-silos-per-user": (terms.guarantee.max_silos_per_user, settings.agreed.max_silos_per_user),
        "declared-users": (terms.declared_users, settings.agreed.declared_users),
        "simulated": (terms.simulated, settings.simulated),
    }
    for name, (expected, got) in facts.items():
        if expected != got:
            raise ConfigurationError(
                f"Expected {name} {expected} in silo.toml, as in the first entry of its ledger, got {got}. "
                "Terms of a ledger never change: start a silo anew for others."
            )


def forget_silos() -> None:
    """Let the next opening read silo.toml and the data anew."""
    _opened.cache_clear()
