"""The two things that travel: what the server asks of a silo, and what the silo releases.

Both are plain data without Flower; `wire` turns them into messages.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch

from recsys_fed import checks
from recsys_fed.errors import DataFormatError, ProtocolError
from recsys_fed.privacy.events import ReleaseEvent
from recsys_fed.privacy.integer_mechanism import IntegerMechanism
from recsys_fed.signing import canonical, read_json, require_keys, sha256, text_of

PROTOCOL = 2
# Version of the rules by which a server and its silos derive one plan from the same settings; it must be the same.
PLAN = "3.2"
# A round with more local steps than this is a mistake or an attack on the silo's time.
MOST_STEPS = 100_000


@dataclass(frozen=True, kw_only=True)
class Greeting:
    """A silo's answer before training: which public catalogue it holds, its public name, and its ledger's key.

    `simulated` silos draw their noise from a seed, and their rounds are not masked unless somebody asks for it.
    `plan` is the version of the rules by which the silo derives what it will answer.
    `signature` is that of the ledger's key, see `federation.admission`.
    """

    silo: str
    catalogue_hash: str
    n_items: int
    public_key: str = ""
    simulated: bool = True
    plan: str = PLAN
    signature: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """What the server asks for in one round. Everything in it is public.

    A silo derives all of it by itself but for the tables, the epsilon of the training, and the attempt, and answers
    nothing else: see `federation.plan`.

    Attributes:
        plan: version of the rules that it follows from.
        epsilon: of the whole training; at most what the silos agreed to.
        round: from 0.
        trainer, stage: which silo half of which trainer.
        released: what the contribution is, for the ledger.
        tables: released tables that the silo half reads.
        settings: public numbers that the silo half reads.
        shape: of the contribution, (rows, columns).
        noise_multiplier: of this release, per step.
        l2_clip_norm: sensitivity of the contribution.
        sampling_probability, steps: Poisson sampling of users, and how many noisy steps.
        noise_share: share of the noise's variance that one silo adds: 1, or less if the noise is split.
        noise_inside: the trainer's silo half adds the noise itself.
        grid_step: width of the integer grid of the answer.
        catalogue_hash: of the catalogue whose rows the tables have.
        threshold, colluding: t and c of a masked round, see `noise_split`; 0 where the answer is not masked.
        attempt: of a masked round, from 0.
        earlier_trainings: how many earlier ones are pooled; sizes and stages of the plan follow from it.
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
    threshold: int = 0
    colluding: int = 0
    attempt: int = 0
    epsilon: float = math.inf
    plan: str = PLAN
    earlier_trainings: int = 0

    def __post_init__(self) -> None:
        checks.at_least(0, earlier_trainings=self.earlier_trainings)
        checks.positive_or_inf(epsilon=self.epsilon)
        checks.at_least(0, round=self.round, attempt=self.attempt)
        checks.at_least(0, threshold=self.threshold, colluding=self.colluding)
        checks.at_least(1, steps=self.steps)
        if self.steps > MOST_STEPS:
            raise ProtocolError(f"Expected at most {MOST_STEPS} steps in a round, got {self.steps}.")
        checks.non_negative(noise_multiplier=self.noise_multiplier)
        checks.positive(l2_clip_norm=self.l2_clip_norm, grid_step=self.grid_step)
        checks.probability(sampling_probability=self.sampling_probability, noise_share=self.noise_share)
        if self.noise_inside and (self.noise_share != 1 or self.masked):
            raise ProtocolError("Local steps need the whole noise in each silo: it cannot be split over silos.")

    @property
    def masked(self) -> bool:
        """Whether the answer is hidden by masks, so that the server learns the sum only."""
        return self.threshold > 0

    @property
    def mechanism(self) -> IntegerMechanism:
        """What one silo does to one sum that is asked for: its grid, and its noise on it."""
        return IntegerMechanism(
            noise_multiplier=self.noise_multiplier,
            l2_clip_norm=self.l2_clip_norm,
            grid_step=self.grid_step,
            entries=self.shape[0] * self.shape[1],
            noise_share=self.noise_share,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Update:
    """What a silo releases in one round: a noisy sum on the integer grid, and the event that pays for it.

    `nonce` names the draw: it is the one in the silo's ledger, under which one answer leaves and never two.
    """

    silo: str
    total: npt.NDArray[np.int32]
    event: ReleaseEvent
    catalogue_hash: str
    nonce: str


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskedUpdate:
    """What a silo sends in a masked round: its signed, masked integers, and the event that pays for their sum.

    `nonce` names the draw, as that of an `Update`.
    """

    silo: str
    content: bytes
    event: ReleaseEvent
    catalogue_hash: str
    nonce: str


@dataclass(frozen=True, kw_only=True)
class Released:
    """What is kept of one silo's release: whose, the name of its draw, and what it cost."""

    silo: str
    payload: str
    event: ReleaseEvent


def released_of(update: Update | MaskedUpdate) -> Released:
    """The same name as in the silo's own ledger."""
    return Released(silo=update.silo, payload=update.nonce, event=update.event)


def request_digest(request: Request) -> str:
    """SHA-256 of all that a request asks: the same digest, the same answer."""
    tables = {name: table.detach().cpu().contiguous().numpy() for name, table in request.tables.items()}
    facts = {
        f.name: getattr(request, f.name) for f in fields(request) if f.name not in ("tables", "settings", "shape")
    }
    # Settings and epsilon are any floats, also infinite ones, which JSON does not have.
    facts |= {"epsilon": float(request.epsilon).hex()}
    facts |= {"settings": {name: float(value).hex() for name, value in request.settings.items()}}
    facts |= {"shape": list(request.shape)}
    facts |= {"tables": {name: [str(t.dtype), list(t.shape), sha256(t.tobytes())] for name, t in tables.items()}}
    return sha256(canonical(facts))


def payload_of(update: Update) -> bytes:
    """The bytes of an update that a ledger keeps: one line of canonical JSON, then the integers, little-endian."""
    facts = {
        "silo": update.silo,
        "event": update.event.to_dict(),
        "catalogue_hash": update.catalogue_hash,
        "nonce": update.nonce,
        "shape": list(update.total.shape),
    }
    return canonical(facts) + b"\n" + np.ascontiguousarray(update.total, dtype="<i4").tobytes()


def update_of(payload: bytes) -> Update:
    """The update that `payload_of` wrote; raises DataFormatError for anything else."""
    head, _, numbers = payload.partition(b"\n")
    facts = require_keys(read_json(head), {"silo", "event", "catalogue_hash", "nonce", "shape"}, "a payload")
    try:
        total = np.frombuffer(numbers, dtype="<i4").reshape(facts["shape"]).astype(np.int32)
    except (TypeError, ValueError) as error:
        raise DataFormatError(f"Expected the integers of a payload: {error}") from error
    return Update(
        silo=text_of(facts, "silo"),
        total=total,
        event=ReleaseEvent.from_dict(facts["event"]),
        catalogue_hash=text_of(facts, "catalogue_hash"),
        nonce=text_of(facts, "nonce"),
    )


def check_update(update: Update, request: Request) -> None:
    """Refuse an update that does not answer the request.

    Raises:
        ProtocolError: it names what differs.
    """
    check_answers(update, request)
    _equal({"shape": (tuple(request.shape), update.total.shape), "type": ("int32", str(update.total.dtype))})


def check_answers(update: Update | MaskedUpdate, request: Request) -> None:
    """The same for what is said beside the integers, which a masked update hides."""
    facts: dict[str, tuple[object, object]] = {
        "round": (request.round, update.event.round),
        "stage": (request.stage, update.event.stage),
        "trainer": (request.trainer, update.event.trainer),
        "released": (request.released, update.event.released),
        "noise multiplier": (request.noise_multiplier, update.event.noise_multiplier),
        "noise share": (request.noise_share, update.event.noise_share),
        "sampling probability": (request.sampling_probability, update.event.sampling_probability),
        "number of steps": (request.steps, update.event.steps),
        "clip norm": (request.l2_clip_norm, update.event.l2_clip_norm),
        "threshold": (request.threshold, update.event.threshold),
        "number of colluding silos": (request.colluding, update.event.colluding),
        "catalogue": (request.catalogue_hash, update.catalogue_hash),
    }
    _equal(facts)


def _equal(facts: Mapping[str, tuple[object, object]]) -> None:
    for name, (expected, got) in facts.items():
        if expected != got:
            raise ProtocolError(f"Expected the {name} {expected} in a silo's update, got {got}.")
