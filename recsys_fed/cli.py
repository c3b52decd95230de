"""The command `recsys-fed`. Every command is one call into the library; exit code 2 means bad input."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from recsys_fed.config import FederationConfig, SimulationConfig, known_key, parse, read_toml
from recsys_fed.errors import RecsysFedError

app = typer.Typer(
    help="Federated, differentially private recommendation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_stderr = Console(stderr=True)

Epsilon = Annotated[float | None, typer.Option(help="Privacy budget of every user; inf trains without noise.")]
Scenario = Annotated[str | None, typer.Argument(help="Scenario TOML: a path, or a name of simulations/scenarios.")]
ItemCatalogue = Annotated[
    str | None, typer.Option(help="Public catalogue (a catalogue.parquet); without one, the items of the data.")
]
Split = Annotated[str | None, typer.Option(help="auto, given, per-user-random, leave-last-out, global-temporal.")]
Noise = Annotated[str | None, typer.Option(help="own: each silo adds the whole noise; central: once on the sum.")]
SampledNegatives = Annotated[
    int, typer.Option(help="Also rank each test item among so many negatives, as papers do with 99.")
]
MaxSilosPerUser = Annotated[
    int | None, typer.Option(help="In how many silos a user may be; every release then counts so many times.")
]


@app.callback()
def _root() -> None:
    """Federated, differentially private recommendation."""


@app.command()
def simulate(  # noqa: PLR0913  (one argument a flag)
    scenario: Scenario = None,
    *,
    data: Annotated[str | None, typer.Option(help="Data set: a name, or a path, perhaps with #split.")] = None,
    columns: Annotated[str | None, typer.Option(help="For tables: user=NAME,item=NAME,value=NAME,time=NAME.")] = None,
    item_catalogue: ItemCatalogue = None,
    split: Split = None,
    silos: Annotated[int | None, typer.Option(help="Number of silos.")] = None,
    partition: Annotated[str | None, typer.Option(help="equal, zipf (sizes), dirichlet (tastes).")] = None,
    skew: Annotated[float | None, typer.Option(help="Exponent of zipf, concentration of dirichlet.")] = None,
    trainer: Annotated[str | None, typer.Option(help="spectral or dp-sgd.")] = None,
    schedule: Annotated[str | None, typer.Option(help="dp-sgd: synchronous or local.")] = None,
    epsilon: Epsilon = None,
    delta: Annotated[float | None, typer.Option(help="Below 1 / number of users.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Exchanges of messages; 0 takes the trainer's rule.")] = None,
    embedding_dim: Annotated[int | None, typer.Option(help="Length of the vectors; 0 takes the rule.")] = None,
    noise: Noise = None,
    item_features: Annotated[bool | None, typer.Option(help="Start from public item features.")] = None,
    engine: Annotated[str | None, typer.Option(help="in-process or flower.")] = None,
    sampled_negatives: SampledNegatives = 0,
    parallel_silos: Annotated[int, typer.Option(help="Silos that compute at once (in-process).")] = 1,
    declared_users: Annotated[int | None, typer.Option(help="Public order of magnitude of users.")] = None,
    max_silos_per_user: MaxSilosPerUser = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, ...")] = None,
    threads: Annotated[int | None, typer.Option(help="Of the numerical libraries; 0 takes all processors.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of splits, silos, start and simulated noise.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the model, metrics and events.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics record as JSON.")] = False,
) -> None:
    """Train and evaluate a private federation of simulated silos."""
    flags = _run_keys(locals())
    from recsys_fed.report.terminal import print_simulation, simulation_progress  # noqa: PLC0415
    from recsys_fed.simulation import runner  # noqa: PLC0415
    from recsys_fed.simulation.apps import scenario_path  # noqa: PLC0415

    keys = read_toml(scenario_path(scenario)) if scenario else {}
    keys |= flags
    simulation = runner.Simulation(
        federation=parse(FederationConfig, keys),
        data=parse(SimulationConfig, keys),
        engine=str(keys.get("engine", "in-process")),
        parallel_silos=parallel_silos,
        sampled_negatives=sampled_negatives,
        declare_users="declared-users" not in keys,
    )
    with simulation_progress(_stderr, simulation) as progress:
        record = runner.simulate(simulation, output=output, progress=progress)
    if as_json:
        sys.stdout.write(json.dumps(record, indent=2) + "\n")
    else:
        print_simulation(record, output=output)


@app.command()
def recommend(
    *,
    run: Annotated[Path, typer.Option(help="Folder that `simulate --output` wrote.")],
    history: Annotated[str, typer.Option(help="Item ids, separated by commas.")],
    k: Annotated[int, typer.Option("-k", help="Length of the list.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fold a user in from a history and recommend; nothing leaves this machine."""
    from recsys_fed.report.terminal import print_recommendations  # noqa: PLC0415
    from recsys_fed.simulation.recommend import recommend_from_run  # noqa: PLC0415

    result = recommend_from_run(run, [item.strip() for item in history.split(",") if item.strip()], k=k)
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    else:
        print_recommendations(result)


def _run_keys(arguments: dict[str, Any]) -> dict[str, Any]:
    """The flags that were given, as keys of a run: embedding_dim=16 is embedding-dim = 16."""
    names = {name: name.replace("_", "-") for name in arguments} | {"schedule": "dp-sgd.schedule"}
    return {
        names[name]: value
        for name, value in arguments.items()
        if value is not None and (known_key(names[name]) or name == "engine") and name != "output"
    }


def main() -> None:
    """Run the command; errors of the library are one line on standard error and exit code 2."""
    try:
        app()
    except RecsysFedError as error:
        _stderr.print(f"[bold red]{type(error).__name__}[/]: ", end="")
        _stderr.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
