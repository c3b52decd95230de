"""The ledger of a simulated silo: a real one, but for the wait for the disk, with a key of its own beside it."""

import os
from functools import lru_cache
from pathlib import Path

from recsys_fed.certificates.terms import LedgerTerms
from recsys_fed.config import FederationConfig, SimulationConfig
from recsys_fed.errors import DataNotFoundError, KeyFileError
from recsys_fed.federation.noise_split import masking_of
from recsys_fed.federation.secure_aggregation.terms import AcceptedTerms
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.privacy.guarantee import Guarantee
from recsys_fed.signing import SigningKey

LEDGER, KEY = "ledger.sqlite", "signing.key"


def label_of(index: int) -> str:
    """Public label of a simulated silo."""
    return f"silo-{index}"


def simulated_ledger(
    silo: str, config: FederationConfig, simulation: SimulationConfig, *, run: str
) -> tuple[Ledger, SigningKey]:
    """Open the ledger of a simulated silo, or start it; return it with its key."""
    guarantee = Guarantee(
        epsilon=simulation.epsilon_limit or config.epsilon,
        delta=config.delta,
        max_silos_per_user=config.max_silos_per_user,
    )
    return _opened(_folder(simulation, run=run) / silo, silo, guarantee, config.declared_users, run)


def accepted_terms(config: FederationConfig, simulation: SimulationConfig, *, run: str) -> AcceptedTerms | None:
    """What a simulated silo accepts in a masked round: the other silos' keys, and what its configuration says.

    The keys are those of the simulated silos' folders: all are there once every silo has greeted; until then none is
    admitted.
    """
    masking = masking_of(config)
    if masking is None:
        return None
    try:
        admitted = _public_keys(_folder(simulation, run=run), config.silos, run)
    except (DataNotFoundError, KeyFileError):
        admitted = frozenset()
    return AcceptedTerms(
        admitted=admitted, least_contributors=masking.contributors, least_colluding=masking.colluding
    )


@lru_cache(maxsize=64)
def _public_keys(folder: Path, silos: int, run: str) -> frozenset[str]:
    """The identities of all simulated silos; read once a run and process."""
    return frozenset(SigningKey.load(folder / label_of(index) / KEY).public_key for index in range(silos))


def _folder(simulation: SimulationConfig, *, run: str) -> Path:
    """The folder that the run names; a bare `flwr run` names none and gets one of its own beside Flower's state."""
    if simulation.ledgers:
        return Path(simulation.ledgers)
    home = Path(os.environ.get("FLWR_HOME", "~/.flwr")).expanduser()
    return home / "recsys-fed-ledgers" / f"run-{run}"


@lru_cache(maxsize=1024)
def _opened(
    folder: Path, silo: str, guarantee: Guarantee, declared_users: int, run: str
) -> tuple[Ledger, SigningKey]:
    """Opened once a run and process: a silo is asked every round."""
    path, key_file = folder / LEDGER, folder / KEY
    # A key without a ledger is what a crash between the two leaves.
    key = SigningKey.load(key_file) if key_file.is_file() else SigningKey.generate()
    if path.is_file():
        return Ledger.open(str(path), key=key, durable=False), key
    if not key_file.is_file():
        key.save(key_file)
    terms = LedgerTerms(
        silo=silo,
        public_key=key.public_key,
        guarantee=guarantee,
        declared_users=declared_users,
        simulated=True,
    )
    return Ledger.create(str(path), key=key, terms=terms, durable=False), key
