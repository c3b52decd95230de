"""A silo's half of a round: contribution, clip, noise, event. The one place where data becomes a release."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from recsys_fed.errors import ProtocolError
from recsys_fed.federation.messages import Request, Update
from recsys_fed.federation.metrics_round import STAGE as METRICS_STAGE
from recsys_fed.federation.metrics_round import contribute_metrics
from recsys_fed.federation.noise_split import slack_of_sum
from recsys_fed.federation.user_weights import UserWeights, part_settings, weighted_sum
from recsys_fed.models.histories import UserHistories
from recsys_fed.privacy.events import ReleaseEvent
from recsys_fed.privacy.integer_mechanism import ROUNDING_SLACK, add_noise, to_int32
from recsys_fed.privacy.noise import NoiseSource, poisson_sample
from recsys_fed.trainers.trainer import LocalNoise, Trainer


@dataclass(frozen=True, kw_only=True, eq=False)
class Randomness:
    """A silo's own randomness for one release; noise and sampling never share a stream."""

    noise: NoiseSource
    sampling: NoiseSource


@dataclass(frozen=True, kw_only=True, eq=False)
class SiloUsers:
    """The private data of a silo.

    Attributes:
        histories: of its users.
        test: csr [n_users, n_items], what is held out to measure models on; None: nothing.
        weights: what each user counts, where the federation has a rule; see `user_weights`.
        groups: number of each user's group, where it has groups, float64 [n_users]; see `metrics_round`.
    """

    histories: UserHistories
    test: sparse.csr_matrix | None = None
    weights: UserWeights | None = None
    groups: npt.NDArray[np.float64] | None = None


# Gets what went wrong inside the silo, for its operator alone.
OnFailure = Callable[[Exception], None]


def raise_it(error: Exception) -> None:
    """What to do where no private data is at stake: an auditor's or a test's own users."""
    raise error


def release_event(request: Request, *, noise_source: str) -> ReleaseEvent:
    """What the answer to a request costs, known before anything is computed."""
    return ReleaseEvent(
        noise_multiplier=request.noise_multiplier,
        sampling_probability=request.sampling_probability,
        steps=request.steps,
        slack=request.steps * ROUNDING_SLACK + _slack_of_sum(request),
        released=request.released,
        l2_clip_norm=request.l2_clip_norm,
        round=request.round,
        stage=request.stage,
        noise_source=noise_source,
        noise_share=request.noise_share,
        threshold=request.threshold,
        colluding=request.colluding,
        trainer=request.trainer,
    )


def answer(
    request: Request,
    trainer: Trainer,
    users: Callable[[], SiloUsers],
    *,
    silo: str,
    nonce: str,
    randomness: Randomness,
    on_failure: OnFailure = raise_it,
) -> Update:
    """Compute what the silo releases for a request that is not masked; see `noisy_integers`."""
    grid = noisy_integers(request, trainer, users, randomness=randomness, on_failure=on_failure)
    return Update(
        silo=silo,
        total=to_int32(grid),
        event=release_event(request, noise_source=randomness.noise.name),
        catalogue_hash=request.catalogue_hash,
        nonce=nonce,
    )


def noisy_integers(
    request: Request,
    trainer: Trainer,
    users: Callable[[], SiloUsers],
    *,
    randomness: Randomness,
    on_failure: OnFailure = raise_it,
) -> npt.NDArray[np.int64]:
    """The silo's part of a round on the integer grid; the release must have been charged.

    Args:
        request: part of the plan that the silo derived, see `federation.plan`.
        trainer: of the plan.
        users: reads the private data; it may fail.
        randomness: the silo's own.
        on_failure: is told why the sum is that of nobody.

    Guarantees:
        - Unit: one user with all interactions in this silo; neighbouring relation: add or remove one user.
        - The integers cost what the request's event says (for noise_share 1): they are a sum rounded to the
          integer grid plus integer noise, see `privacy.integer_mechanism`; with a smaller share the guarantee is
          that of the sum over the silos that count and holds against those who see only the sum.
        - A silo without users, and an empty Poisson sample, give noise of the same scale.
        - Whatever happens to the private data, there are integers of the same shape and number, with all of the
          noise: where it cannot be read or computed with, they are those of a silo without users.
    """
    try:
        total = bounded_sum(request, trainer, users(), randomness=randomness)
    except Exception as error:  # noqa: BLE001  (whatever it is, it may depend on private data)
        on_failure(error)
        return _of_nobody(request, randomness.noise)
    if request.noise_inside:
        # Integers of the request's grid already, with the noise of all steps.
        return np.asarray(total.long().cpu())
    return add_noise(np.asarray(total.double().cpu()), mechanism=request.mechanism, noise=randomness.noise)


