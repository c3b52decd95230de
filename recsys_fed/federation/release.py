"""A silo's half of a round: contribution, clip, noise, event. The one place where data becomes a release."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from recsys_fed.errors import BudgetExceededError, ProtocolError
from recsys_fed.federation.update import Request, Update
from recsys_fed.models.histories import Histories
from recsys_fed.privacy.accounting import epsilon_spent
from recsys_fed.privacy.engine import poisson_sample
from recsys_fed.privacy.events import PrivacyEvent, ReleaseEvent
from recsys_fed.privacy.guarantee import Guarantee
from recsys_fed.privacy.noise import NoiseSource, noised
from recsys_fed.trainers.base import LocalNoise, Trainer


@dataclass(frozen=True, kw_only=True, eq=False)
class Randomness:
    """A silo's own randomness for one round; noise and sampling never share a stream."""

    noise: NoiseSource
    local_noise: torch.Generator
    sampling: torch.Generator


def check_budget(spent: Sequence[PrivacyEvent], planned: PrivacyEvent, guarantee: Guarantee) -> None:
    """Refuse a release that would take the run beyond the silo's own limit, whatever the server asks.

    Raises:
        BudgetExceededError: nothing was computed or released.
    """
    # Calibration meets the target to 1e-4 from below; this only absorbs the rounding of a recomputation.
    limit = guarantee.epsilon * (1 + 1e-6)
    total = _accounted(guarantee.over_silos((*spent, _plain(planned))), guarantee.delta)
    if total > limit:
        raise BudgetExceededError(
            f"Expected a release within epsilon {guarantee.epsilon} at delta {guarantee.delta}, it would take "
            f"the run to {total:.4f}. The server asks for too many rounds or for too little noise."
        )


@lru_cache(maxsize=4096)
def _accounted(events: tuple[PrivacyEvent, ...], delta: float) -> float:
    """What a history has spent; silos of a simulation have the same one and account for it once."""
    return epsilon_spent(events, delta=delta)


def _plain(event: PrivacyEvent) -> PrivacyEvent:
    return PrivacyEvent(
        noise_multiplier=event.noise_multiplier,
        sampling_probability=event.sampling_probability,
        steps=event.steps,
    )


def release_event(request: Request, *, noise_source: str) -> ReleaseEvent:
    """What the answer to a request costs, known before anything is computed."""
    return ReleaseEvent(
        noise_multiplier=request.noise_multiplier,
        sampling_probability=request.sampling_probability,
        steps=request.steps,
        released=request.released,
        l2_clip_norm=request.l2_clip_norm,
        round=request.round,
        stage=request.stage,
        noise_source=noise_source,
        noise_share=request.noise_share,
        trainer=request.trainer,
    )


def answer(request: Request, trainer: Trainer, histories: Histories, *, silo: str, randomness: Randomness) -> Update:
    """Compute what the silo releases for a request.

    Guarantees:
        - Unit: one user with all interactions in this silo; neighbouring relation: add or remove one user.
        - The update is the Gaussian mechanism of the event that comes with it (for noise_share 1), put on the
          integer grid, which is post-processing; with a smaller share the guarantee is that of the sum over
          all silos and holds against those who see only the sum.
        - A silo without users, and an empty Poisson sample, release noise of the same scale.

    Raises:
        ProtocolError: the request does not fit this silo's catalogue or the trainer's shape.
    """
    device = histories.items.device
    tables = {name: table.to(device) for name, table in request.tables.items()}
    settings = {**request.settings, "l2_clip_norm": request.l2_clip_norm}
    if request.noise_inside:
        noise = LocalNoise(
            noise_multiplier=request.noise_multiplier,
            sampling_probability=request.sampling_probability,
            steps=request.steps,
            noise=randomness.local_noise,
            sampling=randomness.sampling,
        )
        total = trainer.local_update(tables, histories, settings=settings, noise=noise)
        standard_deviation = 0.0
    else:
        if request.sampling_probability < 1:
            sample = poisson_sample(histories.n_users, request.sampling_probability, randomness.sampling)
            histories = histories.subset(sample.to(device))
        total = trainer.contribution(request.stage, tables, histories, settings=settings)
        standard_deviation = request.noise_multiplier * request.l2_clip_norm * request.noise_share**0.5
    if tuple(total.shape) != tuple(request.shape):
        raise ProtocolError(
            f"Expected a contribution of shape {request.shape} to be asked for, it has {tuple(total.shape)}."
        )
    grid = noised(
        np.asarray(total.double().cpu()),
        standard_deviation=standard_deviation,
        step=request.grid_step,
        noise=randomness.noise,
    )
    event = release_event(request, noise_source=randomness.noise.name)
    return Update(silo=silo, total=grid, event=event, catalogue_hash=request.catalogue_hash)
