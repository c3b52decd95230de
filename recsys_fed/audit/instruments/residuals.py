"""Residuals: what is left of releases when the sum over users is taken off, over the noise that is promised."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys_fed.audit.mechanisms.mechanism import Mechanism, promised_deviation, quiet
from recsys_fed.federation.messages import Request
from recsys_fed.federation.release import SiloUsers
from recsys_fed.federation.schedule import Schedule

# Entries of all repetitions together: the scale is then known to 0.7%.
WANTED_ENTRIES = 10_000
MOST_RELEASES = 32


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """A mechanism and one release to test it on.

    Attributes:
        mechanism: under audit.
        schedule: of the server, at the round that asks; its rule decides which rounds are accepted.
        request: what is asked.
        users: an ordinary silo.
        silos: how many silos share the noise, where it is split.
    """

    mechanism: Mechanism
    schedule: Schedule
    request: Request
    users: SiloUsers
    silos: int

    def residuals(self, users: SiloUsers, *, releases: Sequence[int], silo: int = 0) -> npt.NDArray[np.float64]:
        """Of one silo's releases of these numbers, in promised deviations of one silo: float64 [n, rows, columns]."""
        expected = self.mechanism.release(quiet(self.request), users, silo=silo)
        deviation = promised_deviation(self.request) * self.request.noise_share**0.5
        found = [
            (self.mechanism.release(self.request, users, silo=silo, release=number) - expected) / deviation
            for number in releases
        ]
        return np.array(found)

    @property
    def repetitions(self) -> int:
        """Releases that give enough entries, two at least."""
        entries = self.request.shape[0] * self.request.shape[1]
        return int(np.clip(-(-WANTED_ENTRIES // max(1, entries)), 2, MOST_RELEASES))
