"""Who is whose neighbour in a round: places on a ring, in an order that follows from all signed keys together.

The last silo that signs its keys could try out several; see `degree` for what that gains it.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from recsys_fed.federation.secure_aggregation.degree import Neighbourhood, neighbourhood
from recsys_fed.federation.secure_aggregation.errors import TooFewSurvivorsError


@dataclass(frozen=True, kw_only=True)
class Ring:
    """The silos in their order on the ring, and how far their neighbourhoods reach."""

    order: tuple[str, ...]
    neighbourhood: Neighbourhood

    @cached_property
    def places(self) -> dict[str, int]:
        """Each silo's place on the ring, from 0."""
        return {silo: place for place, silo in enumerate(self.order)}

    @property
    def complete(self) -> bool:
        """Whether everybody is everybody's neighbour."""
        return self.neighbourhood.degree >= len(self.order) - 1

    def neighbours(self, silo: str) -> frozenset[str]:
        """The silos that this one shares masks and secrets with; being a neighbour is mutual."""
        if self.complete:
            return frozenset(self.order) - {silo}
        place, half, n = self.places[silo], self.neighbourhood.degree // 2, len(self.order)
        steps = (*range(-half, 0), *range(1, half + 1))
        return frozenset(self.order[(place + step) % n] for step in steps)


def ring_of(silos: Collection[str], *, seed: bytes, threshold: int, colluding: int) -> Ring:
    """The ring of a round, the same for everybody: silos in the order of SHA-256(seed, silo)."""
    order = sorted(silos, key=lambda silo: hashlib.sha256(seed + bytes.fromhex(silo)).digest())
    wide = neighbourhood(n_silos=len(order), threshold=threshold, colluding=colluding)
    return Ring(order=tuple(order), neighbourhood=wide)


def check_spread(ring: Ring, survivors: Collection[str], *, colluding: int) -> None:
    """Refuse survivors that c colluding silos could fall apart into two groups with sums of their own.

    Guarantees: without any c of the survivors, the others still hang together by masks that only they know. To cut
    the ring takes two gaps of k / 2 places; each holds more than c / 2 survivors, so c silos do not suffice.

    Raises:
        TooFewSurvivorsError: k / 2 silos in a row have dropped out, or nearly.
    """
    if ring.complete:
        return
    half, n = ring.neighbourhood.degree // 2, len(ring.order)
    alive = [silo in survivors for silo in ring.order]
    inside = sum(alive[:half])
    for place in range(n):
        if 2 * inside <= colluding:
            raise TooFewSurvivorsError(
                f"Expected more than {colluding / 2:g} survivors among any {half} silos in a row, got {inside} from "
                f"place {place}. Try the round again with the silos that are there."
            )
        inside += alive[(place + half) % n] - alive[place]
