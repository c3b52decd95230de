"""The results page says what its record says, and the references in it are what they are called."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from recsys_fed.errors import DataFormatError, DataNotFoundError
from recsys_fed.evaluation.baselines import ease
from simulations.results import __main__ as command
from simulations.results.measure import measure
from simulations.results.page import END, START, full_tables, replace_between_markers, short_table
from simulations.results.picture import draw
from simulations.results.points import DATA, Point, all_points, jobs

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "docs" / "results.json"


def between_markers(path: Path) -> list[str]:
    inside = path.read_text(encoding="utf-8").partition(START)[2].partition(END)[0]
    return inside.strip().splitlines()


@pytest.fixture
def record() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    return loaded


def test_figures_in_the_documentation_are_those_of_the_record(record: dict[str, Any]) -> None:
    assert between_markers(ROOT / "docs" / "results.md") == full_tables(record)
    assert between_markers(ROOT / "README.md") == short_table(record)


def test_the_record_is_complete_and_within_its_budgets(record: dict[str, Any]) -> None:
    key = ("data", "trainer", "schedule", "noise", "epsilon")
    measured = {tuple(str(line[name]) for name in key): line for line in record["points"]}
    for point in all_points():
        line = measured[tuple(str(getattr(point, name)) for name in key)]
        assert all(len(values) == len(point.seeds) for values in line["metrics"].values())
        assert float(line["epsilon_spent"]) <= float(line["epsilon"])


def test_every_seed_of_every_point_is_one_job_and_data_is_read_once_a_seed() -> None:
    runs = jobs(all_points())
    assert len(set(runs)) == len(runs) == sum(len(point.seeds) for point in all_points())
    readings = [(point.data, seed) for point, seed in runs]
    changes = sum(one != other for one, other in pairwise(readings))
    assert changes == len(set(readings)) - 1


def test_measuring_averages_over_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    small = "generated:users=200,items=80,interactions=15,groups=4"
    monkeypatch.setitem(DATA, small, "a small set")
    said: list[str] = []
    measured = measure([Point(data=small, epsilon=8.0, seeds=(0, 1))], on_run=said.append)
    (line,) = measured["points"]
    first, second = line["metrics"]["recall@20"]
    assert len(said) == 2 and first != second
    mean, deviation = (first + second) / 2, abs(first - second) / 2**0.5
    assert any(f"{mean:.3f} ± {deviation:.3f}" in row for row in full_tables(measured))
    assert measured["data"][small]["ease"]["recall@20"] > measured["data"][small]["popularity"]["recall@20"]


def test_only_what_is_between_the_markers_changes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{START}\nold\n{END}\nafter\n", encoding="utf-8")
    replace_between_markers(page, ["| new |"])
    assert page.read_text(encoding="utf-8") == f"before\n{START}\n\n| new |\n\n{END}\nafter\n"


@pytest.mark.parametrize("text", ["none", START, f"{END}\n{START}", f"{START}\n{START}\n{END}"])
def test_a_page_without_its_markers_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    with pytest.raises(DataFormatError, match="markers"):
        replace_between_markers(page, ["| new |"])
    assert page.read_text(encoding="utf-8") == text


def test_the_picture_is_a_png(record: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "images" / "picture.png"
    draw(record, path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_without_data_the_command_says_so_and_exits_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing(spec: str) -> None:
        raise DataNotFoundError(f"There is no data set at {spec!r}.")

    monkeypatch.setattr(command, "open_dataset", nothing)
    assert command.main([]) == 2
    assert "../shared/data" in capsys.readouterr().err


def test_ease_solves_its_own_least_squares_problem() -> None:
    """Column j of B minimises ||x_j - X b||^2 + lambda ||b||^2 under b_j = 0: ridge regression on the other items."""
    rng = np.random.default_rng(0)
    dense = (rng.random((60, 7)) < 0.4).astype(np.float64)
    scores = ease(sparse.csr_matrix(dense), regularization=3.0)(slice(0, 60)).numpy()
    for item in range(7):
        others = np.delete(dense, item, axis=1)
        weights = np.linalg.solve(others.T @ others + 3.0 * np.eye(6), others.T @ dense[:, item])
        np.testing.assert_allclose(scores[:, item], others @ weights, atol=1e-8)
