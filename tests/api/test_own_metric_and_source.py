"""A metric and a source in a package of somebody's own: found by entry points, passed as objects, and tried."""

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import run_in_a_child

from recsys_fed import Dataset, Federation, Metric, PopularItems
from recsys_fed.errors import ConfigurationError
from recsys_fed.evaluation.metrics import METRICS, choose_metrics, name_metrics
from recsys_fed.testing import ConformanceError, check_metric, check_source

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))
from own_metric_and_source import BASKETS, FIRST, write_baskets  # noqa: E402

CASES = [([[True, False], [False, False]], [1, 1], 2, [1.0, 0.0])]
BY_HAND = {
    "recall": [([[True, False, True]], [4], 3, [0.5]), ([[False, True]], [1], 1, [0.0])],
    "ndcg": [([[True, True]], [2], 2, [1.0]), ([[False, True]], [1], 2, [0.6309297535714575])],
    "hr": [([[False, True], [False, False]], [3, 1], 2, [1.0, 0.0])],
}


@pytest.fixture
def package(tmp_path):
    """An environment in which a package with the metric and the source of the example is installed."""
    shutil.copyfile(EXAMPLES / "own_metric_and_source.py", tmp_path / "own_shop.py")
    info = tmp_path / "own_shop-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-shop\nVersion: 1.0\n")
    points = "[recsys_fed.metrics]\nfirst = own_shop:FIRST\n[recsys_fed.sources]\nshop = own_shop:BASKETS\n"
    (info / "entry_points.txt").write_text(points)
    paths = [str(tmp_path), str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def test_the_command_line_finds_both_and_the_api_takes_objects(package, tmp_path):
    path = write_baskets(tmp_path / "a.baskets")
    flags = ["--silos", "2", "--trainer", "popularity", "--no-secure-aggregation", "--json", "--metrics", "first"]
    lines = [["simulate", "--data", spec, *flags] for spec in (path, f"shop:{path}")]
    done, errors = run_in_a_child(lines, env=package)
    assert [code for code, _ in done] == [0, 0], errors.decode()
    records = [json.loads(record)["metrics"] for _, record in done]
    run = Federation(Dataset.open(path, source=BASKETS), silos=2).train(PopularItems(), metrics=[FIRST])
    assert records == [run.metrics, run.metrics]
    assert run.metrics["first@20"] == run.metrics["first@10"] and 0 < run.metrics["first@20"] <= 1
    assert {"recall@20", "ndcg@20", "hr@10"} <= run.metrics.keys()


def test_names_that_nobody_brings_are_refused():
    with pytest.raises(ConfigurationError, match="Expected metrics to be one of"):
        choose_metrics("second")
    with pytest.raises(ConfigurationError, match="own name"):
        name_metrics([replace(FIRST, name="recall")])


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_the_metrics_of_this_library_keep_to_it(metric):
    check_metric(metric, cases=BY_HAND[metric.name])


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (lambda hits, n, k: hits[:, :1].any(1).float(), "float64"),
        (lambda hits, n, k: 2.0 * hits[:, :1].any(1).double(), r"it is \[2.0"),
        (lambda hits, n, k: hits[:, : max(k, 2)].any(1).double(), "places only"),
        (lambda hits, n, k: hits[:, :1].any(1).double() * hits[:1, 0].sum(), "do not|does not depend"),
        (lambda hits, n, k: torch.where(n > 20, 2.0, hits[:, :1].any(1).double()), "from 0 to 1"),
    ],
)
def test_metrics_that_break_a_promise_are_refused(values, what):
    with pytest.raises(ConformanceError, match=what):
        check_metric(Metric("broken", values), cases=CASES)
    check_metric(FIRST, cases=CASES)


def test_sources_that_break_a_promise_are_refused(tmp_path):
    path = tmp_path / "small.baskets"
    path.write_text("ada: tea milk\nbob: tea\n")
    rows = [("ada", "tea", None, None), ("ada", "milk", None, None), ("bob", "tea", None, None)]
    check_source(BASKETS, path, rows=rows)
    calls = []

    def changing(request):
        calls.append(request)
        found = BASKETS.read(request)
        return replace(found, interactions=found.interactions.select(found.interactions.item >= len(calls) - 1))

    for broken, expected, what in (
        (BASKETS, rows[::-1], "row 0"),
        (BASKETS, rows[:2], "2 rows"),
        (BASKETS, [("ada", "tea", 2.0, None), *rows[1:]], "value"),
        (BASKETS, [("ada", "tea", None, 5), *rows[1:]], "time"),
        (replace(BASKETS, matches=lambda path: True), rows, "alone"),
        (replace(BASKETS, read=changing), rows, "twice"),
    ):
        with pytest.raises(ConformanceError, match=what):
            check_source(broken, path, rows=expected)
