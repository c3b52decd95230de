"""One plan on all users in one place: the product's schedule, release and steps, without transport and ledgers.

Sweeps use it: it is several times as fast as a simulated federation, and trainers may have sizes set by hand.
"""

from functools import lru_cache, partial

import torch

from recsys_fed.config import FederationConfig, SimulationConfig
from recsys_fed.data.simulated import SimulatedFederation, simulated_federation
from recsys_fed.federation.messages import Greeting
from recsys_fed.federation.metrics_round import STAGE as METRICS_STAGE
from recsys_fed.federation.release import Randomness, SiloUsers, answer
from recsys_fed.federation.schedule import Schedule, advance, begin, item_embeddings, request
from recsys_fed.models.histories import Histories, histories_of
from recsys_fed.models.items import ItemEmbeddings
from recsys_fed.privacy.noise import SeededNoise
from recsys_fed.simulation.runner import interactions_a_user, one_digit
from recsys_fed.trainers.trainer import Trainer

_SILO = "silo-0"
_SAMPLING = 33


@lru_cache(maxsize=2)
def federation_of(data: SimulationConfig, seed: int) -> tuple[SimulatedFederation, Histories]:
    """All users as one silo."""
    federation = simulated_federation(data, silos=1, seed=seed)
    return federation, histories_of(federation.train)


def planned(
    data: SimulationConfig,
    *,
    epsilon: float,
    delta: float,
    seed: int,
    trainer: Trainer | None = None,
    features: bool = True,
) -> Schedule:
    """The schedule of one silo that adds all of the noise; `trainer` in place of the default one."""
    federation, _ = federation_of(data, seed)
    config = FederationConfig(
        epsilon=epsilon, delta=delta, silos=1, seed=seed, secure_aggregation="off", threads=1, item_features=features,
        declared_users=one_digit(federation.train.shape[0]),
        declared_interactions=one_digit(interactions_a_user(federation)),
    )  # fmt: skip
    catalogue = federation.catalogue
    greeting = Greeting(silo=_SILO, catalogue_hash=catalogue.content_hash, n_items=catalogue.n_items)
    return begin(config, greeting, catalogue, trainer=trainer)


def train_alone(schedule: Schedule, data: SimulationConfig, *, seed: int) -> ItemEmbeddings:
    """Run the plan with noise from the seed; the metrics of silos are paid for, and not asked for."""
    _, histories = federation_of(data, seed)
    torch.set_num_threads(1)
    for number, stage in enumerate(schedule.stages):
        if stage.name == METRICS_STAGE:
            break
        asked = request(schedule)
        randomness = Randomness(
            noise=SeededNoise(seed, number),
            sampling=SeededNoise(_SAMPLING, seed, number),
        )
        users = partial(SiloUsers, histories=histories)
        update = answer(asked, schedule.trainer, users, silo=_SILO, nonce=f"{number}", randomness=randomness)
        schedule = advance(schedule, asked, [update])
    return item_embeddings(schedule)
