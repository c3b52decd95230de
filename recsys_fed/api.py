"""The Python API: a data set, a federation of silos over it, and the run that training gives.

    from recsys_fed import Dataset, Federation, Spectral

    federation = Federation(Dataset.from_frame(df, user="customer", item="sku"), silos=5, secure_aggregation=True)
    run = federation.train(Spectral(), epsilon=2, delta=1e-6, seed=0)
    run.metrics["recall@20"]; run.guarantee.epsilon; run.model.recommend(["sku-17"], k=10); run.save("runs/mine")

A federation here is simulated: all silos are in this process. Real ones are deployed with `recsys-fed federation` and
`recsys-fed silo`, which train the same models.
"""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from recsys_fed.certificates.run import VerifiedRun, verify_run
from recsys_fed.comparison.compare import Comparison, compare
from recsys_fed.comparison.record import comparison_record
from recsys_fed.config import FederationConfig, SimulationConfig, check_run_keys, parse, read_toml
from recsys_fed.data.dataset import Dataset
from recsys_fed.data.locate import hold_dataset
from recsys_fed.data.remote import fetch, is_remote, send
from recsys_fed.errors import ConfigurationError, DataNotFoundError
from recsys_fed.evaluation.metrics import Metric, name_metrics
from recsys_fed.federation.run_files import CERTIFICATES, EMBEDDINGS, EVENTS
from recsys_fed.privacy.guarantee import Guarantee, guarantee_of
from recsys_fed.settings_file import Value
from recsys_fed.simulation.recommender import Recommender
from recsys_fed.simulation.record import CONFIG, METRICS
from recsys_fed.simulation.runner import Progress, Simulation, simulate
from recsys_fed.simulation.sweep import Space, Sweep, run_sweep
from recsys_fed.trainers.registry import settings_of
from recsys_fed.trainers.spectral import Spectral
from recsys_fed.trainers.trainer import Trainer


