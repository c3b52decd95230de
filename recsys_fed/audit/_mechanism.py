"""The mechanism under audit: the silos' own code, called with the auditor's inputs and keys.

The auditor plays the server: it holds a request (public), hands it to silos whose users it chose, and sees what the
server would see: every silo's integers, or where noise is split their sum only. What is called is
`federation.release.answer`, the one place where data becomes a release, and `federation.schedule.advance`, the rule
by which the server accepts a round.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from recsys_fed.errors import PrivacyError
from recsys_fed.federation.messages import Request, Update
from recsys_fed.federation.release import Randomness, SiloUsers, answer
from recsys_fed.federation.schedule import Schedule, advance
from recsys_fed.privacy.noise import SeededNoise
from recsys_fed.trainers.trainer import Trainer

# Purposes of the auditor's keys, apart from each other and from those that a simulated silo uses.
_NOISE, _SAMPLING = 101, 102
SUM = "sum"
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Mechanism:
    """The mechanism as deployed.

    Attributes:
        trainer: whose silo half is called.
        key: the auditor's secret; noise of (silo, release) is a function of it and of those.
        public_seed: the seed of the run's configuration, which an attacker knows. Not used as deployed.
    """

    trainer: Trainer
    key: int
    public_seed: int = 0

    def randomness(self, silo: int, release: int) -> Randomness:
        """Streams of a silo's release of that number."""
        noise = SeededNoise(_NOISE, self.key, silo, release)
        return Randomness(noise=noise, sampling=SeededNoise(_SAMPLING, self.key, silo, release))

    def update(self, request: Request, users: SiloUsers, *, silo: int = 0, release: int = 0) -> Update:
        """What the silo answers to a request."""
        randomness = self.randomness(silo, release)
        return answer(request, self.trainer, lambda: users, silo=label(silo), nonce="audit", randomness=randomness)

    def release(self, request: Request, users: SiloUsers, *, silo: int = 0, release: int = 0) -> Integers:
        """The integers of the same, int64 [rows, columns]."""
        return self.update(request, users, silo=silo, release=release).total.astype(np.int64)

    def observed(
        self,
        schedule: Schedule,
        request: Request,
        silos: Sequence[SiloUsers],
        *,
        release: int = 0,
        lost: Collection[int] = (),
    ) -> Mapping[str, Integers]:
        """What the server sees of a round in which the silos `lost` do not answer.

        Raises:
            PrivacyError: the round is not accepted.
        """
        updates = [
            self.update(request, users, silo=index, release=release)
            for index, users in enumerate(silos)
            if index not in lost
        ]
        if not only_the_sum(request):
            return {update.silo: update.total.astype(np.int64) for update in updates}
        self.accept(schedule, request, updates)
        total = np.zeros(request.shape, dtype=np.int64)
        for update in updates:
            total += update.total
        return {SUM: total}

    def accept(self, schedule: Schedule, request: Request, updates: Sequence[Update]) -> None:
        """Refuse a round as the server does; raises PrivacyError.

        Of a masked round nothing is unmasked with fewer silos than its threshold, which every silo checks; the
        protocol itself runs in the run with canaries, not here.
        """
        if not request.masked:
            advance(schedule, request, updates)
        elif len(updates) < request.threshold:
            raise PrivacyError(f"Expected {request.threshold} silos in a masked round, got {len(updates)}.")


def label(silo: int) -> str:
    """Public label of a silo, as simulations have it."""
    return f"silo-{silo}"


def only_the_sum(request: Request) -> bool:
    """Whether the guarantee is about the sum over silos, as each adds a part of the noise or masks its message."""
    return request.masked or request.noise_share < 1


def quiet(request: Request) -> Request:
    """The same request for a sum without noise, of everybody, in one step: what the noise would have hidden."""
    return replace(request, noise_multiplier=0.0, sampling_probability=1.0, steps=1)


def promised_deviation(request: Request) -> float:
    """Standard deviation of the noise that what the server sees must have, in grid steps."""
    deviation = replace(request.mechanism, noise_share=1.0).standard_deviation
    return float(deviation * (request.steps**0.5 if request.noise_inside else 1.0))
