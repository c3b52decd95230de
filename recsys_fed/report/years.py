"""Trainings that build on one another: their plan for a lifetime, and a page's part about those of a simulation."""

from collections.abc import Mapping
from typing import Any

from recsys_fed import checks
from recsys_fed.certificates.terms import epsilon_to_record
from recsys_fed.config import FederationConfig
from recsys_fed.errors import ConfigurationError
from recsys_fed.evaluation.metrics import HEADLINE_NAMES
from recsys_fed.federation.forecast import ERROR, expected_share
from recsys_fed.federation.planning import PublicCatalogue, planned_events, schedules_of_trainings
from recsys_fed.federation.schedule import Schedule
from recsys_fed.privacy.accounting import epsilon_of_history
from recsys_fed.privacy.guarantee import guarantee_of
from recsys_fed.report._page import Chart, Section, Series, Table, line_chart, number
from recsys_fed.report.console import new_console, print_rows

_A_YEAR = {"weekly": 52, "monthly": 12, "quarterly": 4, "yearly": 1}


def trainings_in(schedule: str, years: float) -> int:
    """How many trainings a schedule such as "monthly" has in so many years.

    Raises:
        ConfigurationError: there is no such schedule, or no time for one training.
    """
    checks.one_of(_A_YEAR, schedule=schedule)
    checks.positive(years=years)
    count = round(_A_YEAR[schedule] * years)
    if not count:
        raise ConfigurationError(f"Expected at least one training in {years:g} years, {schedule} has none.")
    return count


def years_plan(config: FederationConfig, catalogue: PublicCatalogue, *, trainings: int) -> dict[str, Any]:
    """Noise, cost and expected quality of each training, and what is left of the budget buys.

    Args:
        config: with the epsilon of all trainings together.
        catalogue: public.
        trainings: how many.
    """
    schedules = schedules_of_trainings(config, catalogue, trainings=trainings)
    single = schedules_of_trainings(config, catalogue, trainings=1)[0]
    guarantee = guarantee_of(config)
    last = schedules[-1]
    return {
        "trainings": trainings,
        "epsilon": epsilon_to_record(config.epsilon),
        "delta": config.delta,
        "epsilon_of_a_training": epsilon_to_record(last.config.epsilon),
        "expected_error": ERROR,
        "each": [_training(schedule, schedules[: number + 1]) for number, schedule in enumerate(schedules)],
        "cold": expected_share(schedules[0].facts).share,
        "single": {"noise_multiplier": single.noise_multiplier, "expected": expected_share(single.facts).share},
        "guarantee": guarantee.sentence(),
        "rest": [_rest(config, catalogue, schedules, done=done) for done in _stops(trainings)],
    }


def _training(schedule: Schedule, until: list[Schedule]) -> dict[str, Any]:
    config = schedule.config
    return {
        "training": len(until),
        "noise_multiplier": schedule.noise_multiplier,
        "epsilon_in_all": epsilon_to_record(_cost(until)),
        "expected": expected_share(schedule.facts).share,
        "ask_for_epsilon": epsilon_to_record(config.epsilon),
    }


def _cost(schedules: list[Schedule]) -> float:
    events = [event for schedule in schedules for event in planned_events(schedule)]
    config = schedules[0].config
    return epsilon_of_history(guarantee_of(config).over_silos_kinds(events), delta=config.delta)


def _stops(trainings: int) -> list[int]:
    """After how many trainings the rest is looked at: a quarter, a half, three quarters."""
    return sorted({round(trainings * part) for part in (0.25, 0.5, 0.75)} - {0, trainings})


def _rest(
    config: FederationConfig, catalogue: PublicCatalogue, schedules: list[Schedule], *, done: int
) -> dict[str, Any]:
    """After `done` trainings: the rest in one training more, in place of all that were planned.

    Of n equal trainings the rest of m is one with noise smaller by sqrt(m): Gaussian sums compose so.
    """
    left = len(schedules) - done
    schedule = schedules[done]
    signal = schedules[-1].facts
    return {
        "done": done,
        "epsilon_spent": epsilon_to_record(_cost(schedules[:done])),
        "trainings_left": left,
        "noise_multiplier_of_one": schedule.noise_multiplier / left**0.5,
        "expected_of_one": expected_share(signal).share,
        "expected_without": expected_share(schedules[done - 1].facts).share,
    }


