"""What a silo keeps: its users' histories, its ledger, and the streams of its randomness."""

from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from flwr.app import Context
from scipy import sparse

from client.simulated_ledger import accepted_terms, label_of, simulated_ledger
from recsys_fed.catalogue.items import Catalogue
from recsys_fed.config import FederationConfig, SimulationConfig, parse
from recsys_fed.data.simulated import SimulatedFederation, silo_histories, simulated_federation
from recsys_fed.errors import ConfigurationError, ProtocolError
from recsys_fed.federation.noise_split import settled, share_of_silo
from recsys_fed.federation.ranks import over_ranks, rows_of_share, share_of
from recsys_fed.federation.release import Randomness, answer, noised_integers, release_event
from recsys_fed.federation.secure_aggregation.noise_share import noise_share
from recsys_fed.federation.secure_aggregation.terms import AcceptedTerms
from recsys_fed.federation.update import Request, Update, payload_of, request_digest, update_of
from recsys_fed.ledger.entries import Release
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.models.device import resolve_device
from recsys_fed.models.user_blocks import UserHistories
from recsys_fed.privacy.events import ReleaseEvent
from recsys_fed.privacy.guarantee import check_delta
from recsys_fed.privacy.noise import SeededNoise
from recsys_fed.signing.canonical import sha256
from recsys_fed.signing.keys import SigningKey
from recsys_fed.trainers import configured_trainer
from recsys_fed.trainers.base import Trainer
from recsys_fed.versions import version_of

# Purposes of a simulation's seed: streams that must differ have different numbers.
_NOISE, _SAMPLING, _NONCE = 1, 2, 3
# Tensors of simulated silos, by silo, device and size of blocks.
_KEPT: WeakKeyDictionary[SimulatedFederation, dict[tuple[int, str, int], UserHistories]] = WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True, eq=False)
class Silo:
    """One silo, opened.

    Attributes:
        name: public label.
        index: number of the silo in its federation; part of a simulation's noise keys.
        config: what the silo itself accepts.
        catalogue: public items.
        histories: the private data; of one rank, where the silo has several.
        test: csr, what its users hold out to measure models on.
        ledger: charged before anything leaves; key: signs its entries and certificates.
        accepted: with whom, and on which terms, this silo takes part in secure aggregation; None: it does not.
    """

    name: str
    index: int
    config: FederationConfig
    catalogue: Catalogue
    histories: UserHistories
    test: sparse.csr_matrix
    ledger: Ledger
    key: SigningKey
    accepted: AcceptedTerms | None = None

    @property
    def trainer(self) -> Trainer:
        """The trainer whose silo half this silo is willing to run."""
        return over_ranks(configured_trainer(self.config), silo=self.name)

    def randomness(self, release: int) -> Randomness:
        """The streams of the silo's release of that number; a simulation repeats them from its seed."""
        key = self.config.seed, self.index, release
        return Randomness(
            noise=SeededNoise(_NOISE, *key),
            sampling=SeededNoise(_SAMPLING, *key),
            nonce=np.random.SeedSequence((_NONCE, *key)).generate_state(4).tobytes().hex(),
        )

    def release(self, request: Request, *, run: str) -> Update:
        """Compute, charge and return the answer; a request that was answered before gets the same bytes.

        Guarantees: the event is in the ledger, and durable there, before this returns. Nothing is computed
        for a release that the ledger would refuse.

        Raises:
            BudgetExceededError: it would exceed the ledger's limit; the ledger is unchanged.
            ProtocolError: the request does not fit the trainer, or its answer must be masked.
        """
        if request.masked:
            raise ProtocolError("Expected the keys and shares of a masked round before its request, got none.")
        digest = request_digest(request)
        kept = self.ledger.kept_payload(run=run, request=digest)
        if kept is not None:
            return update_of(kept)
        randomness = self._asked(request)
        update = answer(request, self.trainer, self.histories, silo=self.name, randomness=randomness, test=self.test)
        self.charge(request, update.event, payload_of(update), run=run)
        return update

    def noised(self, request: Request) -> tuple[npt.NDArray[np.int64], ReleaseEvent]:
        """Compute the integers that answer a masked request, and what they cost. They must be masked and charged.

        Raises:
            BudgetExceededError: they would exceed the ledger's limit; nothing is computed.
            ProtocolError: the request does not fit the trainer.
        """
        randomness = self._asked(request)
        integers = noised_integers(request, self.trainer, self.histories, randomness=randomness, test=self.test)
        return integers, release_event(request, noise_source=randomness.noise.name)

    def charge(self, request: Request, event: ReleaseEvent, payload: bytes, *, run: str, keep: bool = True) -> None:
        """Charge the bytes that answer a request; they may leave when this returns, see `Ledger.charge`."""
        release = Release(
            event=event,
            run=run,
            request=request_digest(request),
            payload=sha256(payload),
            code_version=version_of("recsys-fed"),
        )
        self.ledger.charge(release, payload, keep=keep)

    def _asked(self, request: Request) -> Randomness:
        """The randomness of the next release, once the budget was asked whether it may be."""
        randomness = self.randomness(self.ledger.releases())
        self.ledger.check(release_event(request, noise_source=randomness.noise.name))
        return randomness

    def check_request(self, request: Request) -> None:
        """Refuse what this silo has not agreed to, whatever the server asks.

        Raises:
            ProtocolError: another catalogue, whose rows would mean other items, or a smaller share of the
                noise than this silo adds.
        """
        if request.catalogue_hash != self.catalogue.content_hash:
            raise ProtocolError(
                f"Expected a request about the catalogue {self.catalogue.content_hash[:12]}, got "
                f"{request.catalogue_hash[:12]}. Agree on one catalogue."
            )
        least = self._least_share(request)
        if request.noise_share < least:
            raise ProtocolError(f"Expected a noise share of at least {least}, got {request.noise_share}.")

    def _least_share(self, request: Request) -> float:
        """Of a masked request it follows from the terms, which `secure_aggregation` checks against `accepted`."""
        if request.masked:
            return noise_share(
                threshold=request.threshold,
                colluding=request.colluding,
                max_silos_per_user=self.config.max_silos_per_user,
            )
        return share_of_silo(self.config) if self.config.noise == "central" else 1.0


