"""`recsys-fed silo api` and what belongs to it: tokens, the log of events, experiments."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from recsys_fed.cli._options import AsJson, emit, key_of
from recsys_fed.errors import ConfigurationError, DataError

StateFolder = Annotated[Path, typer.Option("--state", help="Folder of what the service keeps.")]
StoreUrl = Annotated[
    str, typer.Option("--store", help="postgresql://user@host/name; without it, SQLite in the folder.")
]
SettingsFile = Annotated[Path | None, typer.Option("--settings", help="serving.toml; without it, the defaults.")]
DEFAULT_STATE = Path("serving")
_BUDGET_SECONDS = 300.0
_TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "replace"}  # whatever the locale of a child's output

tokens = typer.Typer(help="Bearer tokens of the service.", no_args_is_help=True)
experiment = typer.Typer(help="Experiments that the service runs.", no_args_is_help=True)


def register(silo: typer.Typer) -> None:
    """Add these commands to `recsys-fed silo`."""
    silo.command("api")(api)
    silo.command("feedback-export")(_feedback_export)
    silo.command("quarantine")(quarantine)
    silo.add_typer(tokens, name="token")
    silo.add_typer(experiment, name="experiment")


def api(  # noqa: PLR0913  (one argument a flag)
    *,
    model: Annotated[Path | None, typer.Option(help="Folder of a run, or its item_embeddings.safetensors.")] = None,
    catalogue: Annotated[
        Path | None, typer.Option(help="Public catalogue; that beside the model without it.")
    ] = None,
    silo: Annotated[
        Path | None, typer.Option(help="Folder of a silo (silo.toml): its newest model, its catalogue and ledger.")
    ] = None,
    interactions: Annotated[Path | None, typer.Option(help="The silo's own: any format that training reads.")] = None,
    residual: Annotated[Path | None, typer.Option(help="Item-item weights (.npy) for silo-trusted serving.")] = None,
    state: StateFolder = DEFAULT_STATE,
    store: StoreUrl = "",
    settings: SettingsFile = None,
    ledger: Annotated[
        str | None, typer.Option(help="The silo's ledger: its budget is on the operators' page.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Loopback unless TLS files are set.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of BLAS.")] = 1,
) -> None:
    """Serve recommendations. The first start needs --model; tokens come from `recsys-fed silo token create`."""
    # Read by the numerical library when it is first imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(threads))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    from dataclasses import replace  # noqa: PLC0415

    from recsys_fed.serving.paths import ServicePaths  # noqa: PLC0415
    from recsys_fed.serving.server import serve  # noqa: PLC0415
    from recsys_fed.serving.settings import read_serving_settings  # noqa: PLC0415

    read = read_serving_settings(settings)
    where = replace(
        read.api, host=read.api.host if host is None else host, port=read.api.port if port is None else port
    )
    place = ServicePaths(folder=state, store=store)
    place.key()
    if silo is not None:
        model, catalogue, ledger, residual, level = _of_silo(silo, residual)
        where = replace(where, personalisation=level or where.personalisation)
    read = replace(read, api=where)
    source = _source(model, catalogue, residual)
    if source is not None:
        _pack(source, state)
    if interactions is not None:
        _import(interactions, place)
    code = serve(
        read, place, source=source, budget=_budget_of(ledger),
        ready=lambda address: typer.echo(f"serving on {address}"),
    )  # fmt: skip
    raise typer.Exit(code)


@tokens.command("create")
def create_token(
    name: Annotated[str, typer.Argument(help="Name of the token and of who holds it.")],
    *,
    scopes: Annotated[str, typer.Option(help="Of recommend, feedback, admin; separated by commas.")],
    state: StateFolder = DEFAULT_STATE,
) -> None:
    """Make a token and print it: it cannot be shown again."""
    from recsys_fed.serving.paths import TokenFile  # noqa: PLC0415

    wanted = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    typer.echo(TokenFile(state / "tokens.json").create(name, wanted))


@tokens.command("revoke")
def revoke_token(
    name: Annotated[str, typer.Argument(help="Name of the token and of who holds it.")],
    *,
    state: StateFolder = DEFAULT_STATE,
) -> None:
    """Remove a token; a running service refuses it within a second."""
    from recsys_fed.serving.paths import TokenFile  # noqa: PLC0415

    TokenFile(state / "tokens.json").revoke(name)


@tokens.command("list")
def list_tokens(*, state: StateFolder = DEFAULT_STATE) -> None:
    """Names and scopes of all tokens."""
    from recsys_fed.serving.paths import TokenFile  # noqa: PLC0415

    for token in TokenFile(state / "tokens.json").tokens():
        typer.echo(f"{token.name}: {', '.join(token.scopes)}")


def _feedback_export(
    output: Annotated[Path, typer.Argument(help="A .csv or .parquet file that training reads.")],
    *,
    state: StateFolder = DEFAULT_STATE,
    store: StoreUrl = "",
) -> None:
    """Write what the next training reads: interactions and accepted feedback on known items, validated; mode 0600."""
    from recsys_fed.serving.importing import export_training  # noqa: PLC0415
    from recsys_fed.serving.versions import items_in_use  # noqa: PLC0415

    typer.echo(f"{export_training(_store(state, store), output, items=items_in_use(state))} interactions")


def quarantine(*, state: StateFolder = DEFAULT_STATE, store: StoreUrl = "", as_json: AsJson = False) -> None:
    """Users whose events were put aside as a robot's, and how many events."""
    found = _store(state, store).quarantined()
    if as_json:
        emit([{"user": user, "events": count} for user, count in found])
        return
    for user, count in found:
        typer.echo(f"{user}: {count} events")


