"""`recsys-fed compare`: should we federate? One table of what each silo gets alone, together, and from both."""

from pathlib import Path
from typing import Annotated, Any

import typer

from recsys_fed.cli import options
from recsys_fed.cli.simulate import Scenario
from recsys_fed.config import FederationConfig, SimulationConfig, parse, read_toml
from recsys_fed.errors import ConfigurationError
from recsys_fed.report.console import new_console

Epsilons = Annotated[str, typer.Option(help="Budgets, with commas between them.")]
Seeds = Annotated[int, typer.Option(help="Runs of each budget, under seeds one after the other.")]
Plot = Annotated[Path | None, typer.Option(help="Draw Recall@20 against epsilon into this PNG.")]
Output = Annotated[Path | None, typer.Option(help="Folder for the record and all runs; `report` makes a page of it.")]
NewItems = Annotated[
    float, typer.Option(help="Also train without so large a share of the items, and rank them by their features.")
]
DEFAULT_EPSILONS = "1,2,4,8"


@options.run_options(
    "data", "protocol", "columns", "kinds", "format", "item_catalogue", "split", "held_out", "test_fraction", "silos",
    "partition", "skew", "trainer", "delta", "feature_kinds", "target", "order", "recency", "shuffle_order",
    "noise", "secure_aggregation", "declared_users",
    "threads", "seed", seed="Seed of splits and silos, and of the first run.",
)  # fmt: skip
def compare(  # noqa: PLR0913  (one argument a flag)
    scenario: Scenario = None,
    *,
    given: dict[str, Any],
    epsilons: Epsilons = DEFAULT_EPSILONS,
    seeds: Seeds = 1,
    new_items: NewItems = 0.0,
    settings: options.Setting = None,
    output: Output = None,
    plot: Plot = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Should we federate? Popularity, each silo alone, the private global model, both, and no privacy."""
    from recsys_fed.comparison.compare import Comparison, compare  # noqa: PLC0415
    from recsys_fed.comparison.record import comparison_record  # noqa: PLC0415
    from recsys_fed.report.console import told_progress  # noqa: PLC0415
    from recsys_fed.simulation.flower_engine import scenario_path  # noqa: PLC0415
    from recsys_fed.simulation.runner import Simulation  # noqa: PLC0415

    keys = read_toml(scenario_path(scenario)) if scenario else {}
    keys |= options.settings_of(settings or []) | given
    simulation = Simulation(
        federation=parse(FederationConfig, keys),
        data=parse(SimulationConfig, keys),
        engine=str(keys.get("engine", "in-process")),
        declare_users="declared-users" not in keys,
    )
    comparison = Comparison(simulation=simulation, epsilons=_numbers(epsilons), n_seeds=seeds, new_items=new_items)
    with told_progress(new_console(stderr=True)) as progress:
        compared = compare(comparison, output=output, progress=progress)
    _show(comparison_record(compared), output=output, plot=plot, as_json=as_json)


def _show(record: dict[str, Any], *, output: Path | None, plot: Path | None, as_json: bool) -> None:
    from recsys_fed.comparison.record import write_comparison  # noqa: PLC0415
    from recsys_fed.report.comparison import draw_comparison, print_comparison  # noqa: PLC0415

    if output is not None:
        write_comparison(output, record)
    if plot is not None:
        draw_comparison(record, plot)
    if as_json:
        options.emit(record)
    else:
        print_comparison(record)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError as error:
        raise ConfigurationError(f"Expected --epsilons as numbers with commas between them, got {text!r}.") from error
