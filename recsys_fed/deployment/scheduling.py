"""Trainings by the calendar: when the next one is due, tried again where it fails, skipped where it cannot be.

    schedule.json    what was asked for, and what became of each training so far; replaced whole after each

Silos keep to schedules of their own (`[schedule]` in silo.toml), whatever this side asks for: they refuse a training
that comes too early. So the next one is never due sooner than its distance after the last one began.
"""

import json
import math
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from recsys_fed import checks
from recsys_fed.catalogue.items import Catalogue
from recsys_fed.deployment.federation import CATALOGUE, FederationFolder
from recsys_fed.errors import ConfigurationError, DataFormatError, RecsysFedError
from recsys_fed.federation.planning import PublicCatalogue, schedules_of_trainings
from recsys_fed.files import write_whole

_FILE = "schedule.json"
_LONGEST_SLEEP = 600.0


@dataclass(frozen=True, kw_only=True)
class ScheduledTraining:
    """What became of one: `state` is complete, failed or skipped; `training` is its name, "" where none began."""

    number: int
    began: str
    training: str
    state: str


@dataclass(frozen=True, kw_only=True)
class CalendarOfTrainings:
    """A schedule and how far it is.

    Attributes:
        begins: when the first training is due, ISO, UTC. every_days: from one to the next.
        trainings: how many. epsilon: of each; 0: what the terms say.
        builds_on: whether each builds on what all trainings before it released.
        retries: how often a training that fails is taken up again, `retry_minutes` later each.
        done: those so far, in order. running: name of the one that goes on; after a crash it is taken up again.
    """

    begins: str
    every_days: float
    trainings: int
    epsilon: float = 0.0
    builds_on: bool = False
    retries: int = 3
    retry_minutes: float = 15.0
    done: tuple[ScheduledTraining, ...] = field(default=())
    running: str = ""

    def __post_init__(self) -> None:
        checks.positive(every_days=self.every_days)
        checks.at_least(1, trainings=self.trainings)
        checks.at_least(0, retries=self.retries)
        checks.non_negative(epsilon=self.epsilon, retry_minutes=self.retry_minutes)
        if self.every_days > checks.MOST_DAYS or not math.isfinite(self.epsilon):
            raise ConfigurationError(f"Expected at most {checks.MOST_DAYS:,} days and a finite epsilon.")
        _moment(self.begins)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Self:
        """Read it; raises DataFormatError."""
        try:
            done = tuple(ScheduledTraining(**one) for one in record["done"])
            return cls(**(record | {"done": done}))
        except (TypeError, KeyError, ConfigurationError) as error:
            raise DataFormatError(f"Expected a schedule of trainings: {error}") from error

    def due(self) -> datetime | None:
        """When the next training is due; None where all are done."""
        if len(self.done) >= self.trainings:
            return None
        due = _moment(self.begins) + len(self.done) * timedelta(days=self.every_days)
        began = [_moment(one.began) for one in self.done if one.training]
        return max(due, began[-1] + timedelta(days=self.every_days)) if began else due

    def skip_missed(self, now: datetime) -> Self:
        """With those noted as skipped that were due so long ago that the one after them is due as well."""
        found, due = self, self.due()
        while (
            due is not None and due + timedelta(days=self.every_days) <= now and len(found.done) + 1 < self.trainings
        ):
            missed = ScheduledTraining(number=len(found.done) + 1, began=_text(due), training="", state="skipped")
            found = replace(found, done=(*found.done, missed))
            due = found.due()
        return found


def read_calendar(folder: FederationFolder) -> CalendarOfTrainings | None:
    """The schedule of a federation, None where there is none; raises DataFormatError."""
    path = folder.path / _FILE
    if not path.is_file():
        return None
    try:
        return CalendarOfTrainings.from_record(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, AttributeError) as error:
        raise DataFormatError(f"Expected a schedule of trainings in {path}: {error}") from error


def write_calendar(folder: FederationFolder, calendar: CalendarOfTrainings) -> None:
    """Keep it."""
    write_whole(folder.path / _FILE, json.dumps(asdict(calendar), indent=2) + "\n")


