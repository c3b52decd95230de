"""What a release costs, as frozen data that any accountant can read.

A `PrivacyEvent` is the minimum: Gaussian noise on a sum over a Poisson sample of users, repeated.
A `ReleaseEvent` adds what a ledger keeps for people; a `PlannedRelease` is an event whose noise is
still open. Nothing here computes an epsilon: events are stored, epsilon is recomputed from them.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from recsys_fed import checks
from recsys_fed.errors import ConfigurationError, DataFormatError

MECHANISMS = ("discrete-gaussian",)
UNITS = ("user",)
NEIGHBOURING_RELATIONS = ("add-or-remove-one-user",)
CLIPPINGS = ("automatic", "flat")
NOISE_SOURCES = ("seeded-simulation", "operating-system")


@dataclass(frozen=True, kw_only=True)
class PrivacyEvent:
    """`steps` releases of a sum over users, each with fresh Gaussian noise.

    `noise_multiplier` is the standard deviation of the noise over the L2 sensitivity of the sum
    (one user added or removed); 0 means no noise, hence an infinite epsilon.
    `sampling_probability` is the chance of each user, drawn independently at every step (Poisson);
    1 means that everyone takes part. `slack` is what all steps together cost in delta outright, whatever
    the noise: the probability that rounding to the grid adds more to the sensitivity than the noise was
    scaled for. Raises ConfigurationError for values out of range.
    """

    noise_multiplier: float
    sampling_probability: float = 1.0
    steps: int = 1
    slack: float = 0.0

    def __post_init__(self) -> None:
        checks.non_negative(noise_multiplier=self.noise_multiplier, slack=self.slack)
        checks.probability(sampling_probability=self.sampling_probability)
        checks.at_least(1, steps=self.steps)


@dataclass(frozen=True, kw_only=True)
class ReleaseEvent(PrivacyEvent):
    """A privacy event with what a ledger keeps about it; accountants read it as a PrivacyEvent.

    `released` names what left ("item counts", "item embeddings"), `l2_clip_norm` the sensitivity
    in the unit of the release, `clipping` how each user's term is bounded by it (see `privacy.clipping`),
    `noise_share` the part of the noise's variance that this silo adds, `threshold` and `colluding` how many silos
    must stay until a masked sum is seen and how many of them may collude (0 where nothing is masked), `round` (from
    0) and `stage` its place in the protocol, and `noise_source` whether the noise came from the operating system or
    from a simulation's seed.
    """

    released: str
    l2_clip_norm: float
    round: int
    stage: str
    noise_source: str
    trainer: str
    noise_share: float = 1.0
    threshold: int = 0
    colluding: int = 0
    clipping: str = "automatic"
    mechanism: str = "discrete-gaussian"
    unit: str = "user"
    neighbouring_relation: str = "add-or-remove-one-user"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.positive(l2_clip_norm=self.l2_clip_norm)
        checks.probability(noise_share=self.noise_share)
        checks.at_least(0, round=self.round, threshold=self.threshold, colluding=self.colluding)
        if self.threshold and self.threshold <= self.colluding:
            raise ConfigurationError(f"Expected threshold > colluding, got {self.threshold} and {self.colluding}.")
        checks.one_of(CLIPPINGS, clipping=self.clipping)
        checks.one_of(MECHANISMS, mechanism=self.mechanism)
        checks.one_of(UNITS, unit=self.unit)
        checks.one_of(NEIGHBOURING_RELATIONS, neighbouring_relation=self.neighbouring_relation)
        checks.one_of(NOISE_SOURCES, noise_source=self.noise_source)
        for name in ("released", "stage", "trainer"):
            if not getattr(self, name):
                raise ConfigurationError(f"Expected {name} to be a non-empty text, got ''.")

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON values: one line of a ledger."""
        return {name: getattr(self, name) for name in _FIELD_TYPES}

    @classmethod
    def from_dict(cls, record: object) -> Self:
        """Rebuild an event from `to_dict`'s record, nothing added, nothing missing.

        Raises DataFormatError for anything but a mapping, unknown or missing keys, and values of
        another type or out of range. Whole numbers are read as floats where a float is expected.
        """
        if not isinstance(record, Mapping):
            raise DataFormatError(f"Expected a release event's mapping, got {type(record).__name__}.")
        types = _FIELD_TYPES
        if record.keys() != types.keys():
            unknown, missing = sorted(map(str, record.keys() - types)), sorted(types.keys() - record.keys())
            raise DataFormatError(
                f"Expected the keys of a release event, got unknown {unknown} and missing {missing}."
                " Write records with ReleaseEvent.to_dict of the same version."
            )
        values: dict[str, Any] = {name: _check_type(name, types[name], record[name]) for name in types}
        try:
            return cls(**values)
        except ConfigurationError as error:
            raise DataFormatError(f"Not a release event: {error}") from error


@dataclass(frozen=True, kw_only=True)
class PlannedRelease:
    """A release whose noise is `relative_noise` times a base noise multiplier, to be calibrated.

    `slack` is that of its event, see PrivacyEvent. Raises ConfigurationError for values out of range.
    """

    released: str
    relative_noise: float = 1.0
    sampling_probability: float = 1.0
    steps: int = 1
    slack: float = 0.0

    def __post_init__(self) -> None:
        checks.positive(relative_noise=self.relative_noise)
        checks.non_negative(slack=self.slack)
        checks.probability(sampling_probability=self.sampling_probability)
        checks.at_least(1, steps=self.steps)


def events_of(plan: Iterable[PlannedRelease], noise_multiplier: float) -> tuple[PrivacyEvent, ...]:
    """Return the plan's events, in order, for a base noise multiplier (0 for no noise)."""
    return tuple(
        PrivacyEvent(
            noise_multiplier=noise_multiplier * release.relative_noise,
            sampling_probability=release.sampling_probability,
            steps=release.steps,
            slack=release.slack,
        )
        for release in plan
    )


def delta_left(events: Iterable[PrivacyEvent], *, delta: float) -> float:
    """Return delta less the slack of all events; 0 or below means that no epsilon is enough.

    Reason: but for an event of probability `slack`, which does not depend on the data, each release is the mechanism
    that its event describes. If those compose to (epsilon, delta - sum of slacks), the releases are
    (epsilon, delta)-differentially private by the union bound, chosen adaptively or not.
    """
    return delta - math.fsum(event.slack for event in events)


_FIELD_TYPES: dict[str, object] = {field.name: field.type for field in fields(ReleaseEvent)}


def _check_type(name: str, expected: object, value: object) -> object:
    """Return `value` if it is of the field's type; JSON knows 1 and 1.0 as the same number."""
    if expected is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    if type(value) is not expected:
        wanted = getattr(expected, "__name__", str(expected))
        raise DataFormatError(f"Expected {name} of type {wanted}, got {type(value).__name__}.")
    return value
