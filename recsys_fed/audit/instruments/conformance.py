"""All instruments on one mechanism, for each kind of release of a run."""

from collections.abc import Sequence
from dataclasses import dataclass

from scipy import sparse

from recsys_fed.audit.instruments.distinguishing import distinguishing
from recsys_fed.audit.instruments.dropout import dropout
from recsys_fed.audit.instruments.finding import Finding
from recsys_fed.audit.instruments.independence import independence
from recsys_fed.audit.instruments.inputs import silo_of
from recsys_fed.audit.instruments.known_seed import known_seed
from recsys_fed.audit.instruments.noise_scale import noise_scale
from recsys_fed.audit.instruments.residuals import Bench
from recsys_fed.audit.instruments.sensitivity import sensitivity
from recsys_fed.audit.mechanisms.mechanism import Mechanism
from recsys_fed.federation.messages import Request
from recsys_fed.federation.schedule import Schedule
from recsys_fed.trainers.popularity import STAGE as COUNTS_STAGE

# Users of the ordinary silo of the benches, and releases of each kind for the likelihood ratio.
SILO_USERS = 40
RUNS = 100


@dataclass(frozen=True, kw_only=True, eq=False)
class Stand:
    """What the instruments need beside the mechanism.

    Attributes:
        rounds: a request of each kind of release, and the server's schedule when it asks.
        ordinary: csr, histories of ordinary users.
        silos: of the federation.
        delta: of the guarantee.
        public_seed: of the run's configuration.
        runs: releases of each kind for the likelihood ratio.
    """

    rounds: Sequence[tuple[Schedule, Request]]
    ordinary: sparse.csr_matrix
    silos: int
    delta: float
    public_seed: int
    runs: int = RUNS


def conformance(mechanism: Mechanism, stand: Stand) -> list[Finding]:
    """Every instrument on every kind of release (the likelihood ratio on the counts); without noise there are none.

    Guarantees: a mechanism that does what its events say is flagged with probability FAMILY_ERROR at most, all
    findings together.
    """
    findings: list[Finding] = []
    for schedule, request in stand.rounds:
        if not request.noise_multiplier:
            continue
        bench = Bench(
            mechanism=mechanism,
            schedule=schedule,
            request=request,
            users=silo_of(stand.ordinary),
            silos=stand.silos,
        )
        findings += noise_scale(bench)
        findings += independence(bench)
        findings += sensitivity(bench, ordinary=stand.ordinary)
        findings += known_seed(bench, seed=stand.public_seed)
        findings += dropout(bench)
        if request.stage == COUNTS_STAGE:
            findings += distinguishing(bench, ordinary=stand.ordinary, runs=stand.runs, delta=stand.delta)
    return findings
