"""What a silo keeps: its users' histories, its own limit, and what it has released in this run."""

from dataclasses import dataclass, replace
from functools import lru_cache

from flwr.app import ConfigRecord, Context, RecordDict

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.config import FederationConfig, SimulationConfig, parse
from recsys_fed.data.simulated import SimulatedFederation, simulated_federation
from recsys_fed.errors import ConfigurationError, ProtocolError
from recsys_fed.federation.release import Randomness
from recsys_fed.federation.update import Request
from recsys_fed.models.device import resolve_device
from recsys_fed.models.histories import Histories, histories_of
from recsys_fed.privacy.events import PrivacyEvent
from recsys_fed.privacy.guarantee import Guarantee, check_delta, guarantee_of
from recsys_fed.privacy.noise import SeededNoise, seeded_generator
from recsys_fed.trainers import configured_trainer
from recsys_fed.trainers.base import Trainer

_SPENT = "spent"
# Purposes of a simulation's seed: streams that must differ have different numbers.
_NOISE, _LOCAL_NOISE, _SAMPLING = 1, 2, 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Silo:
    """One silo, opened.

    Attributes:
        name: public label.
        index: number of the silo in its federation; part of a simulation's noise keys.
        config: what the silo itself accepts.
        catalogue: public items.
        histories: the private data.
    """

    name: str
    index: int
    config: FederationConfig
    catalogue: Catalogue
    histories: Histories

    @property
    def guarantee(self) -> Guarantee:
        """The limit that the silo enforces on the run."""
        return guarantee_of(self.config)

    @property
    def trainer(self) -> Trainer:
        """The trainer whose silo half this silo is willing to run."""
        return configured_trainer(self.config)

    def randomness(self, release: int) -> Randomness:
        """The streams of the silo's release of that number; a simulation repeats them from its seed."""
        key = self.config.seed, self.index, release
        return Randomness(
            noise=SeededNoise(_NOISE, *key),
            local_noise=seeded_generator(_LOCAL_NOISE, *key),
            sampling=seeded_generator(_SAMPLING, *key),
        )

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
    federation = simulated_federation(
        parse(SimulationConfig, context.run_config), silos=config.silos, seed=config.seed
    )
    index = int(context.node_config["partition-id"])
    users = federation.users_of_silo[index]
    if len(users):
        check_delta(config.delta, n_users=len(users))
    return Silo(
        name=f"silo-{index}",
        index=index,
        config=config,
        catalogue=federation.catalogue,
        histories=_histories(federation, index, str(resolve_device(config.device))),
    )


def spent_events(state: RecordDict) -> tuple[PrivacyEvent, ...]:
    """What this silo has released in the run, from Flower's state of the node."""
    record = state.config_records.get(_SPENT, ConfigRecord())
    columns = [record.get(name, []) for name in ("noise_multiplier", "sampling_probability", "steps")]
    return tuple(
        PrivacyEvent(noise_multiplier=noise, sampling_probability=probability, steps=steps)
        for noise, probability, steps in zip(*columns, strict=True)
    )


def with_event(state: RecordDict, event: PrivacyEvent) -> None:
    """Add an event to what was released."""
    events = (*spent_events(state), event)
    state[_SPENT] = ConfigRecord(
        {
            "noise_multiplier": [e.noise_multiplier for e in events],
            "sampling_probability": [e.sampling_probability for e in events],
            "steps": [e.steps for e in events],
        }
    )


@lru_cache(maxsize=1024)
def _histories(federation: SimulatedFederation, index: int, device: str) -> Histories:
    """Tensors of a silo, made once a process: a run asks for them every round."""
    return histories_of(federation.train[federation.users_of_silo[index]], device=device)
