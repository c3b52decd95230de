"""The sum over silos: exact, because what the silos release are integers on one grid."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from recsys_fed.errors import ProtocolError
from recsys_fed.federation.update import Request, Update


def total_of(updates: Sequence[Update], request: Request) -> torch.Tensor:
    """Sum of the silos' releases in the unit of the contribution, float64 [rows, columns].

    The sum is never divided by a count of users or weighted by one: silos are summed as they are.

    Raises:
        ProtocolError: there is no update.
    """
    if not updates:
        raise ProtocolError("Expected an update of at least one silo, got none. See the silos' errors.")
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
