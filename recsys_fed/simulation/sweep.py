"""A search over settings in which every trial is a training that one ledger a silo pays for.

    unit         a user of a silo; neighbouring data sets differ by one user, as everywhere
    released     of each trial what a training releases, and its metrics: sums over the silos' users with noise
    chosen by    those noisy metrics alone, so that the choice, and what Optuna asks for next, is post-processing
    guarantee    the composition of all trials, whichever wins: what the ledgers have charged, by both accountants

Public: the space, the number of trials, each trial's epsilon, and so which trial a limit refuses: a plan is priced
from public numbers before anything is computed. The exact metrics that a simulator sees, on disk beside each trial,
are not looked at. Trials are measured on the validation part; no test interaction is used.
"""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys_fed import checks
from recsys_fed.config import FederationConfig, check_run_keys, flat, parse, read_toml
from recsys_fed.errors import ConfigurationError
from recsys_fed.federation.metrics_round import metrics_epsilon
from recsys_fed.federation.planning import PublicCatalogue, planned_events, planned_schedule, schedule_of_equal_runs
from recsys_fed.files import write_whole
from recsys_fed.ledger.budget import account_spending, would_exceed, would_spend
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.privacy.accounting.composition import Kinds
from recsys_fed.privacy.guarantee import Guarantee
from recsys_fed.settings_file import Value, flatten, parse_value, read_tables
from recsys_fed.simulation.record import CONFIG, finite
from recsys_fed.simulation.record import METRICS as METRICS_FILE
from recsys_fed.simulation.runner import LEDGERS, Progress, Simulation, prepare, simulate_whole
from recsys_fed.versions import import_extra

if TYPE_CHECKING:
    import optuna

