"""The largest release that an honest silo could send: what is beyond is refused, whatever it says of itself.

A contribution is a sum over users whose terms have norm at most C. The number of a silo's users is private, but all
silos together have about `declared_users` of them. With four times as many as a bound for one silo, as for the grid,

    ||total|| <= 4 declared_users C steps / grid_step  +  s (sqrt(m) + 8)        in grid steps

for m entries with noise of standard deviation s each, but for a probability of 10^-13: the norm of m independent
Gaussian draws exceeds s (sqrt(m) + t) with probability below exp(-t^2 / 2).
"""

import math

import numpy as np

from recsys_fed.errors import ProtocolError
from recsys_fed.federation.update import Request, Update

# Of the declared users, for a single silo.
_ROOM = 4
_DEVIATIONS = 8.0


def largest_norm(request: Request, *, declared_users: int) -> float:
    """The bound of the module, in grid steps."""
    steps = request.steps if request.noise_inside else 1
    signal = _ROOM * declared_users * request.l2_clip_norm * steps / request.grid_step
    entries = request.shape[0] * request.shape[1]
    noise = request.mechanism.standard_deviation * math.sqrt(steps)
    # Rounding to the grid moves an entry by less than one step, and so each of the local steps' sums.
    return float(signal + noise * (math.sqrt(entries) + _DEVIATIONS) + steps * math.sqrt(entries))


def check_norm(update: Update, request: Request, *, declared_users: int) -> None:
    """Refuse a release that no honest silo could have sent.

    Raises:
        ProtocolError: it says how large it may be. The norm itself is that of a noised release, hence public.
    """
    bound = largest_norm(request, declared_users=declared_users)
    norm = float(np.linalg.norm(update.total.astype(np.float64)))
    if norm > bound:
        raise ProtocolError(f"Expected a release of norm at most {bound:.3g} grid steps, got {norm:.3g}.")
