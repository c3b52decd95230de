"""Whether the noise follows from what an attacker knows: the seed of the run's configuration."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from recsys_fed.audit.instruments.finding import Finding
from recsys_fed.audit.instruments.noise_scale import empty_silo
from recsys_fed.audit.instruments.residuals import Bench
from recsys_fed.federation.messages import Request
from recsys_fed.privacy.integer_mechanism import add_noise
from recsys_fed.privacy.noise import SeededNoise

# Purposes and release numbers that the attacker tries: those of a simulated silo's keys, and a few more.
_PURPOSES = range(1, 4)
_RELEASES = range(3)


def predicted_noise(request: Request, *, purpose: int, seed: int, silo: int, release: int) -> npt.NDArray[np.float64]:
    """The integers that a silo would add if its key followed from these numbers, dither included."""
    zeros = np.zeros(request.shape)
    drawn = add_noise(zeros, mechanism=request.mechanism, noise=SeededNoise(purpose, seed, silo, release))
    return drawn.astype(np.float64)


def known_seed(bench: Bench, *, seed: int) -> Iterator[Finding]:
    """The largest correlation of an empty silo's release with what the public seed predicts."""
    if bench.request.noise_inside:
        return
    release = 1
    found = bench.residuals(empty_silo(bench), releases=[release], silo=0)[0].ravel()
    tried = []
    for purpose in _PURPOSES:
        for number in _RELEASES:
            guess = predicted_noise(bench.request, purpose=purpose, seed=seed, silo=0, release=number).ravel()
            length = float(np.linalg.norm(guess) * np.linalg.norm(found))
            tried.append(float(guess @ found) / length if length else 0.0)
    worst = max(tried, key=abs)
    yield Finding(
        instrument="noise that the public seed predicts",
        stage=bench.request.stage,
        measured=worst,
        promised=0.0,
        unit="correlation",
        p_value=min(1.0, len(tried) * float(2 * norm.sf(abs(worst) * np.sqrt(found.size)))),
    )
