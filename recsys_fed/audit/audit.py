"""A whole audit: run, bounds, conformance, power checks, attacks; one JSON record, audit.json.

real run with canaries -> scores -> lower bounds of epsilon, beside the ledger's upper bound
its mechanism in the auditor's hands -> conformance checks
its silos under a server that lies and over files that are dirty -> what leaves them beyond the mechanism
the same on a null and on broken copies -> what this audit is able to see
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys_fed import checks
from recsys_fed.audit._attacks import attacks_on
from recsys_fed.audit._audited_run import AuditedRun, canary_data, deployed_mechanism, run_with_canaries
from recsys_fed.audit._broken_mechanisms import BREAKAGES, MODULE_BREAKAGES, ORDERED_BREAKAGES
from recsys_fed.audit._hostile_requests import broken_copies_caught, hostile_requests
from recsys_fed.audit._mechanism import Mechanism, promised_deviation
from recsys_fed.audit._neighbouring_files import neighbouring_files, read_by_column
from recsys_fed.audit._replays import Outcome, Replay, attackable, compute_sums, directions, replays, round_scores
from recsys_fed.audit.bounds import bounds_of, ceiling, plan_guesses
from recsys_fed.audit.checks._conformance import SILO_USERS, Stand, conformance
from recsys_fed.audit.checks._noise import FAMILY_ERROR, residuals_of_run, run_findings
from recsys_fed.config import FederationConfig, SimulationConfig, flat
from recsys_fed.errors import ConfigurationError
from recsys_fed.federation.run_files import EVENTS
from recsys_fed.models.device import use_threads
from recsys_fed.privacy.guarantee import guarantee_of
from recsys_fed.simulation.record import finite, spent_by_silo
from recsys_fed.simulation.runner import Progress, Steps
from recsys_fed.trainers.ordered import STAGE as ORDERED_STAGE
from recsys_fed.trainers.torch_trainer import TorchTrainer
from recsys_fed.versions import versions

KIND = "audit"
NULL, DEPLOYED = "null", "as deployed"
SIMULATED = (
    "The run was simulated: its noise follows from a seed that its server knows. The audit of the run does not use "
    "the seed; the mechanism was replayed with keys of the auditor."
)
AUDIT = "audit.json"
# Streams of the auditor's seed.
_CANARIES, _KEYS, _PEOPLE = 1, 2, 3


@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """Settings of an audit.

    Attributes:
        canaries: crafted users, of whom about one half takes part.
        withhold: ordinary users who are taken out, the non-members of attacks (a quarter of all at most).
        people: of those, whose histories are attacked.
        list_length: of the served lists.
        runs: releases of each kind for the likelihood ratio of one round.
        hostile_requests: to pairs of silos that differ by one user. neighbouring_files: pairs of files and tables.
        seed: of canaries, coins and the auditor's keys.
        power: also audit the null and the broken copies.
        attacks: also attack the model, updates and lists, with a run without noise as reference.
    """

    canaries: int = 1_000
    withhold: int = 400
    people: int = 50
    list_length: int = 20
    runs: int = 100
    hostile_requests: int = 200
    neighbouring_files: int = 60
    seed: int = 0
    power: bool = True
    attacks: bool = True

    def __post_init__(self) -> None:
        checks.at_least(10, canaries=self.canaries, withhold=self.withhold, runs=self.runs)
        checks.at_least(4, people=self.people)
        checks.at_least(1, list_length=self.list_length)
        checks.at_least(1, hostile_requests=self.hostile_requests, neighbouring_files=self.neighbouring_files)
        checks.at_least(0, seed=self.seed)


def _audit_record(
    run: AuditedRun,
    settings: AuditSettings,
    *,
    itself: Outcome,
    replayed: Sequence[Outcome],
    geometry: Sequence[Mapping[str, Any]],
    boundary: Sequence[Mapping[str, Any]],
    attacks: Mapping[str, Any],
    seconds: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """The record of an audit; every value is JSON."""
    config, guarantee = run.config, guarantee_of(run.config)
    spent = spent_by_silo((run.folder / EVENTS).read_text(), guarantee)
    broken = [one for one in replayed if one.name not in (NULL, DEPLOYED)]
    return {
        "kind": KIND,
        "data": run.placed.name,
        "n_users": run.placed.federation.train.shape[0],
        "n_items": run.placed.federation.train.shape[1],
        "n_silos": config.silos,
        "trainer": config.trainer,
        "noise": config.noise,
        "delta": config.delta,
        "claimed_epsilon": config.epsilon,
        "ledger_epsilon": {silo: finite(value) for silo, value in spent.items()},
        "guarantee": guarantee.sentence(),
        "canaries": {
            "crafted": len(run.placed.canaries),
            "included": int(run.placed.canaries.included.sum()),
            "items_each": int(np.diff(run.placed.canaries.histories.indptr).max()),
            "rounds": list(geometry),
        },
        "ceiling": ceiling(len(run.placed.canaries), epsilon=config.epsilon, delta=config.delta),
        "flagged": itself.caught or any(one["breached"] for one in boundary),
        "this_run": _outcome_record(itself),
        "family_error": FAMILY_ERROR,
        "power": [_outcome_record(one) for one in replayed],
        "caught": sum(one.caught for one in broken),
        "broken": len(broken),
        "boundary": list(boundary),
        "attacks": dict(attacks),
        "note": SIMULATED,
        "settings": {name: getattr(settings, name) for name in settings.__dataclass_fields__},
        "config": {key: value for key, value in flat(config).items() if key not in ("output", "catalogue")}
        | {"epsilon": finite(config.epsilon)},
        "seconds": dict(seconds),
        "versions": versions(),
    }


def _outcome_record(outcome: Outcome) -> dict[str, Any]:
    """One verdict as JSON values."""
    tests = len(outcome.findings)
    return {
        "name": outcome.name,
        "caught": outcome.caught,
        "caught_by": list(outcome.caught_by),
        "bounds": [bounds.to_record() for bounds in outcome.bounds],
        "findings": [finding.to_record(tests) for finding in outcome.findings],
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scored:
    """What the canaries of a run say: scores of the run itself, audits by replay, and how orthogonal they were."""

    scores: npt.NDArray[np.float64]
    audits: Sequence[Replay]
    geometry: Sequence[dict[str, Any]]


@dataclass(kw_only=True)
class _Stopwatch:
    """Seconds of each phase, by the clock and of the processor; announced as it begins is each step of one."""

    step: Callable[[str], None]
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase."""
        self.step(name)
        start, worked = time.perf_counter(), time.process_time()
        yield
        self.seconds[name] = {
            "clock": round(time.perf_counter() - start, 3),
            "processor": round(time.process_time() - worked, 3),
        }


