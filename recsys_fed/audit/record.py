"""audit.json: what was audited, what it says, and what the audit was able to see."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recsys_fed.audit.audited_run import AuditedRun
from recsys_fed.audit.instruments.finding import FAMILY_ERROR
from recsys_fed.audit.power import Outcome
from recsys_fed.audit.settings import AuditSettings
from recsys_fed.audit.statistics.bounds import ceiling
from recsys_fed.config import flat
from recsys_fed.federation.run_files import EVENTS
from recsys_fed.privacy.guarantee import guarantee_of
from recsys_fed.simulation.record import finite, spent_by_silo
from recsys_fed.versions import versions

KIND = "audit"
NULL, DEPLOYED = "null", "as deployed"
SIMULATED = (
    "The run was simulated: its noise follows from a seed that its server knows. The audit of the run does not use "
    "the seed; the mechanism was replayed with keys of the auditor."
)


def audit_record(
    run: AuditedRun,
    settings: AuditSettings,
    *,
    itself: Outcome,
    checks: Sequence[Outcome],
    geometry: Sequence[Mapping[str, Any]],
    boundary: Sequence[Mapping[str, Any]],
    attacks: Mapping[str, Any],
    seconds: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """The record of an audit; every value is JSON."""
    config, guarantee = run.config, guarantee_of(run.config)
    spent = spent_by_silo((run.folder / EVENTS).read_text(), guarantee)
    broken = [one for one in checks if one.name not in (NULL, DEPLOYED)]
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
        "this_run": outcome_record(itself),
        "family_error": FAMILY_ERROR,
        "power": [outcome_record(one) for one in checks],
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


def outcome_record(outcome: Outcome) -> dict[str, Any]:
    """One verdict as JSON values."""
    tests = len(outcome.findings)
    return {
        "name": outcome.name,
        "caught": outcome.caught,
        "caught_by": list(outcome.caught_by),
        "bounds": [bounds.to_record() for bounds in outcome.bounds],
        "findings": [finding.to_record(tests) for finding in outcome.findings],
    }
