"""Run a simulated federation from data to metrics: load, train on an engine, evaluate, keep the files."""

import json
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recsys_fed import checks
from recsys_fed.config import AUTO, ENGINES, FederationConfig, SimulationConfig, flat
from recsys_fed.data.protocols import apply_protocol, protocol_of
from recsys_fed.data.readers.users import Attributes, groups_rule, weights_rule
from recsys_fed.data.simulated import (
    SimulatedFederation,
    simulated_attributes,
    simulated_federation,
    simulated_user_numbers,
)
from recsys_fed.data.sources import GROUP as SOURCES
from recsys_fed.data.split import BY_TIME, NONE
from recsys_fed.errors import ConfigurationError, DataError
from recsys_fed.evaluation.baselines import popularity
from recsys_fed.evaluation.groups import metrics_by_group
from recsys_fed.evaluation.metrics import AUC, ERRORS, HEADLINE_CUTOFF, METRICS, Metric, choose_metrics
from recsys_fed.evaluation.protocol import Scorer, evaluate_ranking
from recsys_fed.evaluation.rating_errors import rating_errors, user_means
from recsys_fed.evaluation.sampled import SampledTrials, draw_negatives, evaluate_sampled
from recsys_fed.extensions import extension_names
from recsys_fed.federation.inprocess import run_in_process
from recsys_fed.federation.noise_split import resolve_masking
from recsys_fed.federation.run_files import EMBEDDINGS, EVENTS, FEDERATION
from recsys_fed.models.device import resolve_device, return_large_arrays, use_threads
from recsys_fed.models.items import ItemEmbeddings, load_item_embeddings, predicted_ratings, scores, user_vectors
from recsys_fed.privacy.guarantee import check_delta
from recsys_fed.settings_file import Value
from recsys_fed.simulation.flower_engine import app_folder, load_apps, run_with_flower
from recsys_fed.simulation.record import METRICS as METRICS_FILE
from recsys_fed.simulation.record import Measured, metrics_record, protocol_record, write_run
from recsys_fed.simulation.tracking import check_tracker, track_run
from recsys_fed.trainers.registry import signals_read


def _nothing(*_: object) -> None:
    """Heed nothing."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a caller wants to hear while a simulation, a comparison or an audit runs.

    Attributes:
        step: called with the number of a step, of how many, and its name, as it begins.
        releases: called with the releases of silos so far, of how many planned, and the number of silos.
        say: called with a line for people.
    """

    step: Callable[[int, int, str], None] = _nothing
    releases: Callable[[int, int, int], None] = _nothing
    say: Callable[[str], None] = _nothing


class Steps:
    """Numbers steps as they begin."""

    def __init__(self, planned: int, progress: Progress) -> None:
        self._planned, self._progress = planned, progress
        self._begun = 0

    def begin(self, name: str) -> None:
        """Announce the next step."""
        self._begun += 1
        self._progress.step(self._begun, self._planned, name)


@contextmanager
def time_step(name: str, seconds: dict[str, float], steps: Steps) -> Iterator[None]:
    """Announce a step and keep how long it took."""
    steps.begin(name)
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = time.perf_counter() - start


class ReleaseCounter:
    """Counts releases of a run, from replies as they come or from the server's own files."""

    def __init__(self, folder: Path, silos: int, progress: Progress) -> None:
        self._folder, self._silos, self._progress = folder, silos, progress
        self._planned = 0
        self._done = 0
        self._lock = threading.Lock()

    def count(self) -> None:
        """One more silo has answered a round."""
        with self._lock:
            self._done += 1
            self._report()

    def look(self) -> None:
        """Read from the server's files how far the run is."""
        events = self._folder / EVENTS
        done = events.read_text().count("\n") if events.is_file() else 0
        if done != self._done:
            self._done = done
            self._report()

    def _report(self) -> None:
        plan = self._folder / FEDERATION
        if not self._planned and plan.is_file():
            self._planned = json.loads(plan.read_text())["planned_rounds"] * self._silos
        self._progress.releases(self._done, self._planned, self._silos)


# Purposes of the seed, apart from those of data, trainer and noise.
_NEGATIVES, _USERS = 21, 22


def _pick_test_users(federation: SimulatedFederation, *, n_users: int = 0, seed: int = 0) -> SimulatedFederation:
    """The federation with the rows of `n_users` random users who have a test item; of all, for 0 or too many.

    Only for measuring: silos are those of the whole federation and do not fit these rows.
    """
    there = np.flatnonzero(np.diff(federation.test.indptr))
    if not 0 < n_users < len(there):
        return federation
    rows = np.sort(np.random.default_rng([seed, _USERS]).choice(there, n_users, replace=False))
    return replace(
        federation,
        train=federation.train[rows],
        test=federation.test[rows],
        users=rows if federation.users is None else federation.users[rows],
        users_of_silo=[],
        unranked=None if federation.unranked is None else federation.unranked[rows],
        negatives=None if federation.negatives is None else federation.negatives[rows],
    )


