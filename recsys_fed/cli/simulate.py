"""`recsys-fed simulate`: one flag a key of a run; flags come before the scenario, and it before the defaults."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recsys_fed.cli import options
from recsys_fed.config import FederationConfig, SimulationConfig, check_run_keys, parse, read_toml
from recsys_fed.errors import ConfigurationError
from recsys_fed.report.console import new_console
from recsys_fed.settings_file import keys_of, parse_value

if TYPE_CHECKING:
    from recsys_fed.simulation.runner import Simulation

Epsilon = Annotated[float | None, typer.Option(help="Privacy budget of every user; inf trains without noise.")]
Scenario = Annotated[str | None, typer.Argument(help="Scenario TOML: a path, or a name of simulations/scenarios.")]
ItemCatalogue = Annotated[
    str | None, typer.Option(help="Public catalogue (a catalogue.parquet); without one, the items of the data.")
]
Protocol = Annotated[
    str | None, typer.Option(help="ultragcn, random90, ncf, ml-100k: data, split and metric of papers.")
]
Split = Annotated[
    str | None, typer.Option(help="auto, given, per-user-random, leave-last-out, leave-two-out, global-temporal.")
]
Metrics = Annotated[str | None, typer.Option(help="Further metrics, with commas, that a package brings.")]
HeldOut = Annotated[str | None, typer.Option(help="test, or validation: to choose settings without a test item.")]
FeatureKinds = Annotated[str | None, typer.Option(help="Of categories,decades,words,vectors; with commas.")]
Noise = Annotated[str | None, typer.Option(help="per-silo: each silo adds all noise; distributed: once on the sum.")]
TestFraction = Annotated[float | None, typer.Option(help="Share of the test items, where the split has one.")]
SampledNegatives = Annotated[
    int, typer.Option(help="Also rank each test item among so many negatives, as papers do with 99.")
]
Loss = Annotated[str | None, typer.Option(help="dp-sgd: implicit-als, softmax, sampled-softmax, bce, bpr.")]
MaxSilosPerUser = Annotated[
    int | None, typer.Option(help="In how many silos a user may be; every release then counts so many times.")
]
MetricsEpsilon = Annotated[
    float | None, typer.Option(help="Part of epsilon for the metrics that silos report; 0: no metric leaves.")
]
Ledgers = Annotated[str | None, typer.Option(help="Folder of the silos' ledgers; what they hold counts.")]
EpsilonLimit = Annotated[float | None, typer.Option(help="Limit of new ledgers, over all runs that use them.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="KEY=VALUE, any key of a scenario: dp-sgd.local-steps=10.")
]


def simulate(  # noqa: PLR0913  (one argument a flag)
    scenario: Scenario = None,
    *,
    data: Annotated[str | None, typer.Option(help="Data set: a name, or a path, perhaps with #split.")] = None,
    protocol: Protocol = None,
    columns: options.Columns = None,
    kinds: options.Kinds = None,
    format: options.Format = None,
    item_catalogue: ItemCatalogue = None,
    split: Split = None,
    held_out: HeldOut = None,
    silos: Annotated[int | None, typer.Option(help="Number of silos.")] = None,
    test_fraction: TestFraction = None,
    metrics: Metrics = None,
    min_value: Annotated[float | None, typer.Option(help="Keep only interactions of at least this value.")] = None,
    partition: Annotated[str | None, typer.Option(help="equal, zipf (sizes), dirichlet (tastes).")] = None,
    skew: Annotated[float | None, typer.Option(help="Exponent of zipf, concentration of dirichlet.")] = None,
    trainer: Annotated[str | None, typer.Option(help="auto, spectral, dp-sgd or popularity.")] = None,
    schedule: Annotated[str | None, typer.Option(help="dp-sgd: synchronous or local.")] = None,
    loss: Loss = None,
    epsilon: Epsilon = None,
    delta: Annotated[float | None, typer.Option(help="Below 1 / number of users.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Exchanges of messages; 0 takes the trainer's rule.")] = None,
    embedding_dim: Annotated[int | None, typer.Option(help="Length of the vectors; 0 takes the rule.")] = None,
    noise: Noise = None,
    secure_aggregation: options.SecureAggregation = None,
    secure_aggregation_threshold: options.Threshold = None,
    secure_aggregation_colluders: options.Colluders = None,
    metrics_epsilon: MetricsEpsilon = None,
    ledgers: Ledgers = None,
    epsilon_limit: EpsilonLimit = None,
    item_features: Annotated[bool | None, typer.Option(help="Use public item features.")] = None,
    feature_kinds: FeatureKinds = None,
    engine: Annotated[str | None, typer.Option(help="in-process or flower.")] = None,
    sampled_negatives: SampledNegatives = 0,
    evaluate_users: Annotated[int, typer.Option(help="Measure on so many random users; 0: on all.")] = 0,
    parallel_silos: Annotated[int, typer.Option(help="Silos that compute at once (in-process).")] = 1,
    declared_users: Annotated[int | None, typer.Option(help="Public order of magnitude of users.")] = None,
    max_silos_per_user: MaxSilosPerUser = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, ...")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of torch and BLAS; 0: one a processor.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of splits, silos, start and simulated noise.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the model, metrics and events.")] = None,
    settings: Set = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics record as JSON.")] = False,
) -> None:
    """Train and evaluate a private federation of simulated silos."""
    keys = _scenario_keys(scenario) | settings_of(settings or []) | run_keys(locals())
    from recsys_fed.simulation import runner  # noqa: PLC0415

    simulation = runner.Simulation(
        federation=parse(FederationConfig, keys),
        data=parse(SimulationConfig, keys),
        engine=str(keys.get("engine", "in-process")),
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


def settings_of(pairs: Sequence[str]) -> dict[str, object]:
    """Read KEY=VALUE with values as in TOML; what is no TOML is a text.

    Raises:
        ConfigurationError: it is something else, or nothing reads the key.
    """
    keys: dict[str, object] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ConfigurationError(f"Expected --set KEY=VALUE, got {pair!r}.")
        keys[key] = parse_value(text)
    check_run_keys(keys, place="a run (--set)")
    return keys


_DP_SGD = {"schedule": "dp-sgd.schedule", "loss": "dp-sgd.loss"}


def run_keys(arguments: dict[str, Any]) -> dict[str, Any]:
    """The flags that were given, as keys of a run: embedding_dim=16 is embedding-dim = 16."""
    names = {name: name.replace("_", "-") for name in arguments} | _DP_SGD
    known = {*keys_of(FederationConfig), *keys_of(SimulationConfig), *_DP_SGD.values(), "engine"}
    given = {
        names[name]: value
        for name, value in arguments.items()
        if value is not None and names[name] in known and name != "output"
    }
    return options.with_words(given)