@experiment.command("report")
def report(
    *,
    settings: Annotated[Path, typer.Option("--settings", help="serving.toml with the [experiment].")],
    state: StateFolder = DEFAULT_STATE,
    store: StoreUrl = "",
    plot: Annotated[Path | None, typer.Option(help="Also draw it: a PNG (needs recsys-fed[plots]).")] = None,
    noise: Annotated[
        float | None, typer.Option(help="Only counts, with noise of so many sensitivities; --ledger pays for it.")
    ] = None,
    ledger: Annotated[
        str | None, typer.Option(help="A ledger of the service's own (recsys-fed privacy create).")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Key file of that ledger.")] = None,
    as_json: AsJson = False,
) -> None:
    """Which variant is better, so far: valid at every look, however often one looks.

    Exact reports are for those who may see the log: two of them, before and after one user, tell that user's outcome.
    """
    from recsys_fed.report.deployment import draw_experiment, print_experiment  # noqa: PLC0415
    from recsys_fed.serving.experiment import experiment_report  # noqa: PLC0415
    from recsys_fed.serving.settings import read_serving_settings  # noqa: PLC0415

    wanted = read_serving_settings(settings).experiment
    if noise is not None:
        emit(_noisy_report(_store(state, store), wanted, noise=noise, ledger=ledger, key=key))
        return
    record = experiment_report(_store(state, store), wanted)
    if plot is not None:
        draw_experiment(record, plot)
    emit(record) if as_json else print_experiment(record)


def _noisy_report(store: Any, experiment: Any, *, noise: float, ledger: str | None, key: Path | None) -> Any:
    from recsys_fed.deployment.noisy_report import noisy_report  # noqa: PLC0415
    from recsys_fed.ledger.ledger import Ledger  # noqa: PLC0415

    if ledger is None or key is None:
        raise ConfigurationError("Expected --ledger and --key with --noise: what is released has to be charged.")
    opened = Ledger.open(ledger, key=key_of(key))
    return noisy_report(store, experiment, ledger=opened, noise_multiplier=noise)


def _store(state: Path, store: str) -> Any:
    from recsys_fed.serving.paths import ServicePaths  # noqa: PLC0415
    from recsys_fed.serving.store import open_store  # noqa: PLC0415

    place = ServicePaths(folder=state, store=store)
    if not store and not Path(place.address).is_file():
        raise ConfigurationError(f"There is no log of events in {state}. Start the service once.")
    return open_store(place)


def _source(model: Path | None, catalogue: Path | None, residual: Path | None) -> Any:
    from recsys_fed.serving.reload import CATALOGUE_FILE, MODEL_FILE, ModelSource  # noqa: PLC0415

    if model is None:
        return None
    place = model / MODEL_FILE if (model / MODEL_FILE).is_file() else model
    return ModelSource(place=place, catalogue=catalogue or place.parent / CATALOGUE_FILE, weights=residual)


def _of_silo(folder: Path, residual: Path | None) -> tuple[Path, Path, str, Path | None, str]:
    """State folder, catalogue, ledger, residual and level of personalisation of a silo that takes part in training.

    Under "silo-trusted" there is one residual a model, in the state folder. The level is "" where silo.toml leaves it
    to serving.toml and --residual.
    """
    from recsys_fed.serving.reload import ModelSource  # noqa: PLC0415
    from recsys_fed.silo.settings import read_silo_settings  # noqa: PLC0415

    settings = read_silo_settings(folder)
    state, level = Path(settings.state), ""
    if settings.personalisation == "silo-trusted" and residual is None:
        residual, level = state, settings.personalisation
        wanted = ModelSource(place=state, catalogue=state, weights=state).residual
        if wanted is None or not wanted.is_file():
            raise ConfigurationError(
                f"Cannot find the silo's own model of its newest training at {wanted}. "
                f"Run recsys-fed silo residual {folder}."
            )
    return state, Path(settings.catalogue), settings.ledger, residual, level


def _pack(source: Any, state: Path) -> None:
    """Pack the model if it is not there yet, and use it unless another one was chosen since."""
    from recsys_fed.serving.versions import adopt, packed_version  # noqa: PLC0415

    version = packed_version(source.model, source.residual, state, effects=source.effects)
    new = version is None
    if version is None:
        arguments = [str(source.model), str(source.catalogue), str(state), *source.files]
        version = _apart("recsys_fed.serving.packing", arguments)
    adopt(state, version, new=new)


def _import(path: Path, place: Any) -> None:
    """Import the interactions if the file is not the one that is there already."""
    from recsys_fed.serving.store import open_store  # noqa: PLC0415
    from recsys_fed.serving.versions import fingerprint_of  # noqa: PLC0415

    store = open_store(place)
    known = store.imported_from()
    store.close()
    if not path.exists():
        raise ConfigurationError(f"There is nothing at {path}.")
    if known != fingerprint_of(path):
        arguments = [str(path), str(place.folder), *(["--store", place.store] if place.store else [])]
        typer.echo(f"imported {_apart('recsys_fed.serving.importing', arguments)} interactions")


def _apart(module: str, arguments: list[str]) -> str:
    """Run a module that needs seconds of imports in a process of its own."""
    command = [sys.executable, "-m", module, *arguments]
    done: subprocess.CompletedProcess[str] = subprocess.run(command, capture_output=True, **_TEXT, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise DataError(lines[-1])
    return done.stdout.strip()


def _budget_of(ledger: str | None) -> Any:
    """What the ledger says is left, asked at most every few minutes.

    It is read in a process of its own: accountants take seconds to import.
    """
    if ledger is None:
        return dict
    known: dict[str, Any] = {"until": 0.0, "record": {}}
    code = "from recsys_fed.cli import main; main()"

    def read() -> dict[str, Any]:
        if time.monotonic() >= known["until"]:
            command = [sys.executable, "-c", code, "privacy", "status", ledger, "--json"]
            done = subprocess.run(command, capture_output=True, **_TEXT, check=False, timeout=120)
            found = json.loads(done.stdout)["spending"][0] if done.returncode == 0 else {}
            known.update(until=time.monotonic() + _BUDGET_SECONDS, record=found)
        record: dict[str, Any] = known["record"]
        return record

    return read
