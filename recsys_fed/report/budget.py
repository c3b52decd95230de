"""What is left of a budget after a schedule of retrainings: JSON values, a table with bars, and data for a plot."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

from recsys_fed.certificates.terms import epsilon_to_record
from recsys_fed.errors import ConfigurationError
from recsys_fed.federation.planning import planned_events
from recsys_fed.federation.schedule import Schedule
from recsys_fed.ledger.budget import account_spending, budget_after_runs
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.privacy.guarantee import Guarantee, guarantee_of
from recsys_fed.report.console import new_console, new_table, print_table

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
    before = ledger.spending() if ledger is not None else account_spending([], _promise(schedule))
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
        f"[bold]each run costs epsilon {_number(record['epsilon_of_a_run'])} alone, at delta {record['delta']:g}; "
        f"{_number(record['epsilon_spent'])} of {_number(record['epsilon_limit'])} is spent already[/]",
        highlight=False,
    )
    dated = any(step["date"] for step in record["runs"])
    table = new_table("run", *(["date"] if dated else []), "epsilon in all", "left", "")
    limit = record["epsilon_limit"]
    for step in record["runs"]:
        day = [step["date"]] if dated else []
        if step["fits"]:
            table.add_row(str(step["run"]), *day, _number(step["epsilon"]), _number(step["left"]), _bar(step, limit))
        else:
            table.add_row(str(step["run"]), *day, f"[red]{_number(step['epsilon'])}[/]", "-", "[red]refused[/]")
    print_table(console, table)
    console.print(f"runs that fit: {record['runs_that_fit']}", highlight=False)


def _promise(schedule: Schedule) -> Guarantee:
    return replace(guarantee_of(schedule.config), epsilon=DEFAULT_LIMIT)


def _bar(step: Mapping[str, Any], limit: float | str) -> str:
    if isinstance(limit, str) or isinstance(step["left"], str):
        return ""
    full = round(_BAR * float(step["left"]) / limit)
    return "█" * full + "░" * (_BAR - full)


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3f}"
