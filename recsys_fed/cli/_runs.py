"""Commands about runs of this machine: simulate, compare, recommend, export, audit, report, app.

Flags come before the scenario, and it before the defaults.
"""

import csv
import math
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recsys_fed.cli import _options
from recsys_fed.config import FederationConfig, SimulationConfig, parse, read_toml
from recsys_fed.errors import ConfigurationError
from recsys_fed.report.console import new_console, show_progress

if TYPE_CHECKING:
    from rich.console import Console

    from recsys_fed.simulation.runner import Simulation
    from recsys_fed.simulation.years import Years

_DP_SGD_SCHEDULE = "dp-sgd.schedule"

Scenario = Annotated[str | None, typer.Argument(help="Scenario TOML: a path, or a name of simulations/scenarios.")]
SampledNegatives = Annotated[
    int, typer.Option(help="Also rank each test item among so many negatives, as papers do with 99.")
]


@_options.run_options(
    "data", "protocol", "columns", "kinds", "format", "item_catalogue", "public_users", "split", "held_out", "silos",
    "test_fraction",
    "metrics", "min_value", "partition", "skew", "trainer", "module", "schedule", "loss", "epsilon", "delta",
    "rounds",
    "embedding_dim", "target", "order", "recency", "long_tail", "shuffle_order", "hit_weight", "ignore_weights",
    "noise", "secure_aggregation", "secure_aggregation_threshold", "secure_aggregation_colluders",
    "user_attributes", "attribute_columns", "user_weights", "metric_groups",
    "metrics_epsilon", "ledgers", "epsilon_limit", "item_features", "feature_kinds", "declared_users",
    "declared_interactions",
    "max_silos_per_user", "device", "threads", "seed",
)  # fmt: skip
def simulate(  # noqa: PLR0913  (one argument a flag)
    scenario: Scenario = None,
    *,
    given: dict[str, Any],
    engine: Annotated[str | None, typer.Option(help="Engine that runs the federation: in-process or flower.")] = None,
    sampled_negatives: SampledNegatives = 0,
    evaluate_users: Annotated[int, typer.Option(help="Measure on so many random users; 0: on all.")] = 0,
    parallel_silos: Annotated[int, typer.Option(help="Silos that compute at once (in-process).")] = 1,
    growth: Annotated[float, typer.Option(help="Share of the data at the first of --schedule trainings.")] = 0.58,
    cold: Annotated[bool, typer.Option("--cold", help="Each of the trainings starts from nothing.")] = False,
    drift: Annotated[int, typer.Option(help="Half of the users change their tastes at this training.")] = 0,
    new_items: Annotated[float, typer.Option(help="Share of the items that come at the third training.")] = 0.0,
    output: Annotated[Path | None, typer.Option(help="Folder for the model, metrics and events.")] = None,
    track: _options.Track = "",
    settings: _options.Setting = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics record as JSON.")] = False,
) -> None:
    """Train and evaluate a private federation of simulated silos."""
    from recsys_fed.simulation import runner  # noqa: PLC0415

    given, trainings = _trainings_of(given)
    if not trainings and (cold or drift or new_items):
        raise ConfigurationError("Expected --schedule N, a number, with --cold, --drift and --new-items.")
    keys = _scenario_keys(scenario) | _options.settings_of(settings or []) | given
    simulation = runner.Simulation(
        federation=parse(FederationConfig, keys),
        data=parse(SimulationConfig, keys),
        engine=engine or str(keys.get("engine", "in-process")),
        parallel_silos=parallel_silos,
        sampled_negatives=sampled_negatives,
        evaluate_users=evaluate_users,
        track=track,
        declare_users="declared-users" not in keys,
    )
    from recsys_fed.report.run import print_simulation  # noqa: PLC0415

    if trainings:
        from recsys_fed.simulation.years import Years  # noqa: PLC0415

        years = Years(trainings=trainings, growth=growth, cold=cold, drift=drift, new_items=new_items)
        record = _run_years(simulation, years, output)
    else:
        record = _run(simulation, output)
    _options.emit(record) if as_json else print_simulation(record, output=output)


