"""A silo that answers: it checks a request against its own plan, charges it, and only then looks at its users.

check_request (public) -> ledger.charge (durable) -> users, sum, noise (cannot fail outwards) -> settle -> leaves

A simulated silo's ledger is a real one, but for the wait for the disk, with a key of its own beside it.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from flwr.app import Context

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.certificates.terms import LedgerTerms
from recsys_fed.config import FederationConfig, SimulationConfig, parse
from recsys_fed.data.readers.users import UserRule, groups_rule, weights_rule
from recsys_fed.data.simulated import (
    SimulatedFederation,
    silo_histories,
    simulated_federation,
    simulated_user_numbers,
)
from recsys_fed.errors import ConfigurationError, DataNotFoundError, KeyFileError, ProtocolError
from recsys_fed.federation.distributed import check_ranks, over_ranks, rows_of_share, share_of
from recsys_fed.federation.messages import Request, Update, payload_of, request_digest, update_of
from recsys_fed.federation.noise_split import masking_of, resolve_masking
from recsys_fed.federation.plan import check_request
from recsys_fed.federation.release import OnFailure, Randomness, SiloUsers, answer, noisy_integers, release_event
from recsys_fed.federation.secure_aggregation.terms import AcceptedTerms
from recsys_fed.ledger.agreed_schedule import AgreedSchedule
from recsys_fed.ledger.budget import Allowance
from recsys_fed.ledger.entries import Entry, run_name
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.models.device import resolve_device
from recsys_fed.models.histories import Signal, UserHistories
from recsys_fed.privacy.events import ReleaseEvent
from recsys_fed.privacy.guarantee import Guarantee
from recsys_fed.privacy.noise import SeededNoise
from recsys_fed.signing import SigningKey
from recsys_fed.trainers.registry import configured_trainer, signals_read
from recsys_fed.trainers.trainer import Trainer
from recsys_fed.versions import version_of

LEDGER, KEY = "ledger.sqlite", "signing.key"
# Purposes of a simulation's seed: streams that must differ have different numbers.
_NOISE, _SAMPLING = 1, 2
# Number of a silo, device, size of blocks, and which signals are read.
_Asked = tuple[int, str, int, frozenset[Signal]]
# Tensors of simulated silos.
_KEPT: WeakKeyDictionary[SimulatedFederation, dict[_Asked, UserHistories]] = WeakKeyDictionary()


def _label_of(index: int) -> str:
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
    return _open_ledger(_ledger_folder(simulation, run=run) / silo, silo, guarantee, config.declared_users, run)


def _accepted_terms(config: FederationConfig, simulation: SimulationConfig, *, run: str) -> AcceptedTerms | None:
    """What a simulated silo accepts in a masked round: the other silos' keys, and what its configuration says.

    The keys are those of the simulated silos' folders: all are there once every silo has greeted; until then none is
    admitted.
    """
    masking = masking_of(config)
    if masking is None:
        return None
    try:
        admitted = _read_public_keys(_ledger_folder(simulation, run=run), config.silos, run)
    except (DataNotFoundError, KeyFileError):
        admitted = frozenset()
    return AcceptedTerms(
        admitted=admitted, least_contributors=masking.contributors, least_colluding=masking.colluding
    )


@lru_cache(maxsize=64)
def _read_public_keys(folder: Path, silos: int, run: str) -> frozenset[str]:
    """The identities of all simulated silos; read once a run and process."""
    return frozenset(SigningKey.load(folder / _label_of(index) / KEY).public_key for index in range(silos))


def _ledger_folder(simulation: SimulationConfig, *, run: str) -> Path:
    """The folder that the run names; a bare `flwr run` names none and gets one of its own beside Flower's state."""
    if simulation.ledgers:
        return Path(simulation.ledgers)
    home = Path(os.environ.get("FLWR_HOME", "~/.flwr")).expanduser()
    return home / "recsys-fed-ledgers" / f"run-{run}"


