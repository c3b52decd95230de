"""`recsys-fed simulate`: one flag a key of a run; flags come before the scenario, and it before the defaults."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recsys_fed.cli import options
from recsys_fed.config import FederationConfig, SimulationConfig, parse, read_toml
from recsys_fed.report.console import new_console

if TYPE_CHECKING:
    from recsys_fed.simulation.runner import Simulation

Scenario = Annotated[str | None, typer.Argument(help="Scenario TOML: a path, or a name of simulations/scenarios.")]
SampledNegatives = Annotated[
    int, typer.Option(help="Also rank each test item among so many negatives, as papers do with 99.")
]


@options.run_options(
    "data", "protocol", "columns", "kinds", "format", "item_catalogue", "split", "held_out", "silos", "test_fraction",
    "metrics", "min_value", "partition", "skew", "trainer", "schedule", "loss", "epsilon", "delta", "rounds",
    "embedding_dim", "target", "order", "recency", "shuffle_order",
    "noise", "secure_aggregation", "secure_aggregation_threshold", "secure_aggregation_colluders",
    "metrics_epsilon", "ledgers", "epsilon_limit", "item_features", "feature_kinds", "declared_users",
    "max_silos_per_user", "device", "threads", "seed",
)  # fmt: skip
def simulate(  # noqa: PLR0913  (one argument a flag)
    scenario: Scenario = None,
    *,
    given: dict[str, Any],
    engine: Annotated[str | None, typer.Option(help="in-process or flower.")] = None,
    sampled_negatives: SampledNegatives = 0,
    evaluate_users: Annotated[int, typer.Option(help="Measure on so many random users; 0: on all.")] = 0,
    parallel_silos: Annotated[int, typer.Option(help="Silos that compute at once (in-process).")] = 1,
    output: Annotated[Path | None, typer.Option(help="Folder for the model, metrics and events.")] = None,
    settings: options.Setting = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics record as JSON.")] = False,
) -> None:
    """Train and evaluate a private federation of simulated silos."""
    from recsys_fed.simulation import runner  # noqa: PLC0415

    keys = _scenario_keys(scenario) | options.settings_of(settings or []) | given
    simulation = runner.Simulation(
        federation=parse(FederationConfig, keys),
        data=parse(SimulationConfig, keys),
        engine=engine or str(keys.get("engine", "in-process")),
        parallel_silos=parallel_silos,
        sampled_negatives=sampled_negatives,
        evaluate_users=evaluate_users,
        declare_users="declared-users" not in keys,
    )
    _show(_run(simulation, output), as_json=as_json, output=output)


def _scenario_keys(scenario: str | None) -> dict[str, object]:
    from recsys_fed.simulation.flower_engine import scenario_path  # noqa: PLC0415

    return read_toml(scenario_path(scenario)) if scenario else {}


def _run(simulation: "Simulation", output: Path | None) -> dict[str, Any]:
    from recsys_fed.report.console import told_progress  # noqa: PLC0415
    from recsys_fed.report.run import NO_PRIVACY  # noqa: PLC0415
    from recsys_fed.simulation import runner  # noqa: PLC0415

    console = new_console(stderr=True)
    if math.isinf(simulation.federation.epsilon):
        console.print(NO_PRIVACY, style="bold red")
    with told_progress(console) as progress:
        return runner.simulate(simulation, output=output, progress=progress)


def _show(record: dict[str, Any], *, as_json: bool, output: Path | None) -> None:
    from recsys_fed.report.run import print_simulation  # noqa: PLC0415

    if as_json:
        options.emit(record)
    else:
        print_simulation(record, output=output)