def fold_in_scorer(model: ItemEmbeddings, federation: SimulatedFederation, *, device: str = "auto") -> Scorer:
    """Scores of a model for users who are folded in from their train items."""
    where = resolve_device(device)
    placed = model.to(where)
    users = user_vectors(placed, federation.histories.to(where))

    def score(rows: slice) -> torch.Tensor:
        return scores(placed, users[rows])

    return score


def evaluate(
    score: Scorer,
    federation: SimulatedFederation,
    *,
    metrics: Sequence[Metric] = METRICS,
    area: bool = False,
    sampled_negatives: int = 0,
    seed: int = 0,
) -> dict[str, float]:
    """Full-ranking metrics and, if asked for, AUC and those of each item among sampled negatives ("sampled_...").

    There are none where nothing is held out.
    """
    if not federation.test.nnz:
        return {}
    found = evaluate_ranking(
        score, train=federation.excluded, test=federation.test, metrics=metrics, area=area
    ).means()
    if sampled_negatives:
        trials = _trials(federation, n=sampled_negatives, rng=np.random.default_rng([seed, _NEGATIVES]))
        sampled = evaluate_sampled(
            score,
            users=trials.users,
            positives=trials.positives,
            negatives=trials.negatives,
            n_items=federation.train.shape[1],
        )
        found |= sampled.means()
    return found


def _evaluate_groups(
    score: Scorer, federation: SimulatedFederation, attributes: Attributes
) -> dict[str, dict[str, Any]]:
    """Headline metrics of each group of users by attribute; see `metrics_by_group`."""
    if not attributes or not federation.test.nnz:
        return {}
    measured = evaluate_ranking(
        score, train=federation.excluded, test=federation.test, cutoffs=(HEADLINE_CUTOFF,), whole_ranking=False
    )
    return metrics_by_group(measured, attributes)


def _evaluate_ratings(
    model: ItemEmbeddings, federation: SimulatedFederation
) -> dict[str, dict[str, dict[str, float]]]:
    """Errors of the model's predictions ("model") and of every user's own mean ("user_mean"); see `rating_errors`.

    Where nothing is held out they are those of the fit, on the very ratings that the model was trained on.

    Raises:
        ConfigurationError: the model was not trained on ratings.
        DataError: nothing that is held out has a rating.
    """
    train, how = federation.histories, model.fold_in
    test = federation.test_histories if federation.test.nnz else train
    predicted = predicted_ratings(model, user_vectors(model, train), test)
    own = user_means(train, lowest=how.lowest, highest=how.highest)
    return {
        "model": rating_errors(predicted.numpy(), test, federation.train),
        "user_mean": rating_errors(own[test.users.numpy()], test, federation.train),
    }


def _trials(federation: SimulatedFederation, *, n: int, rng: np.random.Generator) -> SampledTrials:
    """The negatives that the source publishes where it has so many for each test item, else drawn ones."""
    published = federation.negatives
    if published is None or published.shape[1] != n or np.diff(federation.test.indptr).max() > 1:
        return draw_negatives(federation.excluded, federation.test, n=n, rng=rng)
    users, positives = federation.test.nonzero()
    return SampledTrials(users=users.astype(np.int64), positives=positives, negatives=published[users])


CATALOGUE, LEDGERS = "catalogue.parquet", "ledgers"
FLOWER_TIMEOUT = 3_600.0


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """One simulated run.

    Attributes:
        federation: what server and silos agree on.
        data: where the data comes from and how it falls into silos.
        engine: "in-process" or "flower".
        parallel_silos: silos that compute at once on the in-process engine.
        sampled_negatives: also rank each test item among so many negatives (the 1+99 protocol of papers); 0 does not.
        evaluate_users: measure on so many random users with a test item; 0 measures on all of them.
        track: "mlflow" records every finished run there, see `simulation.tracking`; "" does not.
        declare_users: take the public orders of magnitude of users, and of the interactions of one if they are not
            given, from the data, rounded to one digit.
    """

    federation: FederationConfig
    data: SimulationConfig
    engine: str = "in-process"
    parallel_silos: int = 1
    sampled_negatives: int = 0
    evaluate_users: int = 0
    track: str = ""
    declare_users: bool = True

    def __post_init__(self) -> None:
        checks.one_of(ENGINES, engine=self.engine)
        check_tracker(self.track)
        checks.at_least(1, parallel_silos=self.parallel_silos, silos=self.federation.silos)
        checks.at_least(0, sampled_negatives=self.sampled_negatives, evaluate_users=self.evaluate_users)
        choose_metrics(self.data.metrics)
        if set(ERRORS) & set(self.data.metrics.split(",")) and self.federation.target != "rating":
            raise ConfigurationError(f"Expected target = rating for the metrics {' and '.join(ERRORS)}.")