def print_years_plan(record: Mapping[str, Any]) -> None:
    """The plan as tables."""
    console = new_console()
    console.print(
        f"[bold]{record['trainings']} trainings, each with --epsilon {record['epsilon_of_a_training']}, within "
        f"epsilon {record['epsilon']} at delta {record['delta']:g} in all[/]",
        highlight=False,
    )
    print_rows(console, _plan_table(record))
    console.print(
        f"expected: the share of its own quality without noise that a training with all before it reaches, by a "
        f"fitted law that was off by up to {record['expected_error']:g}; one training with the whole budget "
        f"{record['single']['expected']:.3f}, each from nothing {record['cold']:.3f}",
        highlight=False,
    )
    for rest in record["rest"]:
        console.print(
            f"after {rest['done']}: epsilon {number(rest['epsilon_spent'])} is spent; the rest buys "
            f"{rest['trainings_left']} more as planned, or one with noise "
            f"{rest['noise_multiplier_of_one']:.3f} "
            f"({rest['expected_without']:.3f} -> {rest['expected_of_one']:.3f})",
            highlight=False,
        )
    console.print(record["guarantee"], highlight=False)


def _plan_table(record: Mapping[str, Any]) -> Table:
    return Table(
        caption="Trainings",
        header=["training", "noise multiplier", "epsilon in all", "expected"],
        rows=[
            [
                str(one["training"]),
                f"{one['noise_multiplier']:.4f}",
                number(one["epsilon_in_all"]),
                f"{one['expected']:.3f}",
            ]
            for one in record["each"]
        ],
        numeric=frozenset({0, 1, 2, 3}),
    )


def trainings_table(record: Mapping[str, Any]) -> Table:
    """A row for each training of a simulated sequence."""
    shown = [name for name in HEADLINE_NAMES if name in record["metrics"]] or sorted(record["metrics"])[:2]
    return Table(
        caption="Trainings, each built on those before it"
        if not record["years"]["cold"]
        else "Trainings from nothing",
        header=["training", "share of the data", "items", "epsilon of it", "epsilon in all", *shown],
        rows=[
            [
                str(one["training"]),
                f"{one['share']:.0%}",
                f"{one['n_items']:,}",
                number(_worst(one["epsilon_spent"])),
                number(_worst(one["epsilon_spent_in_all"])),
                *(number(one["metrics"].get(name), 4) for name in shown),
            ]
            for one in record["trainings"]
        ],
        numeric=frozenset(range(5 + len(shown))),
    )


def trainings_section(record: Mapping[str, Any]) -> Section:
    """Epsilon spent and quality over the trainings, as pictures and as a table."""
    table = trainings_table(record)
    charts = [_spent_chart(record, table), *_quality_chart(record, table)]
    return Section(
        anchor="trainings",
        title="Trainings over the years",
        paragraphs=["One budget for all trainings, one ledger a silo. Metrics are a simulator's, not privatised."],
        charts=charts,
        tables=[table],
    )


def _spent_chart(record: Mapping[str, Any], table: Table) -> Chart:
    spent = [_worst(one["epsilon_spent_in_all"]) for one in record["trainings"]]
    numbers = [float(one["training"]) for one in record["trainings"]]
    limit = record["epsilon"]
    return line_chart(
        "Epsilon spent in all",
        "; ".join(f"after training {n:g}: {number(one)}" for n, one in zip(numbers, spent, strict=True)),
        [Series(name="spent", x=numbers, y=[0.0 if isinstance(one, str) else one for one in spent])],
        x_label="training",
        y_label="epsilon",
        limit=None if isinstance(limit, str) else float(limit),
        figures=table,
    )


def _quality_chart(record: Mapping[str, Any], table: Table) -> list[Chart]:
    names = [name for name in HEADLINE_NAMES if name in record["metrics"]]
    if not names:
        return []
    numbers = [float(one["training"]) for one in record["trainings"]]
    series = [Series(name=name, x=numbers, y=[one["metrics"][name] for one in record["trainings"]]) for name in names]
    said = "; ".join(f"{one.name}: " + ", ".join(f"{y:.3f}" for y in one.y) for one in series)
    return [line_chart("Quality by training", said, series, x_label="training", y_label="metric", figures=table)]


def _worst(spent: Mapping[str, float | str]) -> float | str:
    """The silo that has spent most."""
    return "inf" if "inf" in spent.values() else max(float(value) for value in spent.values())