def _trainings_of(given: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """The keys that were given without a `--schedule` that is a number, and that number; 0 for none."""
    text = str(given.get(_DP_SGD_SCHEDULE, ""))
    if not text.isdecimal():
        return given, 0
    if not int(text):
        raise ConfigurationError("Expected --schedule as a number of trainings of at least 1, got 0.")
    return {key: value for key, value in given.items() if key != _DP_SGD_SCHEDULE}, int(text)


def _scenario_keys(scenario: str | None) -> dict[str, object]:
    from recsys_fed.simulation.flower_engine import scenario_path  # noqa: PLC0415

    return read_toml(scenario_path(scenario)) if scenario else {}


def _run(simulation: "Simulation", output: Path | None) -> dict[str, Any]:
    from recsys_fed.simulation import runner  # noqa: PLC0415

    with show_progress(_console_of(simulation)) as progress:
        return runner.simulate(simulation, output=output, progress=progress)


def _run_years(simulation: "Simulation", years: "Years", output: Path | None) -> dict[str, Any]:
    from recsys_fed.simulation.years import simulate_years  # noqa: PLC0415

    with ExitStack() as stack:
        folder = output or Path(stack.enter_context(TemporaryDirectory(prefix="recsys-fed-")))
        progress = stack.enter_context(show_progress(_console_of(simulation)))
        return simulate_years(simulation, years, output=folder, progress=progress)


def _console_of(simulation: "Simulation") -> "Console":
    """A terminal that has been told where there is no privacy."""
    from recsys_fed.report.run import NO_PRIVACY  # noqa: PLC0415

    console = new_console(stderr=True)
    if math.isinf(simulation.federation.epsilon):
        console.print(NO_PRIVACY, style="bold red")
    return console


Epsilons = Annotated[str, typer.Option(help="Budgets, with commas between them.")]
Seeds = Annotated[int, typer.Option(help="Runs of each budget, under seeds one after the other.")]
Plot = Annotated[Path | None, typer.Option(help="Draw Recall@20 against epsilon into this PNG.")]
Output = Annotated[Path | None, typer.Option(help="Folder for the record and all runs; `report` makes a page of it.")]
NewItems = Annotated[
    float, typer.Option(help="Also train without so large a share of the items, and rank them by their features.")
]
Contexts = Annotated[
    str, typer.Option(help="Of hour and weekday: also let silos add effects of when something happened.")
]
DEFAULT_EPSILONS = "1,2,4,8"


@_options.run_options(
    "data", "protocol", "columns", "kinds", "format", "item_catalogue", "public_users", "split", "held_out",
    "test_fraction", "silos",
    "partition", "skew", "trainer", "module", "delta", "feature_kinds", "target", "order", "recency", "long_tail",
    "shuffle_order", "hit_weight", "ignore_weights", "user_attributes", "attribute_columns", "user_weights",
    "noise", "secure_aggregation", "declared_users", "declared_interactions",
    "threads", "seed", seed="Seed of splits and silos, and of the first run.",
    user_attributes="Table of users: measure groups of them, and let silos add effects of their attributes.",
)  # fmt: skip
def compare(  # noqa: PLR0913  (one argument a flag)
    scenario: Scenario = None,
    *,
    given: dict[str, Any],
    epsilons: Epsilons = DEFAULT_EPSILONS,
    seeds: Seeds = 1,
    new_items: NewItems = 0.0,
    context: Contexts = "",
    settings: _options.Setting = None,
    output: Output = None,
    plot: Plot = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Should we federate? Popularity, each silo alone, the private global model, both, and no privacy."""
    from recsys_fed.comparison.compare import Comparison, compare  # noqa: PLC0415
    from recsys_fed.comparison.ratings import compare_ratings  # noqa: PLC0415
    from recsys_fed.comparison.record import comparison_record  # noqa: PLC0415
    from recsys_fed.simulation.runner import Simulation  # noqa: PLC0415

    keys = _scenario_keys(scenario) | _options.settings_of(settings or []) | given
    simulation = Simulation(
        federation=parse(FederationConfig, keys),
        data=parse(SimulationConfig, keys),
        engine=str(keys.get("engine", "in-process")),
        declare_users="declared-users" not in keys,
    )
    comparison = Comparison(
        simulation=simulation,
        epsilons=_numbers(epsilons),
        n_seeds=seeds,
        new_items=new_items,
        context=context,
    )
    rating = simulation.federation.target == "rating"
    if rating and (plot is not None or new_items or simulation.data.user_attributes or context):
        raise ConfigurationError(
            "Expected no --plot, --new-items, --user-attributes or --context with target = rating."
        )
    with show_progress(new_console(stderr=True)) as progress:
        if rating:
            record = compare_ratings(comparison, output=output, progress=progress)
        else:
            record = comparison_record(compare(comparison, output=output, progress=progress))
    _show(record, output=output, plot=plot, as_json=as_json)


def _show(record: dict[str, Any], *, output: Path | None, plot: Path | None, as_json: bool) -> None:
    from recsys_fed.comparison.record import write_comparison  # noqa: PLC0415
    from recsys_fed.report.comparison import draw_comparison, print_comparison  # noqa: PLC0415

    if output is not None:
        write_comparison(output, record)
    if plot is not None:
        draw_comparison(record, plot)
    _options.emit(record) if as_json else print_comparison(record)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError as error:
        raise ConfigurationError(f"Expected --epsilons as numbers with commas between them, got {text!r}.") from error


@_options.run_options(
    "data", "protocol", "columns", "kinds", "format", "item_catalogue", "split", "silos", "partition", "skew",
    "trainer", "module", "loss", "epsilon", "delta", "target", "noise", "secure_aggregation", "metrics_epsilon",
    "epsilon_limit", "declared_users", "declared_interactions", "max_silos_per_user", "threads", "seed",
    epsilon="Budget of every user, over all trials together.",
    epsilon_limit="Limit of the ledgers, if it is another: the trial that would exceed it is refused.",
)  # fmt: skip
def sweep(  # noqa: PLR0913  (one argument a flag)
    scenario: Scenario = None,
    *,
    space: Annotated[
        list[str], typer.Option(help="KEY=V1,V2 or KEY=LOW..HIGH[:log], any key of training; or a TOML file of them.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for sweep.json, the ledgers and a run for each trial.")],
    given: dict[str, Any],
    trials: Annotated[int, typer.Option(min=1, help="Trainings that share the budget.")] = 10,
    metric: Annotated[str, typer.Option(help="What chooses: ndcg@20 or recall@20, as silos report it.")] = "ndcg@20",
    track: _options.Track = "",
    settings: _options.Setting = None,
    as_json: _options.AsJson = False,
) -> None:
    """Search settings with Optuna: every trial is charged, noisy metrics choose, and all of it has one guarantee.

    Exit code 1 if a trial was refused because it would have exceeded the limit.
    """
    from recsys_fed.report.run import print_sweep  # noqa: PLC0415
    from recsys_fed.simulation.runner import Simulation  # noqa: PLC0415
    from recsys_fed.simulation.sweep import Sweep, read_space, run_sweep  # noqa: PLC0415

    keys = _scenario_keys(scenario) | _options.settings_of(settings or []) | given
    limit = float(str(keys.pop("epsilon-limit", 0.0)))
    wanted = Sweep(space=read_space(space), trials=trials, metric=metric, limit=limit)
    simulation = Simulation(
        federation=parse(FederationConfig, keys),
        data=parse(SimulationConfig, keys),
        track=track,
        declare_users="declared-users" not in keys,
    )
    with show_progress(_console_of(simulation)) as progress:
        record = run_sweep(simulation, wanted, output=output, progress=progress)
    _options.emit(record) if as_json else print_sweep(record)
    raise typer.Exit(1 if record["refused"] else 0)


def recommend(
    *,
    run: Annotated[str, typer.Option(help="Folder that `simulate --output` wrote, or an address such as s3://...")],
    history: Annotated[
        list[str],
        typer.Option(
            help="Item ids with commas between them, the newest last; one with a comma as in CSV: '\"a,b\",c'."
        ),
    ],
    k: Annotated[int, typer.Option("-k", help="How many items to recommend.")] = 10,
    new_items: Annotated[
        Path | None,
        typer.Option(help="Items to rank, too, by their features: a catalogue, or CSV: item,title,categories,text."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Fold a user in from a history and recommend; nothing leaves this machine."""
    from recsys_fed.report.run import print_recommendations  # noqa: PLC0415
    from recsys_fed.simulation.recommender import recommend_from_run  # noqa: PLC0415

    result = recommend_from_run(run, _ids(history, "--history"), k=k, new_items=new_items)
    _options.emit(result) if as_json else print_recommendations(result)


def export(
    run: Annotated[str, typer.Argument(metavar="DIR", help="Folder of a run, or an address such as s3://...")],
    output: Annotated[Path, typer.Argument(help="A file that ends in .onnx, .faiss or .parquet.")],
) -> None:
    """Write the released model for other software: an ONNX scorer, a faiss index or a Parquet table of items."""
    from recsys_fed.simulation.recommender import Recommender  # noqa: PLC0415

    Recommender.load(run).export(output)
    typer.echo(f"wrote {output}")


def predict(
    items: Annotated[list[str], typer.Argument(help="Ids of the items to predict.")],
    *,
    run: Annotated[str, typer.Option(help="Folder or address of a run of `simulate --target rating`.")],
    user_ratings: Annotated[
        list[str], typer.Option(help="The user's own ratings, ITEM=VALUE with commas between them.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Predict what a user would rate some items, from ratings typed in by hand; nothing leaves this machine."""
    from recsys_fed.report.run import print_predictions  # noqa: PLC0415
    from recsys_fed.simulation.recommender import predict_from_run  # noqa: PLC0415

    result = predict_from_run(run, _ratings(user_ratings), items)
    _options.emit(result) if as_json else print_predictions(result)


def _ratings(texts: list[str]) -> dict[str, float]:
    """Ratings by item id; an id may hold an equals sign."""
    found = {}
    for cell in _ids(texts, "--user-ratings"):
        item, equals, value = cell.rpartition("=")
        try:
            found[item] = float(value)
        except ValueError:
            equals = ""
        if not equals or not item or not math.isfinite(found[item]):
            raise ConfigurationError(f"Expected --user-ratings as ITEM=VALUE with numbers, got {cell!r}.")
    return found


def _ids(texts: list[str], option: str) -> list[str]:
    """Ids of an option that may be repeated, each time a line of CSV."""
    try:
        cells = [cell.strip() for line in csv.reader(texts, skipinitialspace=True, strict=True) for cell in line]
    except csv.Error as error:
        raise ConfigurationError(
            f"Expected {option} as ids with commas between them, got {texts}: {error}. "
            'An id that holds a comma or a quote is written "a,b" or "say ""a""".'
        ) from error
    return [cell for cell in cells if cell]


@_options.run_options(
    "data", "columns", "kinds", "format", "epsilon", "silos", "trainer", "threads", "seed",
    epsilon="Claimed epsilon of every user.", trainer="Trainer to audit: spectral or dp-sgd.",
    seed="Seed of the run.",
)  # fmt: skip
def audit(  # noqa: PLR0913  (one argument a flag)
    scenario: Annotated[str | None, typer.Argument(help="Scenario TOML, as of `simulate`.")] = None,
    *,
    output: Annotated[Path, typer.Option(help="Folder for audit.json and the run with canaries.")],
    given: dict[str, Any],
    secure_aggregation: Annotated[str | None, typer.Option(help="Secure aggregation: auto, on or off.")] = None,
    canaries: Annotated[int, typer.Option(min=10, help="Crafted users; a coin lets half of them in.")] = 1_000,
    audit_seed: Annotated[int, typer.Option(min=0, help="Seed of canaries, coins and the auditor's keys.")] = 0,
    power: Annotated[bool, typer.Option(help="Also audit a null and broken copies of the mechanism.")] = True,
    attacks: Annotated[bool, typer.Option(help="Also attack the model, updates and lists.")] = True,
    settings: _options.Setting = None,
    as_json: _options.AsJson = False,
) -> None:
    """Attack a training pipeline as it is deployed: lower bounds of epsilon, conformance tests, attacks.

    Exit code 1 if something contradicts the claimed epsilon.
    """
    from recsys_fed.audit.audit import AuditSettings  # noqa: PLC0415
    from recsys_fed.audit.audit import audit as audited  # noqa: PLC0415
    from recsys_fed.report.audit import print_audit_of_run  # noqa: PLC0415

    keys = _scenario_keys(scenario) | _options.settings_of(settings or []) | given
    keys |= {} if secure_aggregation is None else {"secure-aggregation": secure_aggregation}
    wanted = AuditSettings(canaries=canaries, seed=audit_seed, power=power, attacks=attacks)
    config, where = parse(FederationConfig, keys), parse(SimulationConfig, keys)
    with show_progress(new_console(stderr=True)) as progress:
        record = audited(config, where, wanted, folder=output, progress=progress)
    _options.emit(record) if as_json else print_audit_of_run(record, output=output)
    raise typer.Exit(1 if record["flagged"] else 0)


def report(
    place: Annotated[
        str,
        typer.Argument(metavar="DIR", help="Folder of a run, of several, of an audit or a federation; or a ledger."),
    ],
    *,
    output: Annotated[Path | None, typer.Option(help="The page; by default report.html in the folder.")] = None,
) -> None:
    """Write one self-contained HTML page: guarantee, budget, quality, audit, certificates, configuration."""
    from recsys_fed.report.report_file import write_report  # noqa: PLC0415

    typer.echo(str(write_report(place, output=output)))


def dossier(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run, an audit, a silo or a federation.")],
    *,
    audit: Annotated[Path | None, typer.Option(help="Folder of an audit, where it is another one.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder to write to; by default dossier in DIR.")] = None,
    docx: Annotated[bool, typer.Option("--docx", help="Also write dossier.docx, to fill in blanks.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print every figure with its source as JSON.")] = False,
) -> None:
    """Write a dossier for a data-protection officer: impact assessment, record of processing, evidence, checklist."""
    from recsys_fed.report.dossier import FOLDER, HTML, write_dossier  # noqa: PLC0415

    record = write_dossier(folder, audit=audit, output=output, docx=docx)
    _options.emit(record) if as_json else typer.echo(str((output or folder / FOLDER) / HTML))


def app(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder; its name is the app's.")],
) -> None:
    """Write a Flower app folder for `flwr run`: two thin apps, for nodes that have recsys-fed installed."""
    from recsys_fed.simulation.flower_engine import write_app  # noqa: PLC0415

    write_app(folder)
    typer.echo(f"wrote {folder}; then: flwr run {folder} NAME --stream")