def simulate(
    simulation: Simulation, *, output: Path | None = None, progress: Progress | None = None
) -> dict[str, object]:
    """Run a simulation and return its metrics record; with `output`, write the files of the run there.

    The metrics come from a simulator that sees all silos; they are not privatised, and the record says so.

    Raises:
        RecsysFedError: see the parts.
    """
    progress = progress or Progress()
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    use_threads(simulation.federation.threads)
    return_large_arrays()
    seconds: dict[str, float] = {}
    steps = Steps(3, progress)
    with ExitStack() as stack:
        scratch = output or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="recsys-fed-")))
        folder = _make_folder(scratch)
        with time_step("load", seconds, steps):
            if simulation.engine == "in-process":
                logging.getLogger("flwr").setLevel(logging.WARNING)
                load_apps()
            simulation, federation = prepare(simulation)
            for line in _reading_notes(federation):
                progress.say(line)
        with time_step("train", seconds, steps):
            _train(simulation, federation, folder=folder, progress=progress)
        with time_step("evaluate", seconds, steps):
            model = load_item_embeddings(folder / EMBEDDINGS)
            some = _pick_test_users(federation, n_users=simulation.evaluate_users, seed=simulation.federation.seed)
            protocol = protocol_of(simulation.data)
            negatives = simulation.sampled_negatives or (protocol.sampled_negatives if protocol else 0)
            how: dict[str, Any] = {
                "metrics": choose_metrics(simulation.data.metrics),
                "area": AUC in simulation.data.metrics.split(","),
                "sampled_negatives": negatives,
                "seed": simulation.federation.seed,
            }
            scorer = fold_in_scorer(model, some, device=simulation.federation.device)
            measured = Measured(
                metrics=evaluate(scorer, some, **how),
                groups=_evaluate_groups(scorer, some, simulated_attributes(some, simulation.data)),
                popularity=evaluate(popularity(federation.train), some, **how),
                ratings=_evaluate_ratings(model, some) if simulation.federation.target == "rating" else None,
                totals=json.loads((folder / FEDERATION).read_text()),
                events=(folder / EVENTS).read_text(),
                seconds=seconds,
            )
        record = metrics_record(simulation.federation, federation, measured, engine=simulation.engine)
        record |= {"protocol": protocol_record(simulation.data)}
        if output is not None or simulation.track:
            settings = flat(simulation.federation) | flat(simulation.data) | {"engine": simulation.engine}
            if simulation.data.ledgers == str(folder / LEDGERS):
                settings["ledgers"] = ""
            write_run(folder, settings, record)
        if simulation.track:
            progress.say(f"MLflow has it as run {track_run(folder)}")
        return record


def one_digit(number: int) -> int:
    """The number rounded to one significant digit: an order of magnitude that may be declared in public.

    >>> one_digit(6022), one_digit(943), one_digit(1)
    (6000, 900, 1)
    """
    unit: int = 10 ** (len(str(number)) - 1)
    return max(1, round(number / unit) * unit)


def interactions_a_user(federation: SimulatedFederation) -> int:
    """Train interactions of a user on average, at least 1."""
    return max(1, round(int(federation.train.nnz) / int(federation.train.shape[0])))


def _make_folder(folder: Path) -> Path:
    path = folder.expanduser().resolve()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"Expected output to be a folder that can be written, got {path}: {error}."
        ) from error
    return path


def simulate_whole(simulation: Simulation, folder: Path, *, ledgers: Path | None, progress: Progress) -> None:
    """A run of a sequence, in a folder that gets its name when all is there, on a copy of the ledgers before it.

    A run that was killed leaves its folder under another name, and begins again with the ledgers from before it.

    Raises:
        RecsysFedError: see `simulate`.
    """
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    if ledgers is not None:
        shutil.copytree(ledgers, part / LEDGERS)
    data = replace(simulation.data, ledgers=str(part / LEDGERS))
    simulate(replace(simulation, data=data), output=part, progress=progress)
    part.rename(folder)


