"""A federation without Flower: every round asked, answered and summed in a loop."""

from collections.abc import Sequence
from functools import partial

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.config import FederationConfig
from recsys_fed.federation.messages import Greeting, Update
from recsys_fed.federation.release import Randomness, SiloUsers, answer
from recsys_fed.federation.schedule import Schedule, advance, begin, request
from recsys_fed.models.histories import Histories
from recsys_fed.privacy.events import ReleaseEvent
from recsys_fed.privacy.noise import SeededNoise


def begun(config: FederationConfig, n_items: int, catalogue: Catalogue | None = None) -> Schedule:
    """The schedule of silos that agree."""
    return begin(config, Greeting(silo="silo-0", catalogue_hash="c0ffee", n_items=n_items), catalogue)


def answers(schedule: Schedule, silos: Sequence[Histories]) -> list[Update]:
    """What every silo answers to the next request."""
    asked = request(schedule)
    return [
        answer(
            asked,
            schedule.trainer,
            partial(SiloUsers, histories=histories),
            silo=f"silo-{index}",
            nonce=f"{index}-{asked.round}",
            randomness=Randomness(
                noise=SeededNoise(1, index, asked.round),
                sampling=SeededNoise(3, index, asked.round),
            ),
        )
        for index, histories in enumerate(silos)
    ]


def run_by_hand(schedule: Schedule, silos: Sequence[Histories]) -> tuple[Schedule, list[list[ReleaseEvent]]]:
    """Run to the end; the schedule after it and the events of each round."""
    events = []
    while schedule.round < len(schedule.stages):
        asked, updates = request(schedule), answers(schedule, silos)
        events.append([update.event for update in updates])
        schedule = advance(schedule, asked, updates)
    return schedule, events
