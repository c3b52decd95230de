"""Benchmarks compare like with like: their answers agree, and a bar that is broken says so. Nothing is timed."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from simulations.benchmarks import __main__ as command
from simulations.benchmarks.engines import in_process_ms, write_app
from simulations.benchmarks.line import Line
from simulations.benchmarks.ways_to_clip import Problem, random_problem, rank_one, with_hooks, without_clipping


@pytest.fixture
def problem() -> Problem:
    return random_problem(n_items=50, n_users=20, dim=6, history=8)


def test_rank_one_and_hooks_sum_the_same_clipped_gradients(problem: Problem) -> None:
    torch.testing.assert_close(rank_one(problem).float(), with_hooks(problem), rtol=1e-4, atol=1e-5)


def test_clipping_changes_the_sum_of_the_benchmark(problem: Problem) -> None:
    """Otherwise the three ways would agree whether they clip or not."""
    assert without_clipping(problem).norm() > 2 * rank_one(problem).norm()


@pytest.mark.parametrize(
    ("value", "bar", "holds"), [(1.0, 2.0, True), (2.0, 2.0, False), (math.nan, 2.0, False), (5.0, None, None)]
)
def test_a_line_holds_below_its_bar(value: float, bar: float | None, holds: bool | None) -> None:
    line = Line(name="x", value=value, unit="ms", bar=bar)
    assert line.holds is holds
    assert line.to_dict().keys() == {"name", "value", "unit", "bar", "holds"}


def test_the_idle_apps_run_in_process() -> None:
    assert in_process_ms(silos=2, rounds=2) > 0


def test_the_idle_apps_are_a_flower_app_folder(tmp_path: Path) -> None:
    folder = write_app(tmp_path / "app")
    assert {path.name for path in (folder / "idle").iterdir()} == {"__init__.py", "app.py"}
    assert 'serverapp = "idle.app:server_app"' in (folder / "pyproject.toml").read_text(encoding="utf-8")


def test_the_command_writes_all_lines_and_fails_on_a_broken_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: dict[str, Any] = {
        "good": lambda: [Line(name="a", value=1.0, unit="ms", bar=2.0)],
        "bad": lambda: [Line(name="b", value=3.0, unit="ms", bar=2.0), Line(name="c", value=1.0, unit="s")],
    }
    monkeypatch.setattr(command, "BENCHMARKS", lines)
    monkeypatch.setattr(command, "LATEST", tmp_path / "results" / "latest.json")
    assert command.main(["good"]) == 0
    assert command.main(["bad", "good"]) == 1
    written = json.loads((tmp_path / "results" / "latest.json").read_text(encoding="utf-8"))
    assert {"date", "machine", "versions"} < written.keys()
    assert written["machine"]["cores"] >= 1
    assert [(line["name"], line["holds"]) for line in written["lines"]] == [("a", True), ("b", False), ("c", None)]


def test_one_that_fails_is_named_and_takes_no_figures_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> list[Line]:
        raise TimeoutError("after 5 s")

    good: dict[str, Any] = {name: lambda name=name: [Line(name=name, value=1.0, unit="s")] for name in "ac"}
    monkeypatch.setattr(command, "BENCHMARKS", {"a": good["a"], "b": broken, "c": good["c"]})
    monkeypatch.setattr(command, "LATEST", tmp_path / "latest.json")
    assert command.main([]) == 1
    written = json.loads((tmp_path / "latest.json").read_text(encoding="utf-8"))
    assert [line["name"] for line in written["lines"]] == ["a", "c"]
    assert written["failed"] == ["b"]
    assert written["seconds"].keys() == {"a", "b", "c"}
    assert "b failed after" in capsys.readouterr().err