def prepare(simulation: Simulation) -> tuple[Simulation, SimulatedFederation]:
    """Load the data, and settle what depends on it: absolute paths, declared users, a delta small enough."""
    given = simulation.data
    data = replace(
        given,
        data=_absolute(given.data),
        item_catalogue=_absolute(given.item_catalogue),
        public_users=_absolute(given.public_users),
        user_attributes=_absolute(given.user_attributes),
    )
    if given.ledgers:
        data = replace(data, ledgers=str(_make_folder(Path(given.ledgers))))
    config = resolve_masking(simulation.federation, simulated=True)
    if config.target == AUTO:
        config = replace(config, target="next" if apply_protocol(data).split in BY_TIME else "any")
    resolve_device(config.device)
    federation = simulated_federation(data, silos=config.silos, seed=config.seed)
    if config.target == "rating" and federation.dataset.interactions.value is None:
        raise ConfigurationError(
            "Expected interactions with ratings for target = rating, got none. Name the column that holds them: "
            "--columns value=NAME."
        )
    # Refused here, before anything is trained: a silo would keep it to itself.
    simulated_attributes(federation, data)
    for rule in (weights_rule(config.user_weights), groups_rule(config.metric_groups)):
        simulated_user_numbers(federation, rule, data)
    n_users = federation.train.shape[0]
    check_delta(config.delta, n_users=n_users)
    if signals_read(config) & {"order", "time"} and federation.dataset.interactions.time is None:
        raise ConfigurationError(
            f"Expected a data set with times for the next item, an order or a half-life; {federation.dataset.name} "
            "has none. Leave these keys out, or name the column of the times."
        )
    if data.split == NONE:
        config = replace(config, metrics_epsilon=0.0)
    elif not federation.test.nnz:
        raise DataError("Expected at least one user with a test item, got none. Check the split and --hit-weight.")
    if simulation.declare_users:
        config = replace(config, declared_users=one_digit(n_users))
        if not config.declared_interactions:
            config = replace(config, declared_interactions=one_digit(interactions_a_user(federation)))
    return replace(simulation, data=data, federation=config), federation


def _reading_notes(federation: SimulatedFederation) -> list[str]:
    """What people should know of the data: its licence or origin, and every row that was not taken as it is."""
    dataset = federation.dataset
    findings = [] if dataset.report.is_clean else dataset.report.table()
    unknown = [
        f"silo-{silo}: {count} interactions with items that the catalogue lacks are left out"
        for silo, count in enumerate(federation.unknown_items)
        if count
    ]
    public = federation.catalogue.public_users
    return [
        f"{dataset.name}: {dataset.note}",
        *findings,
        *unknown,
        *([f"public users: {public.sentence()}"] if public is not None else []),
    ]


def _absolute(spec: str) -> str:
    """Make a path absolute, with its #split; names stay names. Other processes start elsewhere."""
    brought, colon, rest = spec.partition(":")
    if colon and brought in extension_names(SOURCES):
        return f"{brought}:{_absolute(rest)}"
    path, mark, split = spec.partition("#")
    return (
        str(Path(path).expanduser().resolve()) + mark + split if path and Path(path).expanduser().exists() else spec
    )


def _train(simulation: Simulation, federation: SimulatedFederation, *, folder: Path, progress: Progress) -> None:
    catalogue, done = folder / CATALOGUE, folder / EMBEDDINGS
    data = simulation.data
    if not data.ledgers:
        # Silos that are made up for this run have no history: their ledgers start anew with it.
        shutil.rmtree(folder / LEDGERS, ignore_errors=True)
        data = replace(data, ledgers=str(folder / LEDGERS))
    federation.catalogue.save(catalogue)
    for stale in (done, folder / FEDERATION, folder / EVENTS, folder / METRICS_FILE):
        stale.unlink(missing_ok=True)
    config = replace(simulation.federation, output=str(folder), catalogue=str(catalogue))
    run_config: dict[str, Value] = flat(config) | flat(data)
    counter = ReleaseCounter(folder, config.silos, progress)
    if simulation.engine == "flower":
        run_with_flower(
            app_folder(),
            run_config=run_config,
            n_silos=config.silos,
            folder=folder / "flower",
            done=done,
            timeout=FLOWER_TIMEOUT,
            on_poll=counter.look,
        )
        return
    server_app, client_app = load_apps()
    run_in_process(
        server_app,
        client_app,
        run_config=run_config,
        n_silos=config.silos,
        parallel_silos=simulation.parallel_silos,
        on_reply=lambda reply: counter.count() if reply.metadata.message_type == "train" else None,
    )
