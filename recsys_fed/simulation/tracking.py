"""A finished run in the records of an experiment tracker: settings, metrics, guarantee, certificates.

MLflow finds its server, experiment and credentials by its own environment variables (MLFLOW_TRACKING_URI,
MLFLOW_EXPERIMENT_NAME, ...). Of a simulation it gets what a simulator knows, which is not privatised and says so; of
a deployed training what its server holds, all of which was released.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from recsys_fed import checks
from recsys_fed.config import FederationConfig, parse
from recsys_fed.errors import EngineError
from recsys_fed.federation.run_files import CERTIFICATES, EMBEDDINGS, EVENTS, FEDERATION
from recsys_fed.privacy.guarantee import Guarantee, guarantee_of
from recsys_fed.settings_file import flatten, read_tables
from recsys_fed.signing import sha256
from recsys_fed.simulation.record import CONFIG, METRICS, spent_by_silo
from recsys_fed.versions import import_extra, versions

TRACKERS = ("mlflow",)
# Keys that say where things lie on this machine.
_PLACES = {"output", "catalogue", "roster", "earlier", "ledgers", "resume", "training"}
_ARTIFACTS = (METRICS, CONFIG, FEDERATION, EVENTS, EMBEDDINGS, "catalogue.parquet")


def check_tracker(name: str) -> None:
    """Look before a training begins whether its end can be recorded; "" records nothing.

    Raises:
        ConfigurationError: there is no such tracker. MissingExtraError: its library is not installed.
    """
    checks.one_of(("", *TRACKERS), track=name)
    if name:
        _mlflow()


def track_run(folder: Path, *, config: str = CONFIG) -> str:
    """Record a finished run with MLflow and return the id that it has there.

    Args:
        folder: with what the server wrote, and metrics.json where it was a simulation.
        config: name of the file with its settings.

    Raises:
        EngineError: the tracking server did not take it. The run in the folder is complete.
    """
    mlflow = _mlflow()
    keys = flatten(read_tables(folder / config, what="a run"))
    totals = json.loads((folder / FEDERATION).read_text(encoding="utf-8"))
    measured = json.loads((folder / METRICS).read_text(encoding="utf-8")) if (folder / METRICS).is_file() else {}
    guarantee = guarantee_of(parse(FederationConfig, {key: keys[key] for key in keys if key != "engine"}))
    try:
        # A folder that is renamed when all is there is called .NAME.part until then.
        name = folder.name.removeprefix(".").removesuffix(".part")
        with mlflow.start_run(run_name=name, nested=mlflow.active_run() is not None) as run:
            mlflow.log_params({key: value for key, value in keys.items() if key not in _PLACES})
            mlflow.set_tags(_tags(folder, measured, guarantee))
            for name, value in _metrics(measured, totals):
                mlflow.log_metric(_named(name), value)
            for step, values in _by_round((folder / EVENTS).read_text(encoding="utf-8"), guarantee):
                mlflow.log_metrics(values, step=step)
            for name in _ARTIFACTS:
                if (folder / name).is_file():
                    mlflow.log_artifact(str(folder / name))
            if (folder / CERTIFICATES).is_dir():
                mlflow.log_artifacts(str(folder / CERTIFICATES), CERTIFICATES)
            mlflow.log_text(guarantee.sentence() + "\n", "guarantee.txt")
    except (mlflow.exceptions.MlflowException, OSError) as error:
        raise EngineError(f"The run in {folder} is complete, but MLflow did not take it: {error}.") from error
    return str(run.info.run_id)


def _mlflow() -> ModuleType:
    # Like everything that is started here it reports to nobody.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    return import_extra("mlflow")


def _tags(folder: Path, measured: Mapping[str, Any], guarantee: Guarantee) -> dict[str, str]:
    """What is said of the whole run; the hash is the one that certificates name."""
    tags = {f"recsys_fed.version.{name}": version for name, version in versions().items()}
    tags |= {"recsys_fed.guarantee": guarantee.sentence(), "recsys_fed.note": measured.get("note", "")}
    return tags | {"recsys_fed.model_sha256": sha256((folder / EMBEDDINGS).read_bytes())}


def _metrics(measured: Mapping[str, Any], totals: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Figures of the end: exact ones of a simulator, and those that silos reported, each with its noise."""
    yield from measured.get("metrics", {}).items()
    for name, seconds in measured.get("seconds", {}).items():
        yield f"seconds/{name}", seconds
    for name, reported in totals.get("private_metrics", {}).items():
        for part, value in reported.items():
            yield f"reported/{name}/{part}", value
    for name in ("noise_multiplier", "bytes_up", "bytes_down"):
        yield name, totals[name]
    yield "refused", len(totals["refused"])


def _by_round(events: str, guarantee: Guarantee) -> Iterator[tuple[int, dict[str, float]]]:
    """After each round: silos that released, and the epsilon of the user who has spent most by then."""
    lines = [(json.loads(line)["round"], line) for line in events.splitlines()]
    for step in sorted({number for number, _ in lines}):
        spent = spent_by_silo("\n".join(line for number, line in lines if number <= step), guarantee)
        answered = sum(number == step for number, _ in lines)
        yield step + 1, {"epsilon_spent": max(spent.values()), "silos": answered}


def _named(metric: str) -> str:
    """A name that MLflow allows.

    >>> _named("recall@20")
    'recall_at_20'
    """
    return metric.replace("@", "_at_")
