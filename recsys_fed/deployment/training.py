"""Start a training on a running federation, or go on with one that was interrupted, and follow it to its end."""

import contextlib
import json
import re
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.certificates.run import read_certificates
from recsys_fed.config import FederationConfig, flat, parse
from recsys_fed.deployment.federation import (
    AUTHORITY,
    BUILD_ON,
    CATALOGUE,
    ROSTER,
    FederationFolder,
    agreed_keys,
    run_command,
    runs_command,
    shell_line,
    split_address,
    stop_command,
)
from recsys_fed.deployment.roster import admitted_silos, publish_roster
from recsys_fed.deployment.serving import prepare_flower
from recsys_fed.errors import ConfigurationError, DataNotFoundError, EngineError
from recsys_fed.federation.kept_releases import RELEASES, read_earlier
from recsys_fed.federation.run_files import CERTIFICATES, EMBEDDINGS, FEDERATION, LOG, MISSING, STOP
from recsys_fed.federation.run_files import FILE as CHECKPOINT
from recsys_fed.files import file_lock
from recsys_fed.flower import ask_flower, end, environment, healthy, scale_timeout
from recsys_fed.settings_file import Value, flatten, read_tables, to_toml
from recsys_fed.simulation.flower_engine import app_folder
from recsys_fed.simulation.tracking import check_tracker, track_run
from recsys_fed.user_digests import stamp_of

RUN_CONFIG, FLOWER_LOG = "run.toml", "flower.log"
_POLL = 0.5
# Seconds that a stop gives the round under way: as long as a masked one may wait for its silos.
LONGEST_ROUND = 600.0
_OnPoll = Callable[[Path], None]


def earlier_runs(folder: FederationFolder, *, until: str | None = None, say: Callable[[str], None]) -> list[Path]:
    """Folders of the trainings on which a new one can build, oldest first.

    That is every complete one of the same trainer and target that kept its released tables. The others are named.

    Args:
        folder: of the federation.
        until: the last one to build on; None: the newest.
        say: takes a line for each that is left out, and one for those that are not.

    Raises:
        ConfigurationError: there is no complete training of that name.
    """
    complete = [path for path in trainings_of(folder) if (path / EMBEDDINGS).is_file()]
    if until is not None and until not in {path.name for path in complete}:
        raise ConfigurationError(f"There is no complete training {until} in {folder.trainings}.")
    terms, found = folder.settings().training, []
    for path in complete:
        reason = _why_not(path, terms)
        if until is not None and path.name > until:
            reason = f"it is newer than {until}"
        if reason:
            say(f"leaves out {path.name}: {reason}")
        else:
            found.append(path)
    say(f"builds on {len(found)} earlier trainings{': ' if found else ''}{', '.join(path.name for path in found)}")
    return found


def _why_not(training: Path, terms: FederationConfig) -> str:
    """Why a complete training is nothing that one under these terms can build on; "" if it is."""
    if not (training / RELEASES).is_file():
        return "it kept no released tables, as those of earlier versions"
    config = parse(FederationConfig, flatten(read_tables(training / RUN_CONFIG, what="a training")))
    then, now = flat(config), flat(terms)
    changed = [name for name in sorted(then.keys() | now.keys()) if _means(name) and then.get(name) != now.get(name)]
    if changed:
        return f"its {', '.join(changed)} was another"
    try:
        certificates, problems = read_certificates(training / CERTIFICATES)
    except DataNotFoundError:
        return "no silo has signed for it"
    unnamed = any(not certificate.tables for certificate in certificates.values())
    return "an earlier version signed for it, which named no released tables" if unnamed and not problems else ""


def _means(name: str) -> bool:
    """Whether a key of a run bears on what its released tables mean."""
    return name in ("trainer", "target", "order", "trainer-settings", "user-weights") or "." in name


def new_training(folder: FederationFolder, *, overrides: Mapping[str, Value], earlier: Sequence[Path] = ()) -> Path:
    """Make the folder of a new training within the terms that silos agreed to.

    Args:
        folder: of the federation.
        overrides: keys of a run; epsilon may be lower than agreed, and what silos do not agree to is free.
        earlier: folders of the trainings that it builds on, oldest first, see `earlier_runs`.

    Raises:
        ConfigurationError: epsilon above the agreed one, another of the agreed terms, more earlier trainings than
            were agreed, or too few admitted silos.
        LedgerIntegrityError: what an earlier training released was changed later.
    """
    terms = folder.settings().training
    config = parse(FederationConfig, flat(terms) | dict(overrides))
    config = _building_on(folder, config, earlier)
    if config.epsilon > terms.epsilon:
        raise ConfigurationError(f"Expected at most the agreed epsilon {terms.epsilon:g}, got {config.epsilon:g}.")
    agreed, asked = agreed_keys(terms), agreed_keys(config)
    for name in sorted(agreed.keys() | asked.keys()):
        if name != "epsilon" and agreed.get(name) != asked.get(name):
            raise ConfigurationError(
                f"Expected {name} = {agreed.get(name)}, as silos agreed, got {asked.get(name)}. "
                "They refuse anything else: new terms need new silos' settings."
            )
    there = len(admitted_silos(folder))
    if there < max(config.minimum_silos, 1):
        raise ConfigurationError(f"Expected at least {max(config.minimum_silos, 1)} admitted silos, got {there}.")
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    training = folder.trainings / name
    training.mkdir(parents=True)
    _write_run_config(folder, training, replace(config, training=name))
    return training


