"""How many neighbours a silo needs, and how many of them hold its secrets together.

Up to 32 silos everybody is everybody's neighbour and the threshold of the shares is that of the round. Above, the
silos stand on a ring in an order that nobody chose, and a silo's neighbours are the k / 2 on either side (a Harary
graph with random labels, Bell et al. 2020, eprint 2020/704, section 3). k is the least even number for which, with
n silos, t the threshold of the round, d = n - t dropouts and c declared colluding silos,

1. for c silos *anywhere on the ring*, and dropouts chosen by the server: fewer than `shares` neighbours of a silo
   collude (shares > c). That the survivors hang together without any c of them, every silo checks on the actual
   set of survivors (`ring.check_spread`). Nothing is left to chance, so choosing keys until the order suits does not
   help an attacker.
2. for g = max(c, n / 3) silos that collude with a server that keeps to the protocol, and did not choose their
   places, and d dropouts at random: no silo has `shares` or more of them as neighbours, and no two gaps of k / 2 cut
   the ring, but for probability 2^-40. Every bit of work that they put into trying out keys takes off one bit.
3. for d dropouts at random the round completes (every secret has `shares` holders left, every k / 2 silos in a row
   have more than c / 2 survivors), but for probability 2^-30.

Places on the ring are a uniformly random order, so the numbers of neighbours that collude or drop out are
hypergeometric; their tails are computed exactly and added up over all silos.
"""

from dataclasses import dataclass
from functools import lru_cache

from scipy.stats import hypergeom

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
