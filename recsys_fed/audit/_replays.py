"""Can the audit fail? The same audit on a null, on the deployed mechanism, and on seven broken copies of it.

The releases of a run are replayed at the requests that the run made: the tables in them are then fixed, which is one
way of choosing them, and the guarantee holds for every way. So the canaries' contributions are computed once, and a
further audit costs one release of each silo a round.

*White-box scores* are the projection of everything that was released on each canary's own contribution. For canary j
in view v (a silo's releases, or the sum's) with contribution g_jr in round r, noise of standard deviation s_r on each
entry, the others' contribution b_vr known to the auditor, and half of every canary taken off:

    score_j = sum_r <Y_vr - b_vr - 1/2 sum_{i in v} g_ir, g_jr> / s_r^2

If contributions are orthogonal this is the log-likelihood ratio of "in" against "out", the best score there is.
Everything but the coins is known to the auditor, as to the adversary of the definition.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from recsys_fed.audit._broken_mechanisms import SIMULATION_NOISE, Breakage
from recsys_fed.audit._mechanism import SUM, Mechanism, label, only_the_sum, promised_deviation, quiet
from recsys_fed.audit._transcript import Round
from recsys_fed.audit.bounds import Bounds
from recsys_fed.audit.checks._noise import Finding, flagged_findings, predicted_noise
from recsys_fed.federation.messages import Request
from recsys_fed.federation.metrics_round import STAGE as METRICS_STAGE
from recsys_fed.federation.release import SiloUsers
from recsys_fed.models.histories import histories_of
from recsys_fed.trainers.trainer import Trainer

Integers = npt.NDArray[np.int64]
# Of the noise, above which the attacker takes off what the public seed predicts.
_PREDICTED = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class _Directions:
    """Contributions of all canaries in one round, float32 [n_canaries, entries], in the unit of the sum."""

    request: Request
    table: npt.NDArray[np.float32]

    @property
    def norms(self) -> npt.NDArray[np.float64]:
        """Length of each, in clip norms."""
        squares = np.einsum("ij,ij->i", self.table, self.table, dtype=np.float64)
        return np.asarray(np.sqrt(squares) / self.request.l2_clip_norm)

    def interference(self) -> float:
        """What the other canaries add to the variance of a score, in squared lengths, on average: 0 if orthogonal."""
        gram = np.abs(self.table @ self.table.T).astype(np.float64)
        np.fill_diagonal(gram, 0.0)
        return float(np.mean(np.sum(gram**2, axis=1)) / 4 / self.request.l2_clip_norm**4)


def attackable(request: Request) -> bool:
    """Whether canaries are in this release at all: they hold out nothing, so metrics know nothing of them."""
    return request.stage != METRICS_STAGE


def directions(request: Request, trainer: Trainer, canaries: sparse.csr_matrix) -> _Directions:
    """Each canary's own contribution to what the request asks for, by the trainer's own code."""
    settings = {**request.settings, "l2_clip_norm": request.l2_clip_norm}
    weight = request.steps * request.sampling_probability if request.noise_inside else 1.0
    users = histories_of(canaries)
    table = np.empty((users.n_users, request.shape[0] * request.shape[1]), dtype=np.float32)
    for row in range(users.n_users):
        one = trainer.contribution(request.stage, request.tables, users.block(row, row + 1), settings=settings)
        table[row] = one.numpy().ravel()
    table *= weight
    return _Directions(request=request, table=table)


def round_scores(
    found: _Directions,
    seen: Mapping[str, Integers],
    others: Mapping[str, Integers],
    *,
    silo_of_canary: npt.NDArray[np.int64],
    deviation: float,
) -> npt.NDArray[np.float64]:
    """One round's part of the scores, float64 [n_canaries].

    Args:
        found: the canaries' contributions.
        seen: what the server saw, in grid steps, by view.
        others: what it would have seen of the ordinary users alone and without noise.
        silo_of_canary: which silo each canary is in, or would be in; -1 for one whose silo is not seen.
        deviation: of the noise on each entry, in grid steps; 0 counts as 1.
    """
    step, scores = found.request.grid_step, np.zeros(len(found.table))
    labels = np.array([label(silo) for silo in silo_of_canary])
    variance = (max(deviation, 1.0) * step) ** 2
    for view, released in seen.items():
        here = silo_of_canary >= 0 if view == SUM else labels == view
        if not here.any():
            continue
        table = found.table[here]
        residual = (released - others[view]).ravel() * step - 0.5 * table.sum(0, dtype=np.float64)
        scores[here] = table @ residual.astype(np.float32) / variance
    return scores


@dataclass(frozen=True, kw_only=True, eq=False)
class Replay:
    """One audit by replay.

    Attributes:
        name: of the audit.
        mechanism: that is replayed.
        users: of every silo, with the canaries whose coins say so.
        others: without them: what the auditor knows.
        silo_of_canary: int64 [n_canaries].
        loses_silos: half of the silos do not answer, and noise is split over all.
        scores: so far, float64 [n_canaries].
    """

    name: str
    mechanism: Mechanism
    users: Sequence[SiloUsers]
    others: Sequence[SiloUsers]
    silo_of_canary: npt.NDArray[np.int64]
    loses_silos: bool = False
    scores: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def then(self, found: _Directions, played: Round) -> "Replay":
        """The audit after one more round."""
        lost = range(len(self.users) // 2) if self.loses_silos and len(self.users) > 1 else range(0)
        request = played.request
        if self.loses_silos and not (request.noise_inside or request.masked):
            request = replace(request, noise_share=min(request.noise_share, 1 / len(self.users)))
        seen = self.mechanism.observed(played.schedule, request, self.users, release=request.round, lost=lost)
        known = compute_sums(self.mechanism, request, self.others, lost=lost)
        silos = np.where(np.isin(self.silo_of_canary, list(lost)), -1, self.silo_of_canary)
        more = round_scores(
            found,
            _without_known_noise(seen, known, request, silos=len(self.users), seed=self.mechanism.public_seed),
            known,
            silo_of_canary=silos,
            deviation=promised_deviation(request),
        )
        return replace(self, scores=more if not len(self.scores) else self.scores + more)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the audit says of one mechanism.

    Attributes:
        name: of the mechanism.
        bounds: at each confidence.
        findings: of the checks.
        claimed: epsilon that the mechanism claims.
    """

    name: str
    bounds: tuple[Bounds, ...]
    findings: tuple[Finding, ...]
    claimed: float

    @property
    def caught_by(self) -> tuple[str, ...]:
        """Bounds at the highest confidence that exceed the claim, and checks that flag."""
        strictest = max(self.bounds, key=lambda bounds: bounds.confidence)
        named = {"one-run bound": strictest.one_run, "f-DP one-run bound": strictest.one_run_fdp}
        beyond = [f"{name} at {strictest.confidence:.0%}" for name, bound in named.items() if bound > self.claimed]
        return (*beyond, *dict.fromkeys(finding.instrument for finding in flagged_findings(list(self.findings))))

    @property
    def caught(self) -> bool:
        """Whether anything speaks against the claim."""
        return bool(self.caught_by)


