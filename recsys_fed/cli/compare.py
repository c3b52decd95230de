"""`recsys-fed compare`: should we federate? One table of what each silo gets alone, together, and from both."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from recsys_fed.cli.simulate import settings_of
from recsys_fed.config import FederationConfig, SimulationConfig, parse, read_toml
from recsys_fed.errors import ConfigurationError

Epsilons = Annotated[str, typer.Option(help="Budgets, with commas between them.")]
Seeds = Annotated[int, typer.Option(help="Number of seeds, 0 and up; figures are means over them.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, any key of a scenario.")]
Plot = Annotated[Path | None, typer.Option(help="Draw Recall@20 against epsilon into this file.")]


def compare(  # noqa: PLR0913  (one argument a flag)
    scenario: Annotated[str | None, typer.Argument(help="Scenario TOML: a path, or a name.")] = None,
    *,
    data: Annotated[str | None, typer.Option(help="Data set: a name, or a path, perhaps with #split.")] = None,
    silos: Annotated[int | None, typer.Option(help="Number of silos.")] = None,
    noise: Annotated[str | None, typer.Option(help="own, or central: once on the sum.")] = None,
    epsilons: Epsilons = "1,2,4,8",
    seeds: Seeds = 1,
    personal: Annotated[bool, typer.Option(help="Also what silos add by a model of their own.")] = True,
    settings: Set = None,
    plot: Plot = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Compare popularity, each silo alone, the private global model, both, and no privacy; say if joining pays."""
    from recsys_fed.comparison.compare import Comparison, compare  # noqa: PLC0415
    from recsys_fed.comparison.record import comparison_record  # noqa: PLC0415
    from recsys_fed.report.comparison import draw_comparison, print_comparison  # noqa: PLC0415
    from recsys_fed.simulation.apps import scenario_path  # noqa: PLC0415
    from recsys_fed.simulation.runner import Simulation  # noqa: PLC0415

    keys = read_toml(scenario_path(scenario)) if scenario else {}
    flags = {"data": data, "silos": silos, "noise": noise}
    keys |= settings_of(settings or []) | {name: value for name, value in flags.items() if value is not None}
    simulation = Simulation(
        federation=parse(FederationConfig, keys),
        data=parse(SimulationConfig, keys),
        declare_users="declared-users" not in keys,
    )
    comparison = Comparison(
        simulation=simulation, epsilons=_numbers(epsilons), seeds=tuple(range(seeds)), personal=personal
    )
    console = Console(stderr=True)
    record = comparison_record(compare(comparison, say=lambda line: console.print(line, style="dim")))
    if plot is not None:
        draw_comparison(record, plot)
    if as_json:
        sys.stdout.write(json.dumps(record, indent=2) + "\n")
    else:
        print_comparison(record)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError as error:
        raise ConfigurationError(f"Expected --epsilons as numbers with commas between them, got {text!r}.") from error