@lru_cache(maxsize=1024)
def _open_ledger(
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


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskedInput:
    """What a silo puts into a masked round: its integers, the event that pays for their sum, the draw's name."""

    integers: npt.NDArray[np.int64]
    event: ReleaseEvent
    nonce: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Silo(ABC):
    """One silo, opened: all that it decides with before it looks at private data.

    Attributes:
        name: public label.
        index: number of the silo in its federation; part of a simulation's noise keys.
        config: what the silo itself accepts.
        catalogue: public items.
        ledger: charged before anything is computed; key: signs its entries and certificates.
        accepted: with whom, and on which terms, this silo takes part in secure aggregation; None: it does not.
    """

    name: str
    index: int
    config: FederationConfig
    catalogue: Catalogue
    ledger: Ledger
    key: SigningKey
    accepted: AcceptedTerms | None = None

    @property
    def trainer(self) -> Trainer:
        """The trainer whose silo half this silo is willing to run."""
        return over_ranks(configured_trainer(self.config), silo=self.name)

    @property
    def allowance(self) -> Allowance:
        """What one training may cost, and how many there may be; a simulated silo leaves it to its ledger's limit."""
        return Allowance()

    @property
    def schedule(self) -> AgreedSchedule | None:
        """The trainings that the silo agrees to for years; a simulated silo leaves it to its ledger's limit."""
        return None

    @property
    def federation(self) -> str:
        """What tells this federation's trainings apart in a ledger that several share."""
        return ""

    def run_in_ledger(self, training: str) -> str:
        """The run under which a training stands in the ledger."""
        return run_name(self.federation, training)

    @abstractmethod
    def users(self, run: str) -> SiloUsers:
        """The private data that a run trains on; of one rank, where the silo has several. Reading it may fail."""

    @property
    def noise_source(self) -> str:
        """Where the noise comes from, as events say it."""
        return SeededNoise.name

    def randomness(self, release: int) -> Randomness:
        """The streams of the silo's release of that number; a simulation repeats them from its seed."""
        key = self.config.seed, self.index, release
        return Randomness(noise=SeededNoise(_NOISE, *key), sampling=SeededNoise(_SAMPLING, *key))

    @abstractmethod
    def build_on(self, certificates: Sequence[bytes], *, run: str) -> None:
        """Take in on which earlier trainings a run builds."""

    def config_of(self, run: str) -> FederationConfig:
        """What the silo accepts in a run: which earlier trainings it builds on bears on its plan."""
        return self.config

    def check_request(self, request: Request, *, run: str) -> None:
        """Refuse what is not part of the plan that this silo derives, before anything private is touched.

        Raises:
            ProtocolError: it names what differs; see `federation.plan.check_request`.
        """
        check_request(request, self.config_of(run), self.catalogue, with_features=self._server_has_features())
        check_ranks(request)

    def release(self, request: Request, *, run: str, on_failure: OnFailure) -> Update:
        """Charge, compute and return the answer; a request that was answered before gets the same bytes.

        Guarantees: the event is in the ledger, and durable there, before anything private is read. From then on there
        is an answer of one shape, whatever the private data is: see `noisy_integers`. Under one charge one draw
        leaves and never two.

        Raises:
            ProtocolError: the request is not part of the plan, goes back to an earlier round, or must be masked.
            BudgetExceededError: it would exceed the ledger's limit or the allowance; the ledger is unchanged.
        """
        if request.masked:
            raise ProtocolError("The request of a masked round came before its keys and shares. Ask for those first.")
        self.check_request(request, run=run)
        digest = request_digest(request)
        charged_to = self.run_in_ledger(run)
        kept = self.ledger.kept_payload(run=charged_to, request=digest)
        if kept is not None:
            return update_of(kept)
        entry = self._charge(self._event(request), run=charged_to, digest=digest, keep=True)
        update = answer(
            request,
            self.trainer,
            partial(self.users, run),
            silo=self.name,
            nonce=entry.draw,
            randomness=self.randomness(entry.number - 1),
            on_failure=on_failure,
        )
        return update_of(self.ledger.settle(run=charged_to, request=digest, payload=payload_of(update)))

    def masked_input(self, request: Request, *, run: str, on_failure: OnFailure) -> MaskedInput:
        """Charge a masked request and compute the integers that answer it, which must be masked.

        Guarantees: those of `release`.

        Raises:
            ProtocolError, BudgetExceededError: as `release`; nothing is charged.
        """
        self.check_request(request, run=run)
        event = self._event(request)
        entry = self._charge(event, run=self.run_in_ledger(run), digest=request_digest(request), keep=False)
        randomness = self.randomness(entry.number - 1)
        integers = noisy_integers(
            request, self.trainer, partial(self.users, run), randomness=randomness, on_failure=on_failure
        )
        return MaskedInput(integers=integers, event=event, nonce=entry.draw)

    def _event(self, request: Request) -> ReleaseEvent:
        return release_event(request, noise_source=self.noise_source)

    def _charge(self, event: ReleaseEvent, *, run: str, digest: str, keep: bool) -> Entry:
        return self.ledger.charge(
            event,
            run=run,
            request=digest,
            code_version=version_of("recsys-fed"),
            allowance=self.allowance,
            schedule=self.schedule,
            keep=keep,
        )

    def _server_has_features(self) -> bool:
        """Whether the server plans with the public columns of the catalogue: where the settings give it the file."""
        return bool(self.config.catalogue)


@dataclass(frozen=True, kw_only=True, eq=False)
class SimulatedSilo(Silo):
    """A silo of a simulation.

    Attributes:
        read: gives its users.
    """

    read: Callable[[], SiloUsers]

    def build_on(self, certificates: Sequence[bytes], *, run: str) -> None:
        """The settings that it has from the server say it."""

    def users(self, run: str) -> SiloUsers:
        """The users as they are read, the same for every run."""
        return self.read()


def open_simulated_silo(context: Context) -> Silo:
    """Open the silo that a context belongs to.

    Raises:
        ConfigurationError: the node is not a simulated one. Simulated silos draw their noise from a seed that
            the server knows, so nothing else may be opened this way.
    """
    if "partition-id" not in context.node_config:
        raise ConfigurationError(
            "Expected a simulated node with a partition-id, got a real one. This ClientApp draws its noise from "
            "the run's seed and serves simulations only."
        )
    config = parse(FederationConfig, context.run_config)
    config = replace(config, silos=config.silos or int(context.node_config["num-partitions"]))
    config = resolve_masking(config, simulated=True)
    simulation = parse(SimulationConfig, context.run_config)
    federation = simulated_federation(simulation, silos=config.silos, seed=config.seed)
    index = int(context.node_config["partition-id"])
    rows, name = federation.users_of_silo[index], _label_of(index)
    ledger, key = simulated_ledger(name, config, simulation, run=str(context.run_id))

    def numbers(rule: UserRule | None) -> npt.NDArray[np.float64] | None:
        found = simulated_user_numbers(federation, rule, simulation)
        return None if found is None else found[rows]

    return SimulatedSilo(
        name=name,
        index=index,
        config=config,
        catalogue=federation.catalogue,
        read=lambda: SiloUsers(
            histories=_histories(federation, index, config=config, block_interactions=simulation.block_interactions),
            # Of several ranks the first measures its own users.
            test=federation.test[rows[rows_of_share(len(rows))]],
            weights=numbers(weights_rule(config.user_weights)),
            groups=numbers(groups_rule(config.metric_groups)),
        ),
        ledger=ledger,
        key=key,
        accepted=_accepted_terms(config, simulation, run=str(context.run_id)),
    )


def _histories(
    federation: SimulatedFederation, index: int, *, config: FederationConfig, block_interactions: int
) -> UserHistories:
    """Tensors of a silo: a run asks for them every round, and they go when their federation does."""
    device, reads = str(resolve_device(config.device)), signals_read(config)
    kept, asked = _KEPT.setdefault(federation, {}), (index, device, block_interactions, reads)
    if asked not in kept:
        made = silo_histories(federation, index, device=device, block_interactions=block_interactions, reads=reads)
        kept[asked] = share_of(made)
    return kept[asked]


def forget_histories() -> None:
    """Make tensors anew when they are asked for next."""
    _KEPT.clear()