def _check_claim(config: FederationConfig) -> None:
    if math.isinf(config.epsilon):
        raise ConfigurationError("Expected a finite epsilon to audit, got inf: it claims nothing.")
    if config.user_weights or config.metric_groups:
        raise ConfigurationError(
            "Expected no user-weights and no metric-groups in an audit, whose canaries have no attributes. Leave "
            "them out: a user who counts in full adds the same without weights, and all others add less."
        )


def audit(
    config: FederationConfig,
    data: SimulationConfig,
    settings: AuditSettings,
    *,
    folder: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Audit the pipeline that the configuration describes, write `audit.json` to `folder`, and return its record.

    Raises:
        ConfigurationError: there is no finite epsilon to hold anything against; or what users count, or the
            metrics of whom are reported, follows from attributes.
        RecsysFedError: see a run.
    """
    _check_claim(config)
    use_threads(config.threads)
    progress = progress or Progress()
    watch = _Stopwatch(step=Steps(5 + settings.power + settings.attacks, progress).begin)
    with watch.phase("run with canaries"):
        config, placed = canary_data(
            config,
            data,
            count=settings.canaries,
            withhold=settings.withhold,
            folder=folder,
            rng=np.random.default_rng([settings.seed, _CANARIES]),
        )
        run = run_with_canaries(config, placed, folder=folder, progress=progress)
    mechanism = deployed_mechanism(run, key=_auditors_key(settings.seed))
    with watch.phase("canaries and replays"):
        scored = _score(run, mechanism, power=settings.power)
    with watch.phase("conformance"):
        itself, replayed = _outcomes(run, mechanism, scored, settings)
    with watch.phase("silos under attack"):
        boundary = _attack_silos(run, settings, step=watch.step)
    attacks: dict[str, Any] = {}
    if settings.attacks:
        with watch.phase("attacks"):
            unprotected = replace(config, epsilon=math.inf, metrics_epsilon=0.0)
            elsewhere = folder / "without-noise"
            reference = run_with_canaries(unprotected, placed, folder=elsewhere, progress=progress)
            attacks = attacks_on(run, reference, mechanism, people=settings.people, list_length=settings.list_length)
    record = _audit_record(
        run,
        settings,
        itself=itself,
        replayed=replayed,
        geometry=scored.geometry,
        boundary=boundary,
        attacks=attacks,
        seconds=watch.seconds,
    )
    (folder / AUDIT).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


def _attack_silos(
    run: AuditedRun, settings: AuditSettings, *, step: Callable[[str], None] = lambda _: None
) -> list[dict[str, Any]]:
    """What a server that lies and a file that is dirty can do to the run's silos, and to broken copies of them."""
    some, catalogue = _stand(run, settings).ordinary, run.placed.federation.catalogue
    requests = hostile_requests(run.config, catalogue, some, count=settings.hostile_requests, seed=settings.seed)
    step("silos over dirty files")
    files = neighbouring_files(seed=settings.seed, pairs=settings.neighbouring_files)
    if settings.power:
        step("broken copies of silos under attack")
        requests["broken_copies_caught"] = broken_copies_caught(
            run.config, catalogue, some, count=settings.hostile_requests, seed=settings.seed
        )
        broken = neighbouring_files(seed=settings.seed, pairs=settings.neighbouring_files, read=read_by_column)
        files["broken_copies_caught"] = {"per-column type inference": bool(broken["breached"])}
    return [requests, files]


def _auditors_key(seed: int) -> int:
    """A key that does not follow from the run's configuration; the auditor's seed repeats it."""
    return int(np.random.default_rng([seed, _KEYS]).integers(1 << 31, 1 << 32))


def _score(run: AuditedRun, mechanism: Mechanism, *, power: bool) -> _Scored:
    """Score the canaries on what the run released, and on replays; contributions are computed once a round."""
    users, others = run.users(canaries=True), run.users(canaries=False)
    placed = run.placed
    reads_order = any(played.request.stage == ORDERED_STAGE for played in run.rounds)
    of_module = isinstance(mechanism.trainer, TorchTrainer)
    broken = (*BREAKAGES, *(ORDERED_BREAKAGES if reads_order else ()), *(MODULE_BREAKAGES if of_module else ()))
    audits = replays(
        mechanism, broken if power else (), users=users, others=others, silo_of_canary=placed.silo_of_canary
    )
    scores, geometry = np.zeros(len(placed.canaries)), []
    for played in run.rounds:
        if not attackable(played.request):
            continue
        found = directions(played.request, mechanism.trainer, placed.canaries.histories)
        scores += round_scores(
            found,
            played.seen,
            compute_sums(mechanism, played.request, others),
            silo_of_canary=placed.silo_of_canary,
            deviation=promised_deviation(played.request),
        )
        audits = [one.then(found, played) for one in audits]
        geometry.append(
            {
                "round": played.request.round,
                "stage": played.request.stage,
                "share_with_full_length": float(np.mean(found.norms > 0.99)),
                "interference": found.interference(),
            }
        )
    return _Scored(scores=scores, audits=audits, geometry=geometry)


def _outcomes(
    run: AuditedRun, mechanism: Mechanism, scored: _Scored, settings: AuditSettings
) -> tuple[Outcome, list[Outcome]]:
    """The verdict on the run, and those on the null, the replayed mechanism and its broken copies."""
    included, config = run.placed.canaries.included, run.config
    made = plan_guesses(len(included), epsilon=config.epsilon, delta=config.delta)
    where = _stand(run, settings)
    users = run.users(canaries=True)
    residuals = residuals_of_run(
        (one.request, one.seen, compute_sums(mechanism, one.request, users)) for one in run.rounds
    )
    bounds = bounds_of(scored.scores, included, made=made, delta=config.delta)
    found = conformance(mechanism, where)
    itself = Outcome(
        name="this run", bounds=bounds, findings=(*run_findings(residuals), *found), claimed=config.epsilon
    )
    replayed = [
        Outcome(
            name=one.name,
            bounds=bounds_of(one.scores, included, made=made, delta=config.delta),
            findings=tuple(found if one.mechanism is mechanism else conformance(one.mechanism, where)),
            claimed=config.epsilon,
        )
        for one in scored.audits
    ]
    return itself, replayed


def _stand(run: AuditedRun, settings: AuditSettings) -> Stand:
    """Where checks test: a request of each kind that the run made, and a few ordinary users."""
    kinds = {one.request.stage: (one.schedule, one.request) for one in reversed(run.rounds)}
    rng = np.random.default_rng([settings.seed, _PEOPLE])
    rows = np.concatenate(run.placed.others)
    some = np.sort(rng.choice(rows, size=min(SILO_USERS, len(rows)), replace=False))
    return Stand(
        rounds=tuple(reversed(kinds.values())),
        ordinary=run.placed.federation.train[some],
        silos=run.config.silos,
        delta=run.config.delta,
        public_seed=run.config.seed,
        runs=settings.runs,
    )
