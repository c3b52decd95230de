"""Who is whose neighbour in a round, how many neighbours a silo needs, and how many hold its secrets together.

Up to 32 silos everybody is everybody's neighbour and the threshold of the shares is that of the round. Above, the
silos stand on a ring in an order that nobody chose, and a silo's neighbours are the k / 2 on either side (a Harary
graph with random labels, Bell et al. 2020, eprint 2020/704, section 3). k is the least even number for which, with
n silos, t the threshold of the round, d = n - t dropouts and c declared colluding silos,

1. for c silos *anywhere on the ring*, and dropouts chosen by the server: fewer than `shares` neighbours of a silo
   collude (shares > c). That the survivors hang together without any c of them, every silo checks on the actual
   set of survivors (`check_spread`). Nothing is left to chance, so choosing keys until the order suits does not
   help an attacker.
2. for g = max(c, n / 3) silos that collude with a server that keeps to the protocol, and did not choose their
   places, and d dropouts at random: no silo has `shares` or more of them as neighbours, and no two gaps of k / 2 cut
   the ring, but for probability 2^-40. Every bit of work that they put into trying out keys takes off one bit.
3. for d dropouts at random the round completes (every secret has `shares` holders left, every k / 2 silos in a row
   have more than c / 2 survivors), but for probability 2^-30.

Places on the ring are a uniformly random order, so the numbers of neighbours that collude or drop out are
hypergeometric; their tails are computed exactly and added up over all silos.

The order on the ring follows from all signed keys together. The last silo that signs its keys could try out several;
see point 2 for what that gains it.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property, lru_cache

from scipy.stats import hypergeom

from recsys_fed.federation.secure_aggregation.errors import TooFewSurvivorsError

COMPLETE_UP_TO = 32
PRIVACY_FAILURE, COMPLETION_FAILURE = 2.0**-40, 2.0**-30


@dataclass(frozen=True, kw_only=True)
class Neighbourhood:
    """k neighbours of every silo, `shares` of whom (the silo itself counts as one) reconstruct its secrets.

    Attributes:
        privacy_failure, completion_failure: the bounds of points 2 and 3; 0 where everybody is a neighbour.
    """

    degree: int
    shares: int
    privacy_failure: float = 0.0
    completion_failure: float = 0.0


@lru_cache(maxsize=1024)
def neighbourhood(*, n_silos: int, threshold: int, colluding: int) -> Neighbourhood:
    """The smallest neighbourhood that keeps the bounds, or all silos where none does."""
    complete = Neighbourhood(degree=n_silos - 1, shares=threshold)
    if n_silos <= COMPLETE_UP_TO:
        return complete
    for degree in range(4, n_silos - 1, 2):
        found = _sparse(n_silos, threshold, colluding, degree)
        if found is not None:
            return found
    return complete


def _sparse(n: int, threshold: int, colluding: int, degree: int) -> Neighbourhood | None:
    """The bounds at a degree k, or None if they do not hold."""
    half = degree // 2
    gaps = n * float(hypergeom.cdf(colluding // 2, n, threshold, half))
    if gaps >= COMPLETION_FAILURE:
        return None
    # Holders left of one silo's shares: survivors among its k neighbours, the silo itself not counted.
    others, alive = n - 1, threshold - 1
    least = COMPLETION_FAILURE - gaps
    shares = 0
    while n * float(hypergeom.cdf(shares, others, alive, degree)) < least and shares < degree:
        shares += 1
    lost = n * float(hypergeom.cdf(shares - 1, others, alive, degree))
    assumed = max(colluding, n // 3)
    known = n * float(hypergeom.sf(shares - 1, others, min(assumed, others), degree))
    # Two gaps of k / 2 silos that collude or dropped out, at any two of n places.
    cut = n * n / 2 * float(hypergeom.pmf(degree, n, min(n, assumed + n - threshold), degree))
    if shares <= max(colluding, 1) or known + cut >= PRIVACY_FAILURE or lost >= least:
        return None
    return Neighbourhood(degree=degree, shares=shares, privacy_failure=known + cut, completion_failure=gaps + lost)


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
