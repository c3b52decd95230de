"""The examples run as they stand, and stay short."""

import runpy
from pathlib import Path

import pytest

# LensKit needs another pandas than the tests: integration/test_other_environments.py runs its example.
ELSEWHERE = {"model_for_lenskit"}
EXAMPLES = sorted(
    path for path in (Path(__file__).resolve().parents[2] / "examples").glob("*.py") if path.stem not in ELSEWHERE
)
SAYS = {
    "calibrate": "Opacus counts epsilon 2.99",
    "ledger_in_your_own_flower_app": "epsilon",
    "ledger_under_opacus": "verified offline: True epsilon 1.9",
    "model_for_implicit": "federated: ndcg@10 0.",
    "own_metric_and_source": "first@20",
    "own_module": "item table only",
    "own_trainer": "bestsellers",
    "read_certificates": "everything holds",
    "recommend_from_a_data_frame": "like sku-17",
    "should_we_federate": "joining",
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", [str(path)])
    runpy.run_path(str(path), run_name="__main__")
    assert SAYS[path.stem] in capsys.readouterr().out
    assert len(path.read_text().splitlines()) <= 72


def test_all_are_tried():
    assert {path.stem for path in EXAMPLES} == set(SAYS)


def test_the_page_on_modules_shows_the_example_as_it_runs():
    example = next(path for path in EXAMPLES if path.stem == "own_module")
    page = example.parents[1] / "docs" / "torch-modules.md"
    assert f"```python\n{example.read_text()}```" in page.read_text()