RECORD = "sweep.json"
# Of the whole budget, what equal trials are planned with: trials of other settings differ in the last digits.
_PLANNED = 0.995
# Of a trial's epsilon, for the metrics that choose; a training alone spends a twentieth on them.
_FOR_METRICS = 0.2
METRICS = ("ndcg@20", "recall@20")
# The promise, and who gives it: not to be searched.
_FIXED = {
    "epsilon", "delta", "silos", "max-silos-per-user", "declared-users", "declared-interactions", "noise",
    "secure-aggregation", "secure-aggregation-threshold", "secure-aggregation-colluders", "seed", "training",
    "earlier", "earlier-trainings", "roster", "output", "resume", "catalogue", "metrics-epsilon", "target",
    "user-weights", "metric-groups",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Range:
    """Values from `low` to `high`, both included; whole numbers if both are, `log` draws them by their logarithm."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ConfigurationError(f"Expected low < high, and low > 0 with log, got {self.low} and {self.high}.")


Space = Mapping[str, Range | Sequence[Value]]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is searched.

    Attributes:
        space: key of a run (`rounds`, `dp-sgd.momentum`) -> a `Range`, or the values to choose from.
        trials: how many trainings share the epsilon of the simulation.
        metric: of METRICS, as the silos report it with noise; the largest wins.
        limit: of the ledgers; 0 takes the simulation's epsilon. A trial that would exceed it is refused, and the
            sweep ends with what it has.
    """

    space: Space
    trials: int = 10
    metric: str = METRICS[0]
    limit: float = 0.0

    def __post_init__(self) -> None:
        checks.at_least(1, trials=self.trials)
        checks.one_of(METRICS, metric=self.metric)
        if self.limit:
            checks.positive_or_inf(limit=self.limit)
        check_run_keys(self.space, place="the space of a sweep")
        known = {key for key in flat(FederationConfig()) if key not in _FIXED}
        if wrong := [key for key in self.space if key not in known and "." not in key]:
            raise ConfigurationError(
                f"Expected keys of training in the space of a sweep, got {', '.join(sorted(wrong))}: data, the "
                "promise and who gives it are the same in every trial."
            )
        if not self.space or any(not values for values in self.space.values() if not isinstance(values, Range)):
            raise ConfigurationError("Expected a space with at least one key, and values for each.")


def read_space(texts: Sequence[str]) -> dict[str, Range | Sequence[Value]]:
    """A space from texts: KEY=V1,V2,... or KEY=LOW..HIGH or KEY=LOW..HIGH:log, or a TOML file of such keys.

    Raises:
        DataNotFoundError, DataFormatError: a file is not there, or no TOML.
        ConfigurationError: a range that is none.

    >>> read_space(["rounds=4,6", "dp-sgd.momentum=0.5..0.9"])
    {'rounds': [4, 6], 'dp-sgd.momentum': Range(low=0.5, high=0.9, log=False)}
    """
    space: dict[str, Range | Sequence[Value]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        given = {key: values} if equals else flatten(read_tables(Path(text), what="the space of a sweep"))
        space |= {name: _values_of(name, value) for name, value in given.items()}
    return space


def _values_of(key: str, given: object) -> Range | Sequence[Value]:
    if isinstance(given, list):
        return given
    text = str(given)
    low, dots, high = text.removesuffix(":log").partition("..")
    if not dots:
        return [parse_value(part) for part in text.split(",")]
    try:
        return Range(low=float(low), high=float(high), log=text.endswith(":log"))
    except ValueError as error:
        raise ConfigurationError(f"Expected {key} as LOW..HIGH with numbers, got {text!r}.") from error


def run_sweep(
    simulation: Simulation, sweep: Sweep, *, output: Path, progress: Progress | None = None
) -> dict[str, Any]:
    """Run the trials, each in a folder of its own, write sweep.json into `output`, and return it.

    The epsilon of the simulation is that of all trials together. A sweep that was killed goes on: whole trials stand,
    and the one that was under way begins again with the ledgers from before it. Its noise follows from its seed, so
    it releases the same again, and it is charged once.

    Raises:
        ConfigurationError: the folder has a finished sweep or another one, or no metric would leave the silos.
        MissingExtraError: optuna is not installed.
        CalibrationError: each trial would get less than can be calibrated.
        RecsysFedError: see `simulate`.
    """
    progress = progress or Progress()
    study = _new_study(sweep, seed=simulation.federation.seed)
    output = output.expanduser().resolve()
    _check_folder(output)
    data = replace(simulation.data, held_out="validation", ledgers="", epsilon_limit=0.0)
    settled, federation = prepare(replace(simulation, data=data))
    config = settled.federation
    catalogue = PublicCatalogue(n_items=federation.catalogue.n_items, items=federation.catalogue)
    config = _share_of_a_trial(config, catalogue, trials=sweep.trials)
    limit = Guarantee(
        epsilon=sweep.limit or settled.federation.epsilon,
        delta=config.delta,
        max_silos_per_user=config.max_silos_per_user,
    )
    ledgers = output / LEDGERS  # none, until there is a trial
    data = replace(
        settled.data,
        epsilon_limit=limit.epsilon,
        data_seed=config.seed if settled.data.data_seed < 0 else settled.data.data_seed,
    )
    trials: list[dict[str, Any]] = []
    refused = None
    for number in range(sweep.trials):
        trial = study.ask()
        chosen = {key: _suggest(trial, key, values) for key, values in sweep.space.items()}
        asked = _config_of(config, chosen, number=number)
        planned, spent = planned_events(planned_schedule(asked, catalogue)), _charged(ledgers)
        if would_exceed(spent, planned, limit):
            cost = finite(would_spend(spent, planned, limit))
            refused = {"trial": number, "settings": chosen, "would_spend": cost, "limit": finite(limit.epsilon)}
            progress.say(f"trial {number} is refused: epsilon would be {cost} of {limit.epsilon:g}")
            break
        folder = output / f"trial-{number}"
        progress.say(f"trial {number} of {sweep.trials}: {chosen}")
        _train(replace(settled, federation=asked, data=data, declare_users=False), folder, ledgers, progress)
        ledgers = folder / LEDGERS
        record = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
        trials.append(_trial_record(record, number=number, chosen=chosen, sweep=sweep, ledgers=ledgers))
        value = trials[-1]["value"]
        study.tell(trial, value, state=None if value is not None else _failed())
    found = _record(sweep, trials, refused=refused, share=config.epsilon, limit=limit, ledgers=ledgers)
    _write(output, found, ledgers)
    return found


def _check_folder(output: Path) -> None:
    """Refuse a finished sweep, and one that was killed in a version that had its ledgers in `output` alone."""
    kept = (output / "trial-0" / LEDGERS).exists()
    if (output / RECORD).exists() or ((output / LEDGERS).exists() and not kept):
        raise ConfigurationError(f"There is a sweep in {output} already. Choose another folder.")


def _write(output: Path, record: Mapping[str, Any], ledgers: Path) -> None:
    """Write the ledgers as the last trial left them, then the record: where it is, the sweep is complete."""
    output.mkdir(parents=True, exist_ok=True)
    if record["trials"] and not (output / LEDGERS).exists():
        part = output / f".{LEDGERS}.part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(ledgers, part)
        part.rename(output / LEDGERS)
    write_whole(output / RECORD, json.dumps(record, indent=2) + "\n")


def _train(simulation: Simulation, folder: Path, ledgers: Path, progress: Progress) -> None:
    """One trial, unless it is there already."""
    if folder.is_dir():
        _check_same(simulation, folder)
        return
    simulate_whole(simulation, folder, ledgers=ledgers if ledgers.is_dir() else None, progress=progress)


def _check_same(simulation: Simulation, folder: Path) -> None:
    """Refuse to go on with the trials of another sweep."""
    asked, there = flat(simulation.federation) | flat(simulation.data), read_toml(folder / CONFIG)
    if simulation.data.data.startswith("memory:"):
        del asked["data"]  # a data set of this process has another name in each
    if changed := sorted(key for key in asked if key in there and there[key] != asked[key]):
        raise ConfigurationError(
            f"Expected the settings of the sweep that was begun in {folder.parent}, {folder.name} had others: "
            f"{', '.join(changed)}. Choose another folder."
        )


def _new_study(sweep: Sweep, *, seed: int) -> "optuna.Study":
    library = import_extra("optuna")
    library.logging.set_verbosity(library.logging.WARNING)
    # A third of the trials looks around before the sampler trusts what it has seen.
    sampler = library.samplers.TPESampler(seed=seed, n_startup_trials=min(10, math.ceil(sweep.trials / 3)))
    study: optuna.Study = library.create_study(direction="maximize", sampler=sampler)
    return study


def _suggest(trial: "optuna.Trial", key: str, values: Range | Sequence[Value]) -> Value:
    if not isinstance(values, Range):
        return trial.suggest_categorical(key, list(values))  # type: ignore[return-value]
    if float(values.low).is_integer() and float(values.high).is_integer():
        return trial.suggest_int(key, int(values.low), int(values.high), log=values.log)
    return trial.suggest_float(key, values.low, values.high, log=values.log)


def _failed() -> "optuna.trial.TrialState":
    """Of a trial that cost its share and whose metrics the noise has drowned."""
    failed: optuna.trial.TrialState = import_extra("optuna.trial").TrialState.FAIL
    return failed


def _share_of_a_trial(config: FederationConfig, catalogue: PublicCatalogue, *, trials: int) -> FederationConfig:
    """The settings with the epsilon of one of so many trials, and the part of it that pays for its metrics."""
    whole = replace(config, epsilon=_PLANNED * config.epsilon)
    if config.metrics_epsilon == -1 and math.isfinite(config.epsilon):
        first = schedule_of_equal_runs(whole, catalogue, runs=trials).config.epsilon
        whole = replace(whole, metrics_epsilon=_FOR_METRICS * first)
    share = schedule_of_equal_runs(whole, catalogue, runs=trials).config.epsilon
    if metrics_epsilon(replace(whole, epsilon=share)) <= 0:
        raise ConfigurationError(
            "Expected silos to report metrics: a sweep chooses by noisy sums of them, which are charged. Leave "
            "metrics-epsilon out, and target = rating, which has none."
        )
    return replace(whole, epsilon=share)


def _config_of(config: FederationConfig, chosen: Mapping[str, Value], *, number: int) -> FederationConfig:
    """The settings of a trial: a run of its own, with noise of its own."""
    own = {"training": f"trial-{number}", "seed": config.seed + number}
    return parse(FederationConfig, flat(config) | dict(chosen) | own)


def _charged(ledgers: Path) -> Kinds:
    """What the silo that has spent most was charged so far; nothing before the first trial."""
    spent = [Ledger.open(str(path)).spending() for path in ledgers.glob("*/ledger.sqlite")]
    return max(spent, key=lambda one: one.epsilon).kinds if spent else ()


def _trial_record(
    record: Mapping[str, Any], *, number: int, chosen: Mapping[str, Value], sweep: Sweep, ledgers: Path
) -> dict[str, Any]:
    """What is known of a trial outside of the silos: noisy metrics and what they cost."""
    # None is reported where the noisy number of users is not well above its noise.
    metric = record["private_metrics"].get(sweep.metric, {"value": None, "noise": None})
    return {
        "trial": number,
        "settings": dict(chosen),
        "value": metric["value"],
        "noise": metric["noise"],
        "epsilon": max(map(float, record["epsilon_spent"].values())),
        "epsilon_in_all": finite(max(Ledger.open(str(p)).spending().epsilon for p in ledgers.glob("*/*.sqlite"))),
    }


def _record(
    sweep: Sweep,
    trials: Sequence[dict[str, Any]],
    *,
    refused: Mapping[str, Any] | None,
    share: float,
    limit: Guarantee,
    ledgers: Path,
) -> dict[str, Any]:
    spent = account_spending(_charged(ledgers), limit)
    return {
        "kind": "sweep",
        "metric": sweep.metric,
        "epsilon_of_a_trial": finite(share),
        "trials": list(trials),
        "refused": refused,
        "best": max((one for one in trials if one["value"] is not None), key=lambda one: one["value"], default=None),
        "spending": spent.to_dict(),
        "guarantee": replace(limit, epsilon=spent.epsilon).sentence(seen="all trials of this sweep released from")
        if trials
        else "Nothing was released.",
        "note": "chosen by noisy metrics of the validation part, which the ledgers have paid for; the promise is "
        "that of all trials together, not of the best one",
    }
