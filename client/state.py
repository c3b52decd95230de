"""What a silo keeps: its users' histories, its ledger, and the streams of its randomness."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from flwr.app import Context
from scipy import sparse

from client.simulated_ledger import simulated_ledger
from recsys_fed.catalogue.items import Catalogue
from recsys_fed.config import FederationConfig, SimulationConfig, parse
from recsys_fed.data.simulated import SimulatedFederation, silo_histories, simulated_federation
from recsys_fed.errors import ConfigurationError, ProtocolError
from recsys_fed.federation.ranks import over_ranks, rows_of_share, share_of
from recsys_fed.federation.release import Randomness, answer, release_event
from recsys_fed.federation.update import Request, Update, payload_of, request_digest, update_of
from recsys_fed.ledger.entries import Release
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.models.device import resolve_device
from recsys_fed.models.user_blocks import UserHistories
from recsys_fed.privacy.guarantee import check_delta
from recsys_fed.privacy.noise import SeededNoise, seeded_generator
from recsys_fed.signing.canonical import sha256
from recsys_fed.signing.keys import SigningKey
from recsys_fed.trainers import configured_trainer
from recsys_fed.trainers.base import Trainer
from recsys_fed.versions import version_of

# Purposes of a simulation's seed: streams that must differ have different numbers.
_NOISE, _SAMPLING, _NONCE = 1, 2, 3


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
    """

    name: str
    index: int
    config: FederationConfig
    catalogue: Catalogue
    histories: UserHistories
    test: sparse.csr_matrix
    ledger: Ledger
    key: SigningKey

    @property
    def trainer(self) -> Trainer:
        """The trainer whose silo half this silo is willing to run."""
        return over_ranks(configured_trainer(self.config), silo=self.name)

    def randomness(self, release: int) -> Randomness:
        """The streams of the silo's release of that number; a simulation repeats them from its seed."""
        key = self.config.seed, self.index, release
        return Randomness(
            noise=SeededNoise(_NOISE, *key),
            sampling=seeded_generator(_SAMPLING, *key),
            nonce=np.random.SeedSequence((_NONCE, *key)).generate_state(4).tobytes().hex(),
        )

    def release(self, request: Request, *, run: str) -> Update:
        """Compute, charge and return the answer; a request that was answered before gets the same bytes.

        Guarantees: the event is in the ledger, and durable there, before this returns. Nothing is computed
        for a release that the ledger would refuse.

        Raises:
            BudgetExceededError: it would exceed the ledger's limit; the ledger is unchanged.
            ProtocolError: the request does not fit the trainer.
        """
        digest = request_digest(request)
        kept = self.ledger.kept_payload(run=run, request=digest)
        if kept is not None:
            return update_of(kept)
        randomness = self.randomness(self.ledger.releases())
        self.ledger.check(release_event(request, noise_source=randomness.noise.name))
        update = answer(request, self.trainer, self.histories, silo=self.name, randomness=randomness, test=self.test)
        payload = payload_of(update)
        self.ledger.charge(
            Release(
                event=update.event,
                run=run,
                request=digest,
                payload=sha256(payload),
                code_version=version_of("recsys-fed"),
            ),
            payload,
        )
        return update

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
        least = 1 / self.config.silos if self.config.noise == "central" else 1.0
        if request.noise_share < least:
            raise ProtocolError(f"Expected a noise share of at least {least}, got {request.noise_share}.")


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
    simulation = parse(SimulationConfig, context.run_config)
    federation = simulated_federation(simulation, silos=config.silos, seed=config.seed)
    index = int(context.node_config["partition-id"])
    users = federation.users_of_silo[index]
    if len(users):
        check_delta(config.delta, n_users=len(users))
    name = f"silo-{index}"
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
    )


@lru_cache(maxsize=1024)
def _histories(federation: SimulatedFederation, index: int, device: str, block_interactions: int) -> UserHistories:
    """Tensors of a silo, made once a process: a run asks for them every round."""
    return share_of(silo_histories(federation, index, device=device, block_interactions=block_interactions))
