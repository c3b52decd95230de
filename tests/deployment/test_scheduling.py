"""Trainings by the calendar, with a clock that is set by hand: due, tried again, failed, skipped, taken up again."""

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from command_line import run_command
from deployment_kit import deployed

from recsys_fed.deployment.scheduling import (
    CalendarOfTrainings,
    epsilon_of_each,
    keep_calendar,
    read_calendar,
    systemd_units,
    write_calendar,
)
from recsys_fed.errors import ConfigurationError, DataFormatError, EngineError
from recsys_fed.federation.planning import PublicCatalogue, planned_events, planned_schedule
from recsys_fed.privacy.accounting import epsilon_of_history
from recsys_fed.privacy.accounting.composition import repeat

START = datetime(2026, 1, 1, tzinfo=UTC)


class Operator:
    """A clock that sleeping moves on, and trainings that take an hour, fail as often as is said, or kill."""

    def __init__(self, folder, failures=()):
        self.folder, self.now, self.failures = folder, START, list(failures)
        self.begun, self.tried, self.said = [], [], []

    def begin(self, calendar):
        training = self.folder.trainings / f"t{len(self.begun)}"
        training.mkdir()
        self.begun.append((training.name, self.now))
        return training

    def finish(self, training):
        self.tried.append(training.name)
        self.now += timedelta(hours=1)
        if self.failures:
            failure = self.failures.pop(0)
            if failure is not None:
                raise failure

    def sleep(self, seconds):
        self.now += timedelta(seconds=seconds)

    def keep(self, calendar, **more):
        return keep_calendar(
            self.folder, calendar, begin=self.begin, finish=self.finish, say=self.said.append,
            clock=lambda: self.now, sleep=self.sleep, **more,
        )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    return deployed(tmp_path).federation


def calendar(**more):
    return CalendarOfTrainings(**({"begins": "2026-01-02", "every_days": 7.0, "trainings": 3} | more))


def test_each_is_trained_when_it_is_due_and_never_sooner_than_its_distance(folder):
    operator = Operator(folder)
    done = operator.keep(calendar())
    assert [one.state for one in done.done] == ["complete"] * 3
    times = [time for _, time in operator.begun]
    assert times[0] >= datetime(2026, 1, 2, tzinfo=UTC)
    assert all(other - one >= timedelta(days=7) for one, other in pairwise(times))
    assert times[-1] < datetime(2026, 1, 16, 1, tzinfo=UTC)
    assert read_calendar(folder) == done


def test_one_that_fails_is_taken_up_again_and_given_up_at_last(folder):
    wrong = EngineError("no silo is there")
    operator = Operator(folder, failures=[wrong, wrong, None, wrong, wrong, wrong])
    done = operator.keep(calendar(retries=2))
    assert [one.state for one in done.done] == ["complete", "failed", "complete"]
    # It goes on where it was: one folder a training, so nothing is paid for twice.
    assert operator.tried == ["t0"] * 3 + ["t1"] * 3 + ["t2"]
    assert sum("failed: no silo" in line for line in operator.said) == 5
    # What a late one costs in time the next one waits.
    times = [time for _, time in operator.begun]
    assert times[2] - times[1] >= timedelta(days=7)


def test_what_was_missed_is_skipped_and_a_crash_goes_on_where_it_was(folder):
    operator = Operator(folder, failures=[KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        operator.keep(calendar(trainings=6))
    left = read_calendar(folder)
    assert (left.running, left.done) == ("t0", ())
    operator.now += timedelta(days=1)
    done = operator.keep(left, once=True)
    assert operator.tried == ["t0", "t0"] and len(operator.begun) == 1
    assert [one.training for one in done.done] == ["t0"]
    # The machine was off for three of them.
    operator.now = datetime(2026, 1, 25, tzinfo=UTC)
    done = operator.keep(done, once=True)
    assert [one.state for one in done.done] == ["complete", "skipped", "skipped", "complete"]
    # Nothing is due: a timer that looks every hour does nothing.
    assert operator.keep(done, once=True) == done
    assert "is due at" in operator.said[-1]


def test_trainings_share_what_all_of_them_may_cost(folder):
    each = epsilon_of_each(folder, 8.0, trainings=12)
    terms = folder.settings().training
    from dataclasses import replace

    from recsys_fed.catalogue.items import Catalogue

    items = Catalogue.load(folder.public / "catalogue.parquet")
    one = planned_schedule(replace(terms, epsilon=each), PublicCatalogue(n_items=items.n_items, items=items))
    assert 7.8 < epsilon_of_history(repeat(planned_events(one), 12), delta=terms.delta) <= 8.0
    with pytest.raises(ConfigurationError, match="agreed epsilon 6"):
        epsilon_of_each(folder, 20.0, trainings=2)


def test_the_command_needs_a_schedule_prints_units_and_refuses_half_of_one(folder):
    path = folder.path
    assert run_command("federation", "schedule", path, "--once")[0] == 2
    assert run_command("federation", "schedule", path, "--every-days", 7)[0] == 2
    code, out, _ = run_command("federation", "schedule", path, "--systemd")
    assert code == 0 and out == systemd_units(folder)
    assert "OnCalendar=hourly" in out and f"federation schedule {path} --once" in out
    arguments = ("--every-days", 30, "--trainings", 12, "--begin", "2999-01-01", "--epsilon-in-all", 8)
    assert run_command("federation", "schedule", path, *arguments, "--once")[0] == 0
    planned = read_calendar(folder)
    assert (planned.trainings, planned.done) == (12, ()) and 0 < planned.epsilon < 6
    code, _, err = run_command("federation", "schedule", path, "--once")
    assert code == 0 and "2999-01-01" in err
    for text in ("[]", "{", json.dumps({"begins": "x", "every_days": 1.0, "trainings": 1, "done": []})):
        (path / "schedule.json").write_text(text)
        with pytest.raises(DataFormatError, match="schedule"):
            read_calendar(folder)
    write_calendar(folder, planned)
    assert read_calendar(folder) == planned