def open_silo(context: Context) -> Silo:
    """Open the silo that a context belongs to.

    Raises:
        ConfigurationError: the node is not a simulated one. Simulated silos draw their noise from a seed that
            the server knows, so nothing else may be opened this way.
        PrivacyError: delta is too large for the number of users of this silo.
    """
    if "partition-id" not in context.node_config:
        raise ConfigurationError(
            "Expected a simulated node with a partition-id, got a real one. This ClientApp draws its noise from "
            "the run's seed and serves simulations only."
        )
    config = parse(FederationConfig, context.run_config)
    config = replace(config, silos=config.silos or int(context.node_config["num-partitions"]))
    config = settled(config, simulated=True)
    simulation = parse(SimulationConfig, context.run_config)
    federation = simulated_federation(simulation, silos=config.silos, seed=config.seed)
    index = int(context.node_config["partition-id"])
    users = federation.users_of_silo[index]
    if len(users):
        check_delta(config.delta, n_users=len(users))
    name = label_of(index)
    ledger, key = simulated_ledger(name, config, simulation, run=str(context.run_id))
    return Silo(
        name=name,
        index=index,
        config=config,
        catalogue=federation.catalogue,
        histories=_histories(federation, index, str(resolve_device(config.device)), simulation.block_interactions),
        # Of several ranks the first measures its own users.
        test=federation.test[users[rows_of_share(len(users))]],
        ledger=ledger,
        key=key,
        accepted=accepted_terms(config, simulation, run=str(context.run_id)),
    )


def _histories(federation: SimulatedFederation, index: int, device: str, block_interactions: int) -> UserHistories:
    """Tensors of a silo: a run asks for them every round, and they go when their federation does."""
    kept, asked = _KEPT.setdefault(federation, {}), (index, device, block_interactions)
    if asked not in kept:
        made = silo_histories(federation, index, device=device, block_interactions=block_interactions)
        kept[asked] = share_of(made)
    return kept[asked]


def forget_histories() -> None:
    """Make tensors anew when they are asked for next."""
    _KEPT.clear()
