"""Sensitivity: neighbouring inputs, one user more, without the noise that would hide the difference."""

from collections.abc import Iterator

import numpy as np
from scipy import sparse

from recsys_fed.audit.instruments.finding import Finding
from recsys_fed.audit.instruments.inputs import maximal_users, nobody, silo_of
from recsys_fed.audit.instruments.residuals import Bench
from recsys_fed.audit.mechanisms.mechanism import quiet

# A dithered entry is one of two neighbouring integers.
_DITHER = 1.0


def sensitivity(bench: Bench, *, ordinary: sparse.csr_matrix) -> Iterator[Finding]:
    """One maximal user more, in an empty silo and in an ordinary one; and the same input twice.

    ||release with - release without|| may be at most D, the sensitivity that the noise is scaled to (all but 1e-15
    of the time), whoever the user is.
    """
    asked = quiet(bench.request)
    limit = asked.mechanism.sensitivity
    for where, base in (("an empty silo", nobody(ordinary.shape[1])), ("an ordinary silo", ordinary)):
        before = bench.mechanism.release(asked, silo_of(base))
        for who, user in maximal_users(ordinary).items():
            joined = silo_of(sparse.vstack([base, user], format="csr"))
            distance = float(np.linalg.norm((bench.mechanism.release(asked, joined) - before).astype(np.float64)))
            yield Finding(
                instrument=f"sensitivity, one user {who} in {where}",
                stage=bench.request.stage,
                measured=distance / limit,
                promised=1.0,
                unit="sensitivities, at most",
                p_value=0.0 if distance > limit else 1.0,
            )
    yield _repeated(bench, ordinary)


def _repeated(bench: Bench, ordinary: sparse.csr_matrix) -> Finding:
    """The sum of the same users is the same, whatever the release number is: only the dither differs."""
    asked = quiet(bench.request)
    one, two = (bench.mechanism.release(asked, silo_of(ordinary), release=number) for number in (0, 1))
    distance = float(np.abs(one - two).max(initial=0))
    # Settings of the request, not the silo, decide what else is drawn; local steps may add a dither a step.
    return Finding(
        instrument="same input twice",
        stage=bench.request.stage,
        measured=distance,
        promised=_DITHER,
        unit="grid steps, at most",
        p_value=0.0 if distance > _DITHER and not bench.request.noise_inside else 1.0,
    )
