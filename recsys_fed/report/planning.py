"""A planned run as JSON values and as a table: its noise, its epsilon by each accountant, and its expected error."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rich.console import Console

from recsys_fed.certificates.terms import epsilon_to_record
from recsys_fed.config import FederationConfig
from recsys_fed.federation.masked_request import modulus_of
from recsys_fed.federation.metrics_round import STAGE as METRICS
from recsys_fed.federation.noise_split import masking_of, share_of_silo
from recsys_fed.federation.planning import PlannedStage, planned_events, stages_of
from recsys_fed.federation.schedule import Schedule
from recsys_fed.federation.update import Request
from recsys_fed.ledger.budget import MOST_RUNS, account_spending, runs_that_fit, would_exceed, would_spend
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.privacy.accounting.kinds import repeated
from recsys_fed.privacy.events import PrivacyEvent
from recsys_fed.privacy.guarantee import guarantee_of
from recsys_fed.report.console import new_console, new_table, print_table
from recsys_fed.trainers.popularity import STAGE as COUNTS


def plan_record(schedule: Schedule, *, runs: int = 1, ledger: Ledger | None = None) -> dict[str, Any]:
    """Return the plan of one of `runs` equal runs, and whether all of them fit into a ledger."""
    config, events = schedule.config, planned_events(schedule)
    guarantee = guarantee_of(config)
    record: dict[str, Any] = {
        "trainer": config.trainer,
        "epsilon_of_a_run": epsilon_to_record(config.epsilon),
        "delta": config.delta,
        "n_items": schedule.facts.n_items,
        "silos": config.silos,
        "declared_users": config.declared_users,
        "max_silos_per_user": config.max_silos_per_user,
        "noise": config.noise,
        "secure_aggregation": _masking_record(schedule),
        "uncounted_silos": _uncounted_record(config),
        "noise_multiplier": schedule.noise_multiplier,
        "rounds": len(schedule.stages),
        "stages": [_stage_record(stage, schedule) for stage in stages_of(schedule)],
        "run": account_spending(events, guarantee).to_dict(),
        "guarantee": guarantee.sentence(),
        "runs": runs,
    }
    if runs > 1:
        record["all_runs"] = account_spending(repeated(events, runs), guarantee).to_dict()
    if ledger is not None:
        record["ledger"] = _ledger_record(ledger, events, runs=runs)
    return record


def print_plan(record: Mapping[str, Any]) -> None:
    """The plan as tables."""
    console = new_console()
    console.print(
        f"[bold]{record['trainer']}: {record['rounds']} rounds, {record['silos']} silos, {record['n_items']:,} "
        f"items, {record['declared_users']:,} declared users, noise {record['noise']}[/]",
    )
    table = new_table("stage", "rounds", "table", "noise multiplier", "noise on the sum: own", "once")
    for stage in record["stages"]:
        once = stage["noise_on_sum_if_once"]
        sampled = "" if stage["sampling_probability"] == 1 else f", q {stage['sampling_probability']:g}"
        steps = "" if stage["steps"] == 1 else f" x {stage['steps']} steps"
        table.add_row(
            stage["stage"],
            str(stage["rounds"]),
            f"{stage['rows']:,} x {stage['columns']}",
            f"{stage['noise_multiplier']:.4f}{steps}{sampled}",
            f"{stage['noise_on_sum_if_own']:.4g}",
            "-" if once is None else f"{once:.4g}",
        )
    print_table(console, table)
    for stage in record["stages"]:
        if stage["error"]:
            console.print(f"{stage['stage']}: {stage['error']}", highlight=False)
    _print_masking(console, record)
    uncounted = record["uncounted_silos"]
    if uncounted["silos"]:
        console.print(
            f"the noise of {uncounted['silos']} of the silos is not counted, as a silo that listens knows its own: "
            f"noise on the sum is {uncounted['noise_factor'] - 1:.1%} more for it",
            highlight=False,
        )
    console.print(f"base noise multiplier {record['noise_multiplier']:.6g}", highlight=False)
    console.print(f"one run: {_figures(record['run'])}", highlight=False)
    if record["runs"] > 1:
        console.print(
            f"all {record['runs']} runs: {_figures(record['all_runs'])}; ask for each with "
            f"--epsilon {record['epsilon_of_a_run']}",
            highlight=False,
        )
    if "ledger" in record:
        _print_ledger(console, record["ledger"], record["runs"])
    console.print(record["guarantee"], highlight=False)


def _uncounted_record(config: FederationConfig) -> dict[str, Any]:
    """How many silos' noise is not counted where noise is split, and what that costs on the sum."""
    share, all_counted = (share_of_silo(one) for one in (config, replace(config, secure_aggregation_colluders=0)))
    silos = 0 if share == all_counted else config.secure_aggregation_colluders
    return {"silos": silos, "noise_factor": math.sqrt(share / all_counted)}


