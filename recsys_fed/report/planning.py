"""A planned run, and what is left of a budget after a schedule of them: JSON values, tables, and a picture."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console

from recsys_fed.certificates.terms import epsilon_to_record
from recsys_fed.config import FederationConfig
from recsys_fed.errors import ConfigurationError
from recsys_fed.federation.messages import Request
from recsys_fed.federation.metrics_round import STAGE as METRICS
from recsys_fed.federation.noise_split import masking_of, modulus_of, share_of_silo
from recsys_fed.federation.planning import PlannedStage, planned_events, stages_of
from recsys_fed.federation.schedule import Schedule
from recsys_fed.ledger.budget import (
    MOST_RUNS,
    account_spending,
    budget_after_runs,
    runs_that_fit,
    would_exceed,
    would_spend,
)
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.privacy.accounting.composition import repeat
from recsys_fed.privacy.events import PrivacyEvent
from recsys_fed.privacy.guarantee import Guarantee, guarantee_of
from recsys_fed.report._page import new_picture, write_picture
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
        record["all_runs"] = account_spending(repeat(events, runs), guarantee).to_dict()
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
    table = new_table("stage", "rounds", "table", "noise multiplier", "noise on the sum: per-silo", "distributed")
    for stage in record["stages"]:
        once = stage["noise_on_sum_if_distributed"]
        sampled = "" if stage["sampling_probability"] == 1 else f", q {stage['sampling_probability']:g}"
        steps = "" if stage["steps"] == 1 else f" x {stage['steps']} steps"
        table.add_row(
            stage["stage"],
            str(stage["rounds"]),
            f"{stage['rows']:,} x {stage['columns']}",
            f"{stage['noise_multiplier']:.4f}{steps}{sampled}",
            f"{stage['noise_on_sum_if_per_silo']:.4g}",
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
    spent, planned = ledger.spending(), repeat(events, runs)
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
        "noise_on_sum_if_per_silo": stage.noise_if_per_silo,
        "noise_on_sum_if_distributed": stage.noise_if_distributed,
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


# Limit of a forecast without a ledger.
DEFAULT_LIMIT = 8.0
_BAR = 24
_DAYS = {"day": 1, "days": 1, "week": 7, "weeks": 7}


@dataclass(frozen=True, kw_only=True)
class Calendar:
    """When runs take place: the first one, and the time between two; without that they have no dates."""

    first: date
    every: timedelta | None

    def day(self, run: int) -> str | None:
        """The date of a run, from 1."""
        return None if self.every is None else (self.first + (run - 1) * self.every).isoformat()


def period_of(text: str | None) -> timedelta | None:
    """Read "30 days" or "2 weeks".

    Raises:
        ConfigurationError: it is something else.
    """
    if text is None:
        return None
    number, _, unit = text.strip().partition(" ")
    if not number.isdecimal() or not int(number) or unit.strip() not in _DAYS:
        raise ConfigurationError(f'Expected a time such as "30 days" or "2 weeks", got {text!r}.')
    return timedelta(days=int(number) * _DAYS[unit.strip()])


def day_of(text: str | None) -> date:
    """Read a date such as 2026-01-31, by default today.

    Raises:
        ConfigurationError: it is something else.
    """
    try:
        return date.fromisoformat(text) if text else datetime.now(UTC).date()
    except ValueError as error:
        raise ConfigurationError(f"Expected a date such as 2026-01-31, got {text!r}.") from error


def budget_record(
    schedule: Schedule, *, ledger: Ledger | None, limit: float | None, runs: int | None, calendar: Calendar
) -> dict[str, Any]:
    """Return the budget after each run of a schedule, starting from what a ledger has spent or from nothing."""
    before = ledger.spending() if ledger is not None else account_spending([], _promise_of(schedule))
    promise = before.guarantee if limit is None else replace(before.guarantee, epsilon=limit)
    if math.isinf(promise.epsilon) and runs is None:
        raise ConfigurationError("Expected --runs or --until: without a limit the runs never end.")
    after = list(budget_after_runs(before.kinds, planned_events(schedule), promise, runs=runs))
    return {
        "ledger": ledger.place if ledger is not None else None,
        "epsilon_of_a_run": epsilon_to_record(schedule.config.epsilon),
        "noise_multiplier": schedule.noise_multiplier,
        "delta": promise.delta,
        "max_silos_per_user": promise.max_silos_per_user,
        "epsilon_limit": epsilon_to_record(promise.epsilon),
        "epsilon_spent": epsilon_to_record(before.epsilon),
        "runs_that_fit": sum(step.fits for step in after),
        "runs": [
            {
                "run": step.run,
                "date": calendar.day(step.run),
                "epsilon": epsilon_to_record(step.epsilon),
                "left": epsilon_to_record(step.left),
                "fits": step.fits,
            }
            for step in after
        ],
    }


def print_budget(record: Mapping[str, Any]) -> None:
    """A row a run, with a bar of what is left."""
    console = new_console()
    console.print(
        f"[bold]each run costs epsilon {_figure(record['epsilon_of_a_run'])} alone, at delta {record['delta']:g}; "
        f"{_figure(record['epsilon_spent'])} of {_figure(record['epsilon_limit'])} is spent already[/]",
        highlight=False,
    )
    dated = any(step["date"] for step in record["runs"])
    table = new_table("run", *(["date"] if dated else []), "epsilon in all", "left", "")
    limit = record["epsilon_limit"]
    for step in record["runs"]:
        day = [step["date"]] if dated else []
        if step["fits"]:
            table.add_row(
                str(step["run"]),
                *day,
                _figure(step["epsilon"]),
                _figure(step["left"]),
                _bar(step, limit),
            )
        else:
            table.add_row(str(step["run"]), *day, f"[red]{_figure(step['epsilon'])}[/]", "-", "[red]refused[/]")
    print_table(console, table)
    console.print(f"runs that fit: {record['runs_that_fit']}", highlight=False)


def _promise_of(schedule: Schedule) -> Guarantee:
    return replace(guarantee_of(schedule.config), epsilon=DEFAULT_LIMIT)


def _bar(step: Mapping[str, Any], limit: float | str) -> str:
    if isinstance(limit, str) or isinstance(step["left"], str):
        return ""
    full = round(_BAR * float(step["left"]) / limit)
    return "█" * full + "░" * (_BAR - full)


def _figure(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3f}"


_USED, _REFUSED, _LIMIT = "#2a6f97", "#c1121f", "#444444"


def draw_budget(record: Mapping[str, Any], path: Path) -> None:
    """Draw the record of a budget over runs: epsilon after each, the limit, and the runs that are refused.

    Raises:
        ConfigurationError: matplotlib is not installed, or the picture cannot be written.
    """
    figure = new_picture(7.0, 4.0)
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    axes = figure.subplots()
    steps = [step for step in record["runs"] if not isinstance(step["epsilon"], str)]
    runs = [0, *(step["run"] for step in steps)]
    fitting = [(0, record["epsilon_spent"]), *((step["run"], step["epsilon"]) for step in steps if step["fits"])]
    axes.plot(
        *zip(*fitting, strict=True),
        color=_USED,
        linewidth=1.5,
        marker="o",
        markersize=4,
        label="spent in all",
        zorder=2,
    )
    refused = [(step["run"], step["epsilon"]) for step in steps if not step["fits"]]
    if refused:
        axes.scatter(
            [run for run, _ in refused],
            [epsilon for _, epsilon in refused],
            color=_REFUSED,
            marker="x",
            label="refused",
            zorder=3,
        )
    if not isinstance(record["epsilon_limit"], str):
        axes.axhline(record["epsilon_limit"], color=_LIMIT, linestyle="--", linewidth=1.2, label="limit")
    dates = [step["date"] for step in steps]
    if all(dates) and dates:
        every = max(1, len(runs) // 8)
        axes.set_xticks(runs[1::every], dates[::every], rotation=30, ha="right")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("retrainings")
    axes.set_ylabel(f"epsilon at delta {record['delta']:g}")
    axes.set_ylim(bottom=0)
    axes.set_title(f"Each retraining alone costs epsilon {record['epsilon_of_a_run']:.4g}", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    write_picture(figure, path)