def _building_on(folder: FederationFolder, config: FederationConfig, earlier: Sequence[Path]) -> FederationConfig:
    """With what it builds on, all of which is read here once: what was changed is refused before a silo is asked."""
    if len(earlier) > config.most_earlier_trainings:
        raise ConfigurationError(
            f"Expected at most {config.most_earlier_trainings} earlier trainings to build on, as silos agreed, there "
            f"are {len(earlier)}. `federation terms --set most-earlier-trainings={BUILD_ON}` makes new terms, to "
            "which silos agree by `silo update DIR --agree`."
        )
    named = json.dumps([str(path) for path in earlier]) if earlier else ""
    config = replace(config, earlier_trainings=len(earlier), earlier=named)
    read_earlier(config, Catalogue.load(folder.public / CATALOGUE))
    return config


def trainings_of(folder: FederationFolder) -> list[Path]:
    """Folders of all trainings, oldest first."""
    return sorted(path for path in folder.trainings.glob("*") if (path / RUN_CONFIG).is_file())


def _last_training(folder: FederationFolder) -> Path:
    """The newest training's folder; raises ConfigurationError if there is none."""
    found = trainings_of(folder)
    if not found:
        raise ConfigurationError(f"There is no training in {folder.trainings}. Start one.")
    return found[-1]


def resume_newest(folder: FederationFolder) -> Path:
    """The newest training, made ready to go on; raises ConfigurationError if it is complete or there is none."""
    return prepare_to_resume(folder, _last_training(folder))


def prepare_to_resume(folder: FederationFolder, training: Path) -> Path:
    """A training, made ready to begin or to go on: also one that has its model and not all of its certificates.

    Raises:
        ConfigurationError: it is complete.
    """
    if (training / EMBEDDINGS).is_file() and not json.loads((training / FEDERATION).read_text())[MISSING]:
        raise ConfigurationError(f"Expected an interrupted training, {training.name} is complete. Start a new one.")
    text = (training / RUN_CONFIG).read_text(encoding="utf-8")
    (training / RUN_CONFIG).write_text(text.replace("resume = false", "resume = true"), encoding="utf-8")
    publish_roster(folder, training / ROSTER)
    return training


def _expect_served(folder: FederationFolder) -> None:
    """Raise EngineError if the federation's server does not answer on this machine."""
    settings = folder.settings()
    port = split_address(settings.address)[1]
    reason = healthy("127.0.0.1", port, authority=None if settings.insecure else folder.public / AUTHORITY)
    if reason:
        raise EngineError(f"The federation does not serve on port {port}: {reason}. Start `federation serve` first.")


@contextmanager
def only_training(folder: FederationFolder) -> Iterator[None]:
    """One training at a time: two would spend the silos' budgets side by side.

    Raises:
        EngineError: another one goes on, or the federation does not serve.
    """
    _expect_served(folder)
    prepare_flower(folder, folder.settings())
    with file_lock(folder.flower_home / "training.lock") as other:
        if other:
            raise EngineError(f"Process {other} trains with this federation. Wait for it, or end it: {_stop(folder)}")
        found = _unfinished_runs(folder)
        if found:
            raise EngineError(f"A training goes on that nobody follows. Wait for it, or end it: {_stop(folder)}")
        yield


def _stop(folder: FederationFolder) -> str:
    return f"recsys-fed federation stop {folder.path}"


def _unfinished_runs(folder: FederationFolder) -> list[str]:
    """Flower's numbers of the runs that go on or wait; raises EngineError if the SuperLink does not answer."""
    runs = ask_flower(runs_command(), folder.flower_home).get("runs", [])
    return [str(run["run-id"]) for run in runs if not str(run["status"]).startswith("finished")]


def stop_trainings(folder: FederationFolder, *, say: Callable[[str], None], patience: float = 0.0) -> int:
    """Stop whatever goes on; what silos have released is charged, and `--resume` goes on after the last round.

    Args:
        folder: of the federation.
        say: takes a line for each step.
        patience: seconds in which the round under way may end first, as a masked one that is cut off is charged for
            and has to be paid again; Ctrl-C while it is waited for ends it at once.

    Returns how many were stopped. Raises EngineError if the federation does not serve.
    """
    _expect_served(folder)
    prepare_flower(folder, folder.settings())
    runs = _unfinished_runs(folder)
    if runs and patience:
        try:
            _let_round_end(folder, say=say, patience=patience)
        except KeyboardInterrupt:
            say("the round is cut off")
    for run in _unfinished_runs(folder) if patience else runs:
        command = stop_command(run)
        say(shell_line(command, folder.flower_home))
        ask_flower(command, folder.flower_home)
    return len(runs)


