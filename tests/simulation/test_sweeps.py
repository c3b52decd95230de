"""Sweeps: one guarantee for all trials, chosen by what silos were charged for, and refused before it is too much."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import run_command

from recsys_fed import Dataset, Federation, Run
from recsys_fed.errors import ConfigurationError
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.verification import verification_record
from recsys_fed.privacy.accounting import epsilon_of_history
from recsys_fed.privacy.events import ReleaseEvent
from recsys_fed.simulation.sweep import Range, Sweep, read_space

pytest.importorskip("optuna")
DATA, SPACE = (
    "generated:users=500,items=40,interactions=10",
    {"embedding-dim": [3, 6], "rounds": Range(low=3, high=4)},
)


def swept(output, **more):
    federation = Federation(Dataset.open(DATA), silos=2)
    return federation.sweep(SPACE, "spectral", output=output, trials=3, epsilon=9.0, **more)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    output = tmp_path_factory.mktemp("sweeps") / "sweep"
    return output, swept(output)


def events_of(output, silo):
    lines = [
        json.loads(line) for path in output.glob("trial-*/events.jsonl") for line in path.read_text().splitlines()
    ]
    return [
        ReleaseEvent.from_dict({k: v for k, v in line.items() if k not in ("silo", "payload")})
        for line in lines
        if line["silo"] == silo
    ]


def test_the_ledgers_hold_the_composition_of_all_trials(sweep):
    output, record = sweep
    assert len(record["trials"]) == 3
    assert record["refused"] is None
    for silo in ("silo-0", "silo-1"):
        events = events_of(output, silo)
        checked = verification_record(str(output / "ledgers" / silo / "ledger.sqlite"))
        assert checked["holds"]
        assert checked["releases"] == len(events)
        for accountant in ("pld", "prv"):
            together = epsilon_of_history(events, delta=1e-6, accountant=accountant)
            assert checked["spending"][f"epsilon_{accountant}"] == pytest.approx(together)
            assert record["spending"][f"epsilon_{accountant}"] == pytest.approx(together)
    assert record["trials"][-1]["epsilon_in_all"] == record["spending"]["epsilon"]
    assert record["epsilon_of_a_trial"] < record["spending"]["epsilon"] <= 9.0
    assert record["spending"]["epsilon"] > 0.97 * 9.0, "and the budget is used"


def test_noisy_charged_metrics_of_the_validation_part_choose(sweep):
    output, record = sweep
    values = {}
    for trial in record["trials"]:
        run = Run.load(output / f"trial-{trial['trial']}")
        reported = run.record["private_metrics"].get("ndcg@20", {}).get("value")
        assert trial["value"] == reported
        assert trial["value"] not in run.metrics.values(), "the exact metrics are not looked at"
        assert run.record["protocol"]["held_out"] == "validation"
        assert run.verify().holds
        values[trial["trial"]] = reported
    best = max((trial for trial, value in values.items() if value is not None), key=values.get)
    assert record["best"]["trial"] == best
    assert json.loads((output / "sweep.json").read_text()) == record


def test_trials_have_noise_of_their_own(sweep):
    output, _ = sweep
    seeds = {Run.load(output / f"trial-{number}").record["seed"] for number in range(3)}
    assert len(seeds) == 3


def test_the_trial_that_would_exceed_a_limit_is_refused_and_nothing_is_charged_for_it(sweep, tmp_path):
    _, whole = sweep
    limit = (whole["trials"][1]["epsilon_in_all"] + whole["trials"][2]["epsilon_in_all"]) / 2
    record = swept(tmp_path / "limited", limit=limit)
    assert [trial["settings"] for trial in record["trials"]] == [one["settings"] for one in whole["trials"][:2]]
    assert record["refused"]["trial"] == 2
    assert record["refused"]["settings"] == whole["trials"][2]["settings"]
    assert record["refused"]["would_spend"] == pytest.approx(whole["spending"]["epsilon"], rel=1e-6)
    assert record["spending"]["epsilon"] == record["trials"][-1]["epsilon_in_all"] < limit
    assert not (tmp_path / "limited" / "trial-2").exists()
    ledger = Ledger.open(str(tmp_path / "limited" / "ledgers" / "silo-0" / "ledger.sqlite"))
    assert ledger.releases() == len(events_of(tmp_path / "limited", "silo-0"))
    assert record["best"] is not None


def test_a_limit_below_the_first_trial_releases_nothing(tmp_path):
    data = ["--data", DATA, "--silos", 2, "--trainer", "spectral", "--output", tmp_path]
    code, out, _ = run_command("sweep", *data, "--epsilon-limit", 0.5, "--space", "rounds=3,4", "--trials", 2)
    assert code == 1
    assert "trial 0 was refused" in out
    assert not (tmp_path / "ledgers").exists()


@pytest.mark.parametrize("key", ["epsilon", "silos", "data", "held-out", "declared-users", "seed", "metrics-epsilon"])
def test_the_promise_and_the_data_are_not_searched(key):
    with pytest.raises(ConfigurationError, match="the same in every trial"):
        Sweep(space={key: [1, 2]})


def test_what_is_no_space_is_refused(tmp_path):
    for text in ("rounds=3..x", "rounds=4..3"):
        with pytest.raises(ConfigurationError):
            read_space([text])
    for space in ({}, {"rounds": []}, {"rouns": [3]}):
        with pytest.raises(ConfigurationError):
            Sweep(space=space)
    file = tmp_path / "space.toml"
    file.write_text('rounds = [3, 4]\n[dp-sgd]\nmomentum = "0.1..0.9"\n')
    assert read_space([str(file), "trainer=spectral"]) == {
        "rounds": [3, 4],
        "dp-sgd.momentum": Range(low=0.1, high=0.9),
        "trainer": ["spectral"],
    }


def test_a_sweep_without_metrics_or_in_the_folder_of_another_is_refused(sweep, tmp_path):
    with pytest.raises(ConfigurationError, match="already"):
        swept(sweep[0])
    with pytest.raises(ConfigurationError, match="report metrics"):
        swept(tmp_path, metrics_epsilon=0.0)


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from test_sweeps import swept
from recsys_fed.simulation.runner import Progress
first = []
def count(done, planned, silos):
    first.extend([done] * (done == 1))
    if len(first) == 2 and done >= 4:  # in the second trial
        os.kill(os.getpid(), signal.SIGKILL)
swept(sys.argv[2], progress=Progress(releases=count))
"""


def test_killed_within_a_trial_it_ends_as_it_would_have_and_charges_nothing_twice(sweep, tmp_path):
    (whole, record), place, here = sweep, tmp_path / "sweep", Path(__file__).resolve().parent
    paths = os.pathsep.join([str(here.parent), *sys.path])
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, here, place], env=os.environ | {"PYTHONPATH": paths}, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert (place / "trial-0").is_dir() and not (place / "trial-1").exists()
    with pytest.raises(ConfigurationError, match="sweep that was begun"):
        swept(place, delta=1e-7)
    assert swept(place) == record
    for number in range(3):
        name = f"trial-{number}/item_embeddings.safetensors"
        assert (place / name).read_bytes() == (whole / name).read_bytes()
    ledgers = [one / "ledgers" / "silo-0" / "ledger.sqlite" for one in (whole, place)]
    assert len({Ledger.open(str(ledger)).releases() for ledger in ledgers}) == 1
