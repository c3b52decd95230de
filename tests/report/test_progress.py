"""Progress where nobody watches a terminal: plain lines, few of them, and the newest is never lost in a pause."""

import io
import time

from recsys_fed.report.console import _PlainLines, new_console, show_progress


def test_a_line_a_pause_and_the_newest_of_those_within_it():
    written = []
    lines = _PlainLines(lambda line: written.append((time.monotonic(), line)), pause=0.2)
    for number in range(5):
        lines.tell(f"step {number}")
    assert [line for _, line in written] == ["step 0"]
    time.sleep(0.4)
    lines.tell("step 4")
    assert [line for _, line in written] == ["step 0", "step 4"]
    assert written[1][0] - written[0][0] >= 0.19


def test_what_waits_when_the_command_ends_is_not_said_after_it():
    written = []
    lines = _PlainLines(written.append, pause=0.1)
    lines.tell("first")
    lines.tell("second")
    lines.close()
    time.sleep(0.2)
    assert written == ["first"]


def test_steps_and_rounds_are_plain_lines_and_notes_all_come_through(monkeypatch):
    monkeypatch.setattr("recsys_fed.report.console.PAUSE", 0.0)
    out = io.StringIO()
    with show_progress(new_console(file=out, width=40)) as progress:
        progress.step(2, 12, "training [red]: a name that is longer than the console is wide")
        time.sleep(0.01)
        progress.say("one")
        progress.say("two")
    assert out.getvalue().splitlines() == [
        "step 2 of 12: training [red]: a name that is longer than the console is wide", "one", "two",
    ]  # fmt: skip


def test_rounds_count_once_all_silos_have_begun_to_answer():
    told = []
    out = io.StringIO()
    with show_progress(new_console(file=out)) as progress:
        progress.releases(4, 12, 3)
        told = out.getvalue()
    assert told.strip().endswith("round 2 of 4")