def bounded_sum(request: Request, trainer: Trainer, users: SiloUsers, *, randomness: Randomness) -> torch.Tensor:
    """The sum over users that a request asks for, before its noise: sensitivity request.l2_clip_norm.

    With `noise_inside` it is the sum over the local steps, in grid steps, noise included.
    """
    if request.stage == METRICS_STAGE:
        total = _metrics(request, users)
    else:
        total = _contribution(request, trainer, users, randomness)
    if tuple(total.shape) != tuple(request.shape):
        raise ProtocolError(f"Expected a contribution of shape {request.shape}, got {tuple(total.shape)}.")
    return total


def _of_nobody(request: Request, noise: NoiseSource) -> npt.NDArray[np.int64]:
    """The noise alone: of k local steps it is one draw of k times the variance, see `NoisySums`."""
    steps = request.steps if request.noise_inside else 1
    return noise.integers(request.shape, standard_deviation=request.mechanism.standard_deviation * steps**0.5)


def _slack_of_sum(request: Request) -> float:
    """What it costs that the noise on a masked sum is a sum of discrete Gaussians, not one."""
    if not request.masked:
        return 0.0
    return slack_of_sum(
        request.mechanism.standard_deviation,
        silos=request.threshold - request.colluding,
        entries=request.mechanism.entries,
    )


def _contribution(request: Request, trainer: Trainer, users: SiloUsers, randomness: Randomness) -> torch.Tensor:
    """The trainer's sum over users, or over the Poisson sample of them that the event speaks of."""
    histories, device = users.histories, users.histories.device
    tables = {name: table.to(device) for name, table in request.tables.items()}
    own, weights = part_settings(request.settings)
    settings = {**own, "l2_clip_norm": request.l2_clip_norm}
    if request.noise_inside:
        if weights:
            raise ProtocolError("Expected no weights of users with noise inside the silo, got some.")
        noise = LocalNoise(
            mechanism=request.mechanism,
            sampling_probability=request.sampling_probability,
            steps=request.steps,
            source=randomness.noise,
            sampling=randomness.sampling,
        )
        return trainer.local_update(tables, histories, settings=settings, noise=noise)
    sample: torch.Tensor | None = None
    if request.sampling_probability < 1:
        sample = poisson_sample(histories.n_users, request.sampling_probability, randomness.sampling).to(device)

    def contribute(some: UserHistories) -> torch.Tensor:
        return trainer.contribution(request.stage, tables, some, settings=settings)

    return weighted_sum(contribute, histories, weights=weights, of_users=users.weights, chosen=sample)


def _metrics(request: Request, users: SiloUsers) -> torch.Tensor:
    """All users are measured, with the noise on the sum: an event that says otherwise would be too cheap."""
    if request.sampling_probability < 1 or request.noise_inside:
        raise ProtocolError("Expected metrics of all users with noise on their sum, got a request for a sample.")
    histories = users.histories
    return contribute_metrics(
        {name: table.to(histories.device) for name, table in request.tables.items()},
        histories,
        users.test,
        settings={**request.settings, "l2_clip_norm": request.l2_clip_norm},
        catalogue_hash=request.catalogue_hash,
        groups=users.groups,
    )