def _print_masking(console: Console, record: Mapping[str, Any]) -> None:
    masking = record["secure_aggregation"]
    if masking is None:
        return
    console.print(
        f"secure aggregation: {masking['threshold']} of {record['silos']} silos must stay, {masking['colluding']} of "
        "them may collude with the server",
        highlight=False,
    )
    for stage in record["stages"]:
        modulus = stage["modulus"]
        console.print(
            f"{stage['stage']}: {modulus['bits']} bits a value, {modulus['bytes_over_int32']:.2f} times the bytes; a "
            f"sum does not fit with probability below {max(modulus['overflow_probability'], 1e-300):.1g}; the grid "
            f"adds {modulus['noise_of_grid']:.2%} to the noise",
            highlight=False,
        )


def _figures(spent: Mapping[str, Any]) -> str:
    named = ", ".join(f"{name.upper()} {_number(spent[f'epsilon_{name}'])}" for name in ("pld", "prv", "rdp"))
    return f"epsilon {_number(spent['epsilon'])} at delta {spent['delta']:g} ({named})"


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4f}"


def _print_ledger(console: Console, ledger: Mapping[str, Any], runs: int) -> None:
    planned = "this run" if runs == 1 else f"these {runs} runs"
    verdict = f"[green]{planned} would fit[/]" if ledger["fits"] else f"[bold red]{planned} would not fit[/]"
    console.print(
        f"{verdict}: epsilon {_number(ledger['epsilon_spent'])} is spent, it would be "
        f"{_number(ledger['epsilon_after'])} of {_number(ledger['epsilon_limit'])}, "
        f"{_number(ledger['epsilon_left'])} left. Runs like this that fit: {ledger['runs_that_fit']}.",
        highlight=False,
    )


def _ledger_record(ledger: Ledger, events: tuple[PrivacyEvent, ...], *, runs: int) -> dict[str, Any]:
    spent, planned = ledger.spending(), repeated(events, runs)
    limit = spent.guarantee.epsilon
    after = would_spend(spent.kinds, planned, spent.guarantee)
    fitting = runs_that_fit(spent.kinds, events, spent.guarantee)
    return {
        "ledger": ledger.place,
        "epsilon_spent": epsilon_to_record(spent.epsilon),
        "epsilon_limit": epsilon_to_record(limit),
        "epsilon_after": epsilon_to_record(after),
        "epsilon_left": epsilon_to_record(math.inf if math.isinf(limit) else max(0.0, limit - after)),
        "fits": not would_exceed(spent.kinds, planned, spent.guarantee),
        "runs_that_fit": fitting if fitting < MOST_RUNS else f"{MOST_RUNS} or more",
    }


def _stage_record(stage: PlannedStage, schedule: Schedule) -> dict[str, Any]:
    asked = stage.asked
    return {
        "stage": asked.stage,
        "released": asked.released,
        "rounds": stage.rounds,
        "rows": asked.shape[0],
        "columns": asked.shape[1],
        "noise_multiplier": asked.noise_multiplier,
        "sampling_probability": asked.sampling_probability,
        "steps": asked.steps,
        "noise_of_a_silo": stage.noise_of_silo,
        "noise_on_sum": stage.noise_on_sum,
        "modulus": _modulus_record(asked, schedule),
        "noise_on_sum_if_own": stage.noise_if_own,
        "noise_on_sum_if_once": stage.noise_if_once,
        "error": _in_words(stage, schedule),
    }


def _masking_record(schedule: Schedule) -> dict[str, int] | None:
    masking = masking_of(schedule.config)
    return None if masking is None else {"threshold": masking.threshold, "colluding": masking.colluding}


def _modulus_record(asked: Request, schedule: Schedule) -> dict[str, float] | None:
    """Bits of the masked integers, the chance that a sum does not fit, and what the grid adds to the noise."""
    if not asked.masked:
        return None
    modulus = modulus_of(asked, declared_users=schedule.facts.declared_users, n_silos=schedule.config.silos)
    return {
        "bits": modulus.bits,
        "overflow_probability": modulus.overflow_probability,
        "bytes_over_int32": modulus.bits / 32,
        "noise_of_grid": asked.mechanism.inflation - 1,
    }


def _in_words(stage: PlannedStage, schedule: Schedule) -> str:
    """The noise beside what the declared users add, for the noise that the plan has."""
    noise = stage.noise_on_sum
    users = schedule.facts.declared_users
    if not noise:
        return "" if stage.asked.noise_multiplier else "no noise at all"
    if stage.signal is None:
        return f"each silo moves the vectors by noise of {stage.noise_of_silo:.2g} an entry in a round"
    of_users = noise / stage.asked.l2_clip_norm
    if stage.asked.stage == COUNTS:
        return (
            f"a count is off by about {of_users:.1f} users who have this item alone "
            f"({of_users / users:.2%} of the {users:,} declared ones)"
        )
    if stage.asked.stage == METRICS:
        return (
            f"a sum is off by what {of_users:.1f} users can add to it ({of_users / users:.2%} of the declared ones)"
        )
    length = noise * math.sqrt(stage.asked.shape[0] * stage.asked.shape[1])
    return (
        f"an entry is off by what {of_users:.1f} users can add to it; over the whole table the noise is "
        f"{length / stage.signal:.2%} of the most that the declared users can add"
    )