@dataclass(frozen=True)
class Federation:
    """Users of a data set, spread over silos that train together under differential privacy.

    Attributes:
        dataset: a `Dataset`, or what `recsys-fed simulate --data` takes: a name or a path.
        silos: how many.
        secure_aggregation: whether the server learns sums of silos only, with noise once on the sum.
        engine: "in-process"; or "flower", with a process for each silo, which needs the name or path of a data set.
        track: "mlflow" records every finished training there.
        settings: any other key of a run, such as partition="zipf" or split="leave-last-out"; `-` is written `_`.

    Raises:
        ConfigurationError: a key that nothing reads, or a value that is not allowed.
    """

    dataset: Dataset | str | Path
    silos: int = 10
    secure_aggregation: bool = False
    engine: str = "in-process"
    track: str = ""
    settings: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.engine != "in-process" and isinstance(self.dataset, Dataset):
            raise ConfigurationError(
                f"Expected the name or path of a data set for the engine {self.engine}, whose silos are processes of "
                "their own, got one in memory. Write it to a table first."
            )
        self._simulation(Spectral(), {})

    def train(
        self,
        trainer: Trainer | str = "auto",
        *,
        epsilon: float = 8.0,
        delta: float = 1e-6,
        seed: int = 0,
        metrics: Iterable[Metric | str] = (),
        progress: Progress | None = None,
        **settings: Value,
    ) -> "Run":
        """Train one model and measure it on what was held out.

        Args:
            trainer: an object of this library or of your own, or the name of a trainer.
            epsilon, delta: the guarantee of every user, over all that leaves the silos; epsilon inf adds no noise.
            seed: of splits, silos, the start and simulated noise: equal seeds and threads give equal bytes.
            metrics: besides those of every run, objects of your own or names.
            progress: is told how far it is.
            settings: further keys of a run, such as rounds=4.

        Raises:
            ConfigurationError: a setting that nothing reads or that is not allowed.
            DataError: nothing to train on or to test with.
        """
        given: dict[str, Value] = {"epsilon": epsilon, "delta": delta, "seed": seed, **_dash_keys(settings)}
        if named := name_metrics(metrics):
            given["metrics"] = named
        folder = TemporaryDirectory(prefix="recsys-fed-")
        simulate(self._simulation(trainer, given), output=Path(folder.name), progress=progress)
        return Run(folder=Path(folder.name), kept=folder)

    def compare(
        self,
        trainer: Trainer | str = "auto",
        *,
        epsilons: Sequence[float] = (1.0, 2.0, 4.0, 8.0),
        seeds: int = 1,
        progress: Progress | None = None,
        **settings: Value,
    ) -> dict[str, Any]:
        """Should these silos federate? The record of `recsys-fed compare`: each alone, with all, both, no privacy.

        Args:
            trainer: see `train`.
            epsilons: budgets. seeds: runs of each.
            progress: is told how far it is.
            settings: further keys of a run.
        """
        simulation = self._simulation(trainer, _dash_keys(settings))
        compared = compare(
            Comparison(simulation=simulation, epsilons=tuple(epsilons), n_seeds=seeds), progress=progress
        )
        return comparison_record(compared)

    def sweep(  # noqa: PLR0913  (the promise, the search, and where it is kept)
        self,
        space: Space,
        trainer: Trainer | str = "auto",
        *,
        output: str | Path,
        trials: int = 10,
        epsilon: float = 8.0,
        delta: float = 1e-6,
        metric: str = "ndcg@20",
        limit: float = 0.0,
        seed: int = 0,
        progress: Progress | None = None,
        **settings: Value,
    ) -> dict[str, Any]:
        """Search settings with Optuna under one guarantee for all trials: the record of `recsys-fed sweep`.

        Args:
            space: key of a run -> the values to choose from, or a `recsys_fed.simulation.sweep.Range`.
            trainer: see `train`.
            output: folder of all trials, `Run.load(output / "trial-0")` among them.
            trials: how many share the budget. epsilon, delta: the guarantee of all of them together.
            metric: ndcg@20 or recall@20, as the silos report it with noise; it chooses the winner.
            limit: of the ledgers, if it is another than epsilon: the trial that would exceed it ends the sweep.
            seed, progress, settings: see `train`.
        """
        given: dict[str, Value] = {"epsilon": epsilon, "delta": delta, "seed": seed, **_dash_keys(settings)}
        sweep = Sweep(space=space, trials=trials, metric=metric, limit=limit)
        return run_sweep(self._simulation(trainer, given), sweep, output=Path(output), progress=progress)

    def _simulation(self, trainer: Trainer | str, given: Mapping[str, Value]) -> Simulation:
        named = settings_of(trainer) if isinstance(trainer, Trainer) else {"trainer": trainer}
        data = hold_dataset(self.dataset) if isinstance(self.dataset, Dataset) else str(self.dataset)
        keys: dict[str, Value] = {
            "data": data,
            "silos": self.silos,
            "secure-aggregation": "on" if self.secure_aggregation else "off",
            **_dash_keys(self.settings),
            **named,
            **given,
        }
        check_run_keys(keys)
        return Simulation(
            federation=parse(FederationConfig, keys),
            data=parse(SimulationConfig, keys),
            engine=self.engine,
            track=self.track,
            declare_users="declared-users" not in keys,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """What a training left behind, in a folder that is gone with this object unless it was saved.

    Attributes:
        folder: with the model, the catalogue, metrics.json, config.toml, the silos' ledgers and certificates.
        kept: holds the folder of a run that was not saved.
    """

    folder: Path
    kept: "TemporaryDirectory[str] | None" = None

    @classmethod
    def load(cls, folder: str | Path) -> "Run":
        """Open the folder of a run that `save` or `recsys-fed simulate --output` wrote; an address is copied first.

        Raises:
            DataNotFoundError: there is no run.
        """
        if is_remote(folder):
            kept = TemporaryDirectory(prefix="recsys-fed-")
            return replace(cls.load(fetch(str(folder), Path(kept.name))), kept=kept)
        path = Path(folder).expanduser()
        if not (path / METRICS).is_file():
            raise DataNotFoundError(f"There is no run at {path}: it has no {METRICS}.")
        return cls(folder=path)

    @cached_property
    def record(self) -> dict[str, Any]:
        """All of metrics.json."""
        found: dict[str, Any] = json.loads((self.folder / METRICS).read_text(encoding="utf-8"))
        return found

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics on what was held out, by name ("recall@20"), of a simulator that sees all silos: not privatised."""
        return dict(self.record["metrics"])

    @property
    def guarantee(self) -> Guarantee:
        """What was promised to every user."""
        return guarantee_of(parse(FederationConfig, read_toml(self.folder / CONFIG)))

    @property
    def epsilon_spent(self) -> dict[str, float]:
        """What the releases of each silo have cost a user of it, by both accountants."""
        return {silo: float(spent) for silo, spent in self.record["epsilon_spent"].items()}

    @cached_property
    def model(self) -> Recommender:
        """The released model."""
        return Recommender.load(self.folder)

    def verify(self) -> VerifiedRun:
        """Check the certificates that the silos signed against each other, the events and the model of the run."""
        folder = self.folder
        return verify_run(folder / CERTIFICATES, events=folder / EVENTS, model=folder / EMBEDDINGS)

    def save(self, folder: str | Path) -> Path:
        """Copy the run to a folder that is not there yet, or to an address (see `data.remote`).

        Returns the path of the folder; of an address, that of the run's own.

        Raises:
            ConfigurationError: there is something.
        """
        if is_remote(folder):
            send(self.folder, str(folder))
            return self.folder
        path = Path(folder).expanduser()
        if path.exists():
            raise ConfigurationError(f"There is a file or folder at {path} already.")
        shutil.copytree(self.folder, path)
        return path


def _dash_keys(settings: Mapping[str, Value]) -> dict[str, Value]:
    return {name.replace("_", "-"): value for name, value in settings.items()}
