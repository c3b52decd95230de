"""`recsys-fed compare` on a small federation: lines, record, the runs behind it, picture and page."""

import numpy as np
import pytest
from command_line import json_of, run_command

from recsys_fed.comparison.compare import Comparison
from recsys_fed.config import FederationConfig, SimulationConfig
from recsys_fed.errors import ConfigurationError
from recsys_fed.simulation.runner import Simulation

BOTH = [("global, user-only", 4.0), ("global, user-only", 8.0), ("global, silo-trusted", 4.0),
        ("global, silo-trusted", 8.0)]  # fmt: skip


def table(folder, *, n_users=150, n_items=48):
    rng = np.random.default_rng(0)
    likely = np.where(np.arange(n_items) % 3 == (np.arange(n_users) % 3)[:, None], 0.5, 0.05)
    users, items = np.nonzero(rng.random((n_users, n_items)) < likely)
    path = folder / "t.csv"
    path.write_text("user,item\n" + "".join(f"{u},{i}\n" for u, i in zip(users, items, strict=True)))
    return path


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The folder, the picture and the record of a comparison of two silos, two budgets and two seeds."""
    folder = tmp_path_factory.mktemp("compared")
    arguments = ["compare", "--data", table(folder), "--silos", 2, "--noise", "distributed", "--epsilons", "8,4",
                 "--seeds", 2, "--threads", 1, "--test-fraction", 0.25, "--output", folder / "out",
                 "--plot", folder / "c.png"]  # fmt: skip
    code, out, err = run_command(*arguments, "--json")
    assert code == 0, err
    return folder, json_of(out)


def lines_of(record):
    return {(line["method"], line["epsilon"]): line for line in record["lines"]}


def test_every_method_and_budget_has_a_line(compared):
    lines = lines_of(compared[1])
    assert set(lines) == {
        ("popularity", "inf"), ("private popularity", 4.0), ("private popularity", 8.0), ("local-only", "inf"),
        *BOTH, ("global, user-only", "inf"), ("pooled EASE", "inf"), ("pooled implicit ALS", "inf"),
    }  # fmt: skip
    for line in lines.values():
        for metric in ("recall@20", "ndcg@20"):
            assert line[metric]["low"] <= line[metric]["mean"] <= line[metric]["high"]
        assert (line["std_over_seeds"]["ndcg@20"] is not None) == (line["epsilon"] != "inf")
    assert lines["pooled EASE", "inf"]["ndcg@20"]["mean"] > 1.2 * lines["popularity", "inf"]["ndcg@20"]["mean"]


def test_silos_groups_and_sentences_are_all_there(compared):
    record = compared[1]
    assert [silo["n_users"] for silo in record["silos"]] == [75, 75]
    assert [text.split(":")[0] for text in record["sentences"]] == ["silo-0", "silo-1"]
    for key, line in lines_of(record).items():
        silos = [lines_of(silo)[key]["recall@20"]["mean"] for silo in record["silos"]]
        assert np.mean(silos) == pytest.approx(line["recall@20"]["mean"], rel=1e-6)
        activity = [group["mean"] for group in line["by_activity"].values()]
        assert np.mean(activity) == pytest.approx(line["recall@20"]["mean"], rel=1e-6)
        assert all(line["by_item_popularity"].values())
    for silo in record["silos"]:
        lines = lines_of(silo)
        alone = lines["local-only", "inf"]["recall@20"]["mean"]
        for gain in silo["gains"]:
            joined = lines["global, silo-trusted", gain["epsilon"]]["recall@20"]["mean"]
            assert gain["mean"] == pytest.approx(joined - alone)


def test_each_private_model_is_a_whole_run_with_ledgers_and_certificates(compared):
    folder, record = compared
    measured = []
    for seed in (0, 1):
        run = folder / "out" / f"spectral-epsilon-4-seed-{seed}"
        code, out, err = run_command("privacy", "verify-run", run)
        assert code == 0, out + err
        found = json_of((run / "metrics.json").read_text())
        assert 3.8 < max(found["epsilon_spent"].values()) <= 4.0
        measured.append(found["metrics"]["recall@20"])
    assert measured[0] != measured[1]
    told = lines_of(record)["global, user-only", 4.0]
    assert told["recall@20"]["mean"] == pytest.approx(np.mean(measured), abs=2e-4)
    assert told["std_over_seeds"]["recall@20"] == pytest.approx(np.std(measured, ddof=1), abs=2e-4)


def test_seeds_differ_in_noise_and_not_in_data(compared):
    folder, _ = compared
    settings = [(folder / "out" / f"spectral-epsilon-8-seed-{seed}" / "config.toml").read_text() for seed in (0, 1)]
    assert ["data-seed = 0" in text for text in settings] == [True, True]
    assert ["\nseed = 1" in text for text in settings] == [False, True]


def test_the_picture_and_the_page(compared):
    folder, record = compared
    assert (folder / "c.png").read_bytes().startswith(b"\x89PNG")
    code, _, err = run_command("report", folder / "out")
    assert code == 0, err
    page = (folder / "out" / "report.html").read_text()
    assert "Should we federate?" in page
    assert all(text.replace("+", "+") in page for text in record["sentences"])
    assert f"{record['lines'][0]['recall@20']['mean']:.4f}" in page


def test_the_terminal_shows_tables_and_then_the_sentences(compared, monkeypatch):
    from recsys_fed.report.comparison import print_comparison

    monkeypatch.setenv("COLUMNS", "160")
    import io
    from contextlib import redirect_stdout

    text = io.StringIO()
    with redirect_stdout(text):
        print_comparison(compared[1])
    shown = text.getvalue()
    assert shown.index("popularity") < shown.index("pooled EASE") < shown.index("silo-0:") < shown.index("silo-1:")
    assert compared[1]["note"].capitalize() in shown and shown.rstrip().endswith(compared[1]["sentences"][-1])


NONSENSE = [["--epsilons", "8,x"], ["--epsilons", "0"], ["--epsilons", "inf"], ["--seeds", 0], ["--new-items", 1]]


@pytest.mark.parametrize("arguments", NONSENSE)
def test_nonsense_is_refused(arguments):
    code, _, err = run_command("compare", "--data", "generated:users=60,items=30,interactions=8", *arguments)
    assert code == 2
    assert "Expected" in err


def test_seeds_follow_each_other():
    simulation = Simulation(federation=FederationConfig(seed=5), data=SimulationConfig())
    assert Comparison(simulation=simulation, n_seeds=3).seeds == (5, 6, 7)
    with pytest.raises(ConfigurationError, match="n_seeds"):
        Comparison(simulation=simulation, n_seeds=0)
