"""The sum over silos, and what a lying silo can do to it.

The sum is exact, because what the silos release are integers on one grid. Server steps that a few lying silos cannot
steer are the median and the trimmed mean over the silos, entry by entry:

    sum of silos  ~  n * median_i(x_i)        or   n * mean of x_i without the floor(trim n) largest and smallest

(arXiv 1803.01498). Both are post-processing of messages that each carry the whole noise, so they cost no privacy.
They cost accuracy. With Gaussian noise of standard deviation s in every message the sum has sqrt(n) s; n times
the median has up to sqrt(pi / 2) = 1.25 times as much, a trimmed mean lies between. Signal that only a minority
of the silos has is lost, as it looks like a lie: a large silo counts like a small one. And each message must be
seen by itself, so neither goes together with secure aggregation, whose gain (noise once, not n times) is given up.

What is larger than any honest silo could send is refused, whatever it says of itself (`check_norm`). A contribution
is a sum over users whose terms have norm at most C. The number of a silo's users is private, but all silos together
have about `declared_users` of them. With four times as many as a bound for one silo, as for the grid,

    ||total|| <= 4 declared_users C steps / grid_step  +  s (sqrt(m) + 8)        in grid steps

for m entries with noise of standard deviation s each, but for a probability of 10^-13: the norm of m independent
Gaussian draws exceeds s (sqrt(m) + t) with probability below exp(-t^2 / 2).
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from recsys_fed.errors import ConfigurationError, ProtocolError
from recsys_fed.federation.messages import Request, Update

# Of the declared users, for a single silo.
_ROOM = 4
_DEVIATIONS = 8.0


def total_of(updates: Sequence[Update], request: Request) -> torch.Tensor:
    """Sum of the silos' releases in the unit of the contribution, float64 [rows, columns].

    The sum is never divided by a count of users or weighted by one: silos are summed as they are.

    Raises:
        ProtocolError: there is no update.
    """
    if not updates:
        raise ProtocolError("No silo sent an update. See the silos' errors.")
    total = np.zeros(request.shape, dtype=np.int64)
    for update in updates:
        total += update.total
    return in_unit_of(total, request)


def in_unit_of(integers: npt.NDArray[np.int64], request: Request) -> torch.Tensor:
    """A sum of the silos' integers, in any form, in the unit of the contribution, float64 [rows, columns]."""
    return torch.from_numpy(integers.reshape(request.shape)).double() * request.grid_step


def noise_on_total(request: Request, n_silos: int) -> float:
    """Standard deviation of the noise on each entry of the sum over `n_silos` silos."""
    sums = n_silos * (request.steps if request.noise_inside else 1)
    return float(request.mechanism.standard_deviation * request.grid_step * sums**0.5)


def robust_total(updates: Sequence[Update], request: Request, *, kind: str, trim: float) -> torch.Tensor:
    """What stands for the sum of the silos' releases, in the unit of the contribution: float64 [rows, columns].

    Guarantees: fewer than half of the silos (median), or at most floor(trim n) of them (trimmed mean), cannot move an
    entry outside the range of the others' values. Post-processing: the event of each release is what it costs.

    Raises:
        ProtocolError: there is no update. ConfigurationError: noise is split over the silos.
    """
    if not updates:
        raise ProtocolError("No silo sent an update. See the silos' errors.")
    if request.noise_share < 1:
        raise ConfigurationError(
            "A robust step needs the whole noise in each message, here it is split over the silos."
        )
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


def _largest_norm(request: Request, *, declared_users: int) -> float:
    """The bound of the module on an honest silo's release, in grid steps."""
    steps = request.steps if request.noise_inside else 1
    signal = _ROOM * declared_users * request.l2_clip_norm * steps / request.grid_step
    entries = request.shape[0] * request.shape[1]
    noise = request.mechanism.standard_deviation * math.sqrt(steps)
    # Rounding to the grid moves an entry by less than one step, and so each of the local steps' sums.
    return float(signal + noise * (math.sqrt(entries) + _DEVIATIONS) + steps * math.sqrt(entries))


def check_norm(update: Update, request: Request, *, declared_users: int) -> None:
    """Refuse a release that no honest silo could have sent.

    Raises:
        ProtocolError: it says how large it may be. The norm itself is that of a noisy release, hence public.
    """
    bound = _largest_norm(request, declared_users=declared_users)
    norm = float(np.linalg.norm(update.total.astype(np.float64)))
    if norm > bound:
        raise ProtocolError(f"Expected a release of norm at most {bound:.3g} grid steps, got {norm:.3g}.")
