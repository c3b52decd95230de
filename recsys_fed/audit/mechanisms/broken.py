"""Seven deliberately broken copies of the mechanism. An audit that cannot tell them from the real one is worthless.

Each is the deployed mechanism with one mistake that real systems have made.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from recsys_fed.audit.mechanisms.broken_sums import RecordLevel, Unclipped, WeightedByCount
from recsys_fed.audit.mechanisms.mechanism import Mechanism
from recsys_fed.federation.messages import Request, Update
from recsys_fed.federation.release import Randomness, SiloUsers
from recsys_fed.federation.schedule import Schedule
from recsys_fed.privacy.noise import SeededNoise
from recsys_fed.trainers.trainer import Trainer

# Purpose of a simulated silo's noise key: public knowledge, as the code is.
SIMULATION_NOISE = 1


class HalfTheNoise(Mechanism):
    """The standard deviation is half of what the event says."""

    def update(self, request: Request, users: SiloUsers, *, silo: int = 0, release: int = 0) -> Update:
        """As deployed, with half the noise multiplier; the event still claims the whole."""
        weak = replace(request, noise_multiplier=request.noise_multiplier / 2)
        update = super().update(weak, users, silo=silo, release=release)
        claimed = replace(update.event, noise_multiplier=request.noise_multiplier)
        return replace(update, event=claimed)


class ReusedNoise(Mechanism):
    """Every second release repeats the noise of the one before: a counter that is not stored in time."""

    def randomness(self, silo: int, release: int) -> Randomness:
        """Streams of the even release number."""
        return super().randomness(silo, release - release % 2)


class KnownSeed(Mechanism):
    """Noise from the seed of the run's configuration, as a simulation draws it."""

    def randomness(self, silo: int, release: int) -> Randomness:
        """Noise that whoever knows the configuration can draw as well."""
        noise = SeededNoise(SIMULATION_NOISE, self.public_seed, silo, release)
        return replace(super().randomness(silo, release), noise=noise)


class DropoutLosesNoise(Mechanism):
    """Noise is split over all silos, and a round completes when some have taken their share away."""

    def accept(self, schedule: Schedule, request: Request, updates: Sequence[Update]) -> None:
        """Accept any round."""


@dataclass(frozen=True, kw_only=True)
class Breakage:
    """A broken copy by name: what it is, the class, and what replaces the trainer."""

    name: str
    mechanism: type[Mechanism]
    trainer: type[Trainer] | None = None
    loses_silos: bool = False

    def of(self, deployed: Mechanism) -> Mechanism:
        """The broken copy of a mechanism, with the same keys."""
        trainer = deployed.trainer if self.trainer is None else self.trainer(deployed.trainer)  # type: ignore[call-arg]
        return self.mechanism(trainer=trainer, key=deployed.key, public_seed=deployed.public_seed)


BREAKAGES = (
    Breakage(name="no clipping", mechanism=Mechanism, trainer=Unclipped),
    Breakage(name="half the noise", mechanism=HalfTheNoise),
    Breakage(name="noise reused in two rounds", mechanism=ReusedNoise),
    Breakage(name="clipping of records instead of users", mechanism=Mechanism, trainer=RecordLevel),
    Breakage(name="seed known to the attacker", mechanism=KnownSeed),
    Breakage(name="dropout that loses noise", mechanism=DropoutLosesNoise, loses_silos=True),
    Breakage(name="private weights in the mean", mechanism=Mechanism, trainer=WeightedByCount),
)