def _let_round_end(folder: FederationFolder, *, say: Callable[[str], None], patience: float) -> None:
    """Ask the server to stop after the round under way, if there is one, and wait until it has."""
    found = trainings_of(folder)
    if not found or not _is_in_round(found[-1]):
        return
    training = found[-1]
    before, deadline = stamp_of(training / CHECKPOINT), time.monotonic() + scale_timeout(patience)
    (training / STOP).touch()
    say("the round under way ends first, as silos pay for it; Ctrl-C cuts it off")
    # The checkpoint tells of the round's end at once; to ask Flower takes a second of a processor.
    while stamp_of(training / CHECKPOINT) == before and _is_in_round(training) and time.monotonic() < deadline:
        time.sleep(_POLL)
    while _unfinished_runs(folder) and time.monotonic() < deadline:
        time.sleep(_POLL)


def _is_in_round(training: Path) -> bool:
    """Whether the last that the server has written down of a training is that a round has begun."""
    log = training / LOG
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    # A line that is being written, or that a power failure cut short, tells nothing.
    with contextlib.suppress(json.JSONDecodeError):
        return bool(lines) and bool(json.loads(lines[-1])["event"] == "round begun")
    return False


def _stop_if_served(folder: FederationFolder, *, say: Callable[[str], None], patience: float = 0.0) -> None:
    """Stop the training; a server that is gone has ended it already, and lets it not start again."""
    with contextlib.suppress(EngineError):
        stop_trainings(folder, say=say, patience=patience)


def run_training(
    folder: FederationFolder,
    training: Path,
    *,
    timeout: float,
    say: Callable[[str], None],
    on_poll: _OnPoll,
    keep_going: Callable[[], bool] = lambda: False,
    track: str = "",
) -> None:
    """Run until the model is there. Whatever else ends this, Ctrl-C too, stops the training on the server.

    Ctrl-C lets the round under way end, a second one does not.

    Args:
        folder, training: of the federation, and of the training in it.
        timeout: seconds for all of it.
        say: takes the plain Flower command.
        on_poll: called about twice a second.
        keep_going: asked at Ctrl-C: whether the training is to go on without this process.
        track: "mlflow" records the finished training there, see `simulation.tracking`.

    Raises:
        EngineError: the federation does not serve, or the run ended without a model: go on with --resume. Or the
            model is there, and MLflow did not take the record.
    """
    check_tracker(track)
    command, model = run_command(app_folder(), training / RUN_CONFIG), training / EMBEDDINGS
    # That of a training that goes on for the sake of its certificates is there already.
    before = stamp_of(model)
    (training / STOP).unlink(missing_ok=True)
    say(shell_line(command, folder.flower_home))
    with (training / FLOWER_LOG).open("ab") as output:
        process = subprocess.Popen(command, env=dict(environment(folder.flower_home)), stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + timeout
            while process.poll() is None and stamp_of(model) == before:
                if time.monotonic() > deadline:
                    raise EngineError(f"The training did not end within {timeout:.0f} s.")
                on_poll(training)
                time.sleep(_POLL)
        except BaseException as error:
            end(process)
            interrupted = isinstance(error, KeyboardInterrupt)
            if not (interrupted and keep_going()):
                _stop_if_served(folder, say=say, patience=LONGEST_ROUND if interrupted else 0.0)
            raise
        finally:
            end(process)
    on_poll(training)
    if stamp_of(model) == before:
        _stop_if_served(folder, say=say)
        raise EngineError(
            f"Expected a model in {training}, the run ended without one. See {training / FLOWER_LOG}; "
            f"`federation train --resume` goes on at the next round.{_last_refusal(training / FLOWER_LOG)}"
        )
    if track:
        say(f"MLflow has it as run {track_run(training, config=RUN_CONFIG)}")


def _last_refusal(log: Path) -> str:
    """What the server said when it gave up, from Flower's log, which draws frames around lines and breaks them."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(encoding="utf-8", errors="replace"))
    found = re.findall(r"[A-Z]\w*Error: (.+)", text)
    return f" The server gave up: {found[-1].strip()}" if found else ""


def progress_of(training: Path) -> dict[str, object]:
    """How far a training is: rounds done of how many, silos that answered last, and whether it is complete."""
    totals = {}
    path = training / "federation.json"
    if path.is_file():
        totals = json.loads(path.read_text())
    events = training / "events.jsonl"
    lines = [json.loads(line) for line in events.read_text().splitlines()] if events.is_file() else []
    last = max((line["round"] for line in lines), default=-1)
    return {
        "training": training.name,
        "rounds": last + 1,
        "planned": int(totals.get("planned_rounds", 0)),
        "answered": sum(line["round"] == last for line in lines),
        "refused": len(totals.get("refused", [])),
        "complete": (training / EMBEDDINGS).is_file(),
    }


def _write_run_config(folder: FederationFolder, training: Path, config: FederationConfig) -> None:
    publish_roster(folder, training / ROSTER)
    keys = flat(
        replace(
            config,
            output=str(training),
            catalogue=str(folder.public / CATALOGUE),
            roster=str(training / ROSTER),
            resume=False,
        )
    )
    (training / RUN_CONFIG).write_text(to_toml(keys), encoding="utf-8")
