"""`privacy plan` and `simulate-budget`: figures that hold in a run, the reverse, ledgers, exit codes, pictures."""

import sys

import pytest
from command_line import json_of, run_command

SIZE = ["--silos", 2, "--declared-users", 90, "--n-items", 30]


def plan(*arguments):
    code, out, err = run_command("privacy", "plan", *arguments, "--json")
    return code, json_of(out) if out else err


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    run_command(
        "privacy", "create", folder / "l.sqlite", "--key", folder / "k", "--silo", "s", "--epsilon", 4,
        "--declared-users", 90, "--delta", "1e-5", "--max-silos-per-user", 2,
    )  # fmt: skip
    return folder / "l.sqlite"


def test_a_plan_is_what_a_run_then_does(tmp_path):
    data = ["--data", "generated:users=90,items=30,interactions=8", "--silos", 2, "--threads", 1]
    code, out, _ = run_command("simulate", *data, "--epsilon", 2, "--json", "--output", tmp_path)
    assert code == 0
    done = json_of(out)
    # Its public features decide how many rounds there are.
    _, planned = plan("--epsilon", 2, *SIZE, "--catalogue", tmp_path / "catalogue.parquet")
    assert done["noise_multiplier"] == planned["noise_multiplier"]
    assert done["rounds"] == planned["rounds"]
    assert done["epsilon_spent"]["silo-0"] == pytest.approx(planned["run"]["epsilon"], rel=1e-9)


def test_noise_and_epsilon_are_each_others_reverse():
    _, there = plan("--epsilon", 3, *SIZE)
    _, back = plan("--noise-multiplier", there["noise_multiplier"], *SIZE)
    assert back["run"]["epsilon"] == pytest.approx(3, rel=0.01)
    assert back["epsilon_of_a_run"] == pytest.approx(back["run"]["epsilon"], rel=1e-3)
    code, _, err = run_command("privacy", "plan", "--noise-multiplier", 2, "--epsilon", 2)
    assert (code, "Expected one of --epsilon and --noise-multiplier" in err) == (2, True)


def test_every_accountant_speaks_and_the_largest_tight_one_counts():
    run = plan("--epsilon", 2, *SIZE)[1]["run"]
    assert run["epsilon"] == max(run["epsilon_pld"], run["epsilon_prv"]) <= 2 < run["epsilon_rdp"]


def test_equal_runs_share_a_budget():
    _, record = plan("--epsilon", 4, "--runs", 9, *SIZE)
    assert 0.99 * 4 <= record["all_runs"]["epsilon"] <= 4
    assert 4 / 9 < record["epsilon_of_a_run"] < 4
    _, alone = plan("--epsilon", record["epsilon_of_a_run"], *SIZE)
    assert alone["noise_multiplier"] == record["noise_multiplier"]


def test_a_ledger_says_whether_it_fits_and_how_often(ledger):
    code, record = plan("--epsilon", 1, "--silos", 2, "--n-items", 30, "--ledger", ledger)
    assert code == 0
    # The terms of the ledger are those of the plan.
    assert (record["delta"], record["max_silos_per_user"], record["declared_users"]) == (1e-5, 2, 90)
    found = record["ledger"]
    assert found["fits"]
    assert found["runs_that_fit"] > 4
    n = found["runs_that_fit"]
    code, record = plan("--epsilon", 5, "--silos", 2, "--n-items", 30, "--ledger", ledger)
    assert (code, record["ledger"]["fits"], record["ledger"]["runs_that_fit"]) == (1, False, 0)
    code, out, _ = run_command("privacy", "simulate-budget", ledger, "--epsilon-per-run", 1, "--silos", 2, "--json")
    assert (code, json_of(out)["runs_that_fit"]) == (0, n)


def test_people_get_words(ledger):
    code, out, _ = run_command("privacy", "plan", "--epsilon", 2, *SIZE, "--ledger", ledger)
    assert code == 0
    for part in ("a count is off by about", "of the 90 declared ones", "PLD", "PRV", "RDP", "would fit", "subspace"):
        assert part in out
    _, local = plan(*SIZE, "--trainer", "dp-sgd", "--set", "dp-sgd.schedule=local", "--set", "dp-sgd.local-steps=7")
    assert (local["stages"][1]["steps"], local["stages"][1]["noise_on_sum_if_distributed"]) == (7, None)
    assert run_command("privacy", "plan", "--set", "no-such-key=1")[0] == 2


