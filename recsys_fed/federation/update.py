"""The two things that travel: what the server asks of a silo, and what the silo releases.

Both are plain data without Flower; `wire` turns them into messages.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from recsys_fed import checks
from recsys_fed.errors import ProtocolError
from recsys_fed.privacy.events import ReleaseEvent

PROTOCOL = 1
# A round with more local steps than this is a mistake or an attack on the silo's time.
MOST_STEPS = 100_000


@dataclass(frozen=True, kw_only=True)
class Greeting:
    """A silo's answer before training: which public catalogue it holds, and its public name."""

    silo: str
    catalogue_hash: str
    n_items: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """What the server asks for in one round. Everything in it is public.

    Attributes:
        round: from 0.
        trainer, stage: which silo half of which trainer.
        released: what the contribution is, for the ledger.
        tables: released tables that the silo half reads.
        settings: public numbers that the silo half reads.
        shape: of the contribution, (rows, columns).
        noise_multiplier: of this release, per step.
        l2_clip_norm: sensitivity of the contribution.
        sampling_probability, steps: Poisson sampling of users, and how many noised steps.
        noise_share: share of the noise's variance that one silo adds: 1, or 1 / n_silos if the noise is split.
        noise_inside: the trainer's silo half adds the noise itself.
        grid_step: width of the integer grid of the answer.
        catalogue_hash: of the catalogue whose rows the tables have.
    """

    round: int
    trainer: str
    stage: str
    released: str
    tables: Mapping[str, torch.Tensor]
    settings: Mapping[str, float]
    shape: tuple[int, int]
    noise_multiplier: float
    l2_clip_norm: float
    sampling_probability: float
    steps: int
    noise_share: float
    noise_inside: bool
    grid_step: float
    catalogue_hash: str

    def __post_init__(self) -> None:
        checks.at_least(0, round=self.round)
        checks.at_least(1, steps=self.steps)
        if self.steps > MOST_STEPS:
            raise ProtocolError(f"Expected at most {MOST_STEPS} steps in a round, got {self.steps}.")
        checks.non_negative(noise_multiplier=self.noise_multiplier)
        checks.positive(l2_clip_norm=self.l2_clip_norm, grid_step=self.grid_step)
        checks.probability(sampling_probability=self.sampling_probability, noise_share=self.noise_share)
        if self.noise_inside and self.noise_share != 1:
            raise ProtocolError("Expected the whole noise for local steps: it cannot be split over silos.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Update:
    """What a silo releases in one round: a noised sum on the integer grid, and the event that pays for it."""

    silo: str
    total: npt.NDArray[np.int32]
    event: ReleaseEvent
    catalogue_hash: str


def check_update(update: Update, request: Request) -> None:
    """Refuse an update that does not answer the request.

    Raises:
        ProtocolError: it names what differs.
    """
    facts = {
        "round": (request.round, update.event.round),
        "stage": (request.stage, update.event.stage),
        "trainer": (request.trainer, update.event.trainer),
        "released": (request.released, update.event.released),
        "noise multiplier": (request.noise_multiplier, update.event.noise_multiplier),
        "noise share": (request.noise_share, update.event.noise_share),
        "sampling probability": (request.sampling_probability, update.event.sampling_probability),
        "number of steps": (request.steps, update.event.steps),
        "clip norm": (request.l2_clip_norm, update.event.l2_clip_norm),
        "catalogue": (request.catalogue_hash, update.catalogue_hash),
        "shape": (tuple(request.shape), update.total.shape),
        "type": ("int32", str(update.total.dtype)),
    }
    for name, (expected, got) in facts.items():
        if expected != got:
            raise ProtocolError(f"Expected the {name} {expected} in a silo's update, got {got}.")
