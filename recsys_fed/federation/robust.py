"""Server steps that a few lying silos cannot steer: median and trimmed mean over the silos, entry by entry.

    sum of silos  ~  n * median_i(x_i)        or   n * mean of x_i without the floor(trim n) largest and smallest

(arXiv 1803.01498). Both are post-processing of messages that each carry the whole noise, so they cost no privacy.
They cost accuracy. With Gaussian noise of standard deviation s in every message the sum has sqrt(n) s; n times
the median has up to sqrt(pi / 2) = 1.25 times as much, a trimmed mean lies between. Signal that only a minority
of the silos has is lost, as it looks like a lie: a large silo counts like a small one. And each message must be
seen by itself, so neither goes together with secure aggregation, whose gain (noise once, not n times) is given up.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy import stats

from recsys_fed.errors import ConfigurationError, ProtocolError
from recsys_fed.federation.update import Request, Update


def robust_total(updates: Sequence[Update], request: Request, *, kind: str, trim: float) -> torch.Tensor:
    """What stands for the sum of the silos' releases, in the unit of the contribution: float64 [rows, columns].

    Guarantees: fewer than half of the silos (median), or at most floor(trim n) of them (trimmed mean), cannot move an
    entry outside the range of the others' values. Post-processing: the event of each release is what it costs.

    Raises:
        ProtocolError: there is no update. ConfigurationError: noise is split over the silos.
    """
    if not updates:
        raise ProtocolError("Expected an update of at least one silo, got none. See the silos' errors.")
    if request.noise_share < 1:
        raise ConfigurationError("Expected the whole noise in each message for a robust step, it is split.")
    values = np.stack([update.total for update in updates]).astype(np.float64)
    middle = np.median(values, axis=0) if kind == "median" else stats.trim_mean(values, trim, axis=0)
    return torch.from_numpy(np.asarray(middle)) * (len(updates) * request.grid_step)


def noise_factor(n_silos: int, *, kind: str, trim: float) -> float:
    """Standard deviation of `robust_total` over that of the plain sum, for equal silos with Gaussian noise.

    The asymptotic figures, which are upper bounds for the median of an odd number of silos and close for others.

    >>> round(noise_factor(1001, kind="median", trim=0.2), 2), noise_factor(2, kind="median", trim=0.2)
    (1.25, 1.0)
    """
    if kind == "median":
        return math.sqrt(math.pi / 2) if n_silos > 2 else 1.0
    cut = math.floor(trim * n_silos) / n_silos
    if not cut:
        return 1.0
    q = float(stats.norm.ppf(1 - cut))
    # Huber (1981): the winsorised variance over (1 - 2 cut)^2.
    inner = (1 - 2 * cut) - 2 * q * float(stats.norm.pdf(q))
    return math.sqrt(inner + 2 * cut * q * q) / (1 - 2 * cut)