def test_a_masked_plan_says_its_modulus(ledger):
    code, record = plan("--epsilon", 2, *SIZE, "--silos", 5, "--secure-aggregation")
    assert code == 0
    assert record["secure_aggregation"] == {"threshold": 5, "colluding": 1}
    for stage in record["stages"]:
        assert stage["modulus"]["bits"] <= 40
        assert stage["modulus"]["overflow_probability"] < 1e-9
        assert stage["modulus"]["noise_of_grid"] < 0.01
        assert stage["noise_on_sum"] == pytest.approx(stage["noise_on_sum_if_distributed"] * (5 / 4) ** 0.5, rel=1e-3)
    assert record["uncounted_silos"] == {"silos": 1, "noise_factor": pytest.approx((5 / 4) ** 0.5)}
    out = run_command("privacy", "plan", "--epsilon", 2, *SIZE, "--silos", 5, "--secure-aggregation")[1]
    assert "5 of 5 silos must stay" in out
    assert "does not fit with probability below" in out
    assert "the noise of 1 of the silos is not counted" in out
    assert "noise on the sum is 11.8% more for it" in out
    assert plan("--epsilon", 2, *SIZE, "--silos", 5)[1]["secure_aggregation"] is None


def test_a_budget_over_time(tmp_path):
    arguments = ["--epsilon-per-run", 2, "--until", 5, "--every", "2 weeks", "--start", "2026-01-05"]
    code, out, _ = run_command("privacy", "simulate-budget", *arguments, "--json", "--plot", tmp_path / "budget.png")
    record = json_of(out)
    runs = record["runs"]
    assert code == 0
    assert [run["date"] for run in runs[:3]] == ["2026-01-05", "2026-01-19", "2026-02-02"]
    assert [run["fits"] for run in runs] == [True] * record["runs_that_fit"] + [False]
    assert record["runs_that_fit"] > 5 / 2
    assert (tmp_path / "budget.png").read_bytes().startswith(b"\x89PNG")
    assert "refused" in run_command("privacy", "simulate-budget", *arguments)[1]


def test_runs_that_do_not_fit_are_exit_code_1_and_mistakes_2():
    fixed = ["--noise-multiplier", 3, "--until", 2]
    assert run_command("privacy", "simulate-budget", *fixed, "--runs", 1)[0] == 0
    assert run_command("privacy", "simulate-budget", *fixed, "--runs", 9)[0] == 1
    for wrong in (["--every", "soon"], ["--start", "31.1.2026"], ["--until", "inf"], ["--runs", "0"]):
        code, out, err = run_command("privacy", "simulate-budget", *fixed[:2], *wrong)
        assert (code, out, "Traceback" in err) == (2, "", False), wrong


def test_without_matplotlib_a_picture_is_refused_with_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = run_command("privacy", "simulate-budget", "--runs", 1, "--plot", tmp_path / "x.png")
    assert (code, "recsys-fed[plots]" in err) == (2, True)


def test_a_plan_for_years_says_noise_cost_and_expected_quality_of_each_training():
    code, found = plan("--epsilon", 4, *SIZE, "--schedule", "quarterly", "--years", 1.5, "--delta", "1e-5")
    assert code == 0 and found["trainings"] == len(found["each"]) == 6
    costs, expected = ([one[name] for one in found["each"]] for name in ("epsilon_in_all", "expected"))
    assert costs == sorted(costs) and 0.985 * 4 <= costs[-1] <= 4
    assert expected == sorted(expected) and found["cold"] == expected[0] < expected[-1] <= 1
    # What is left after half of them buys one training with the noise of three.
    half = next(rest for rest in found["rest"] if rest["done"] == 3)
    assert half["noise_multiplier_of_one"] == pytest.approx(found["each"][3]["noise_multiplier"] / 3**0.5)
    assert plan("--epsilon", 4, *SIZE, "--schedule", "daily")[0] == 2
    assert plan("--epsilon", 4, *SIZE, "--schedule", "monthly", "--runs", 2)[0] == 2