def keep_calendar(
    folder: FederationFolder,
    calendar: CalendarOfTrainings,
    *,
    begin: Callable[[CalendarOfTrainings], Path],
    finish: Callable[[Path], None],
    say: Callable[[str], None],
    clock: Callable[[], datetime],
    sleep: Callable[[float], None],
    once: bool = False,
) -> CalendarOfTrainings:
    """Train whenever it is due, until all trainings are done; with `once` only what is due now.

    Args:
        folder, calendar: of the federation.
        begin: makes the folder of a new training. finish: trains in it, from where it is.
        say: takes a line for the operator.
        clock: UTC. sleep: seconds.

    A training that fails is taken up again where it is, so that rounds that silos have paid for are not paid for
    twice. After the last try it is noted as failed, and the next one comes when it is due.
    """
    write_calendar(folder, calendar)
    while True:
        calendar = calendar.skip_missed(clock())
        due = calendar.due()
        if due is None:
            return calendar
        if clock() < due:
            if once:
                say(f"training {len(calendar.done) + 1} of {calendar.trainings} is due at {_text(due)}")
                return calendar
            sleep(min((due - clock()).total_seconds(), _LONGEST_SLEEP))
            continue
        outcome = _try(folder, calendar, begin=begin, finish=finish, say=say, clock=clock, sleep=sleep)
        calendar = replace(calendar, done=(*calendar.done, outcome), running="")
        write_calendar(folder, calendar)
        say(f"training {outcome.number} of {calendar.trainings} ({outcome.training or 'none'}): {outcome.state}")
        if once:
            return calendar


def _try(
    folder: FederationFolder,
    calendar: CalendarOfTrainings,
    *,
    begin: Callable[[CalendarOfTrainings], Path],
    finish: Callable[[Path], None],
    say: Callable[[str], None],
    clock: Callable[[], datetime],
    sleep: Callable[[float], None],
) -> ScheduledTraining:
    began = _text(clock())
    training = folder.trainings / calendar.running if calendar.running else None
    for number in range(calendar.retries + 1):
        if number:
            sleep(60.0 * calendar.retry_minutes)
        try:
            if training is None:
                training = begin(calendar)
                write_calendar(folder, replace(calendar, running=training.name))
            finish(training)
        except RecsysFedError as error:
            say(f"try {number + 1} of {calendar.retries + 1} failed: {error}")
        else:
            return ScheduledTraining(
                number=len(calendar.done) + 1, began=began, training=training.name, state="complete"
            )
    name = "" if training is None else training.name
    return ScheduledTraining(number=len(calendar.done) + 1, began=began, training=name, state="failed")


def epsilon_of_each(folder: FederationFolder, epsilon: float, *, trainings: int, earlier: int | None = None) -> float:
    """What each of so many equal trainings under the terms may cost, so that together they cost at most epsilon.

    Args:
        folder: of the federation.
        epsilon: of all of them.
        trainings: how many.
        earlier: each builds on those before it, the first on so many; None: each starts from nothing.

    Raises:
        CalibrationError: each would get less than can be calibrated.
        ConfigurationError: more than the terms allow to one.
    """
    terms = folder.settings().training
    items = Catalogue.load(folder.public / CATALOGUE)
    catalogue = PublicCatalogue(n_items=items.n_items, items=items)
    asked = replace(terms, epsilon=epsilon, earlier_trainings=earlier or 0)
    schedules = schedules_of_trainings(asked, catalogue, trainings=trainings, cold=earlier is None)
    each = schedules[0].config.epsilon
    if each > terms.epsilon:
        raise ConfigurationError(
            f"Expected at most the agreed epsilon {terms.epsilon:g} a training, {trainings} trainings that share "
            f"{epsilon:g} take {each:g} each. Plan more of them, or a smaller epsilon."
        )
    return each


_UNITS = """\
# recsys-fed-training.timer: looks every hour whether a training is due
[Unit]
Description=recsys-fed trainings by the calendar

[Timer]
OnCalendar=hourly
RandomizedDelaySec=300
Persistent=true

[Install]
WantedBy=timers.target

# recsys-fed-training.service
[Unit]
Description=recsys-fed: the training that is due
After=recsys-fed-federation.service

[Service]
Type=oneshot
User=recsys-fed
ExecStart={command}
TimeoutStartSec=infinity
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
ReadWritePaths={folder}
UMask=0077
"""


def systemd_units(folder: FederationFolder) -> str:
    """A timer and its service, as two units of systemd; the schedule itself is in the folder."""
    program = Path(sys.executable).with_name("recsys-fed")
    command = shlex.join([str(program), "federation", "schedule", str(folder.path), "--once"])
    return _UNITS.format(command=command, folder=folder.path)


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"Expected a time as 2026-01-31T12:00:00Z, got {text!r}.") from error
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")