def replays(
    deployed: Mechanism,
    breakages: Iterable[Breakage],
    *,
    users: Sequence[SiloUsers],
    others: Sequence[SiloUsers],
    silo_of_canary: npt.NDArray[np.int64],
) -> list[Replay]:
    """The null (canaries never used), the deployed mechanism and its broken copies, before their first round."""
    fixed: dict[str, Any] = {"others": others, "silo_of_canary": silo_of_canary}
    broken = [
        Replay(
            name=breakage.name,
            mechanism=breakage.of(deployed),
            users=users,
            loses_silos=breakage.loses_silos,
            **fixed,
        )
        for breakage in breakages
    ]
    null = Replay(name="null", mechanism=deployed, users=others, **fixed)
    return [null, Replay(name="as deployed", mechanism=deployed, users=users, **fixed), *broken]


def _without_known_noise(
    seen: Mapping[str, Integers], known: Mapping[str, Integers], request: Request, *, silos: int, seed: int
) -> Mapping[str, Integers]:
    """What was seen less the noise that the public seed predicts, in views where it does predict it.

    Whether it does is seen from the noise, which knows nothing of the coins.
    """
    found = {}
    for view, released in seen.items():
        predicted = _predict(view, request, silos=silos, seed=seed)
        residual = (released - known[view]).astype(np.float64)
        length = float(np.linalg.norm(residual) * np.linalg.norm(predicted))
        fits = length > 0 and float(np.vdot(residual, predicted)) / length > _PREDICTED
        found[view] = released - predicted if fits else released
    return found


def _predict(view: str, request: Request, *, silos: int, seed: int) -> Integers:
    """Of one silo, or summed over those that may be in the sum."""
    if request.noise_inside or not request.noise_multiplier:
        return np.zeros(request.shape, dtype=np.int64)
    who = range(silos) if view == SUM else [int(view.removeprefix(label(0)[:-1]))]
    drawn = [
        predicted_noise(request, purpose=SIMULATION_NOISE, seed=seed, silo=silo, release=request.round)
        for silo in who
    ]
    total: Integers = np.sum(drawn, axis=0).astype(np.int64)
    return total


def compute_sums(
    mechanism: Mechanism, request: Request, silos: Sequence[SiloUsers], *, lost: Collection[int] = ()
) -> Mapping[str, Integers]:
    """What the server would see of these users without noise, by view."""
    asked = quiet(request)
    sums = {
        label(index): mechanism.release(asked, users, silo=index)
        for index, users in enumerate(silos)
        if index not in lost
    }
    return {SUM: np.sum(list(sums.values()), axis=0, dtype=np.int64)} if only_the_sum(request) else sums
