"""Every scenario file parses into a valid run, says what it is for, and runs (on little data)."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recsys_fed.config import FederationConfig, SimulationConfig, parse, read_toml
from recsys_fed.simulation.flower_engine import scenario_path
from recsys_fed.simulation.runner import Simulation, simulate

SCENARIOS = sorted((Path(__file__).resolve().parents[2] / "simulations" / "scenarios").glob("*.toml"))
SMALL = "generated:users=240,items=80,interactions=15,groups=4"


def run_of(path: Path) -> tuple[FederationConfig, SimulationConfig]:
    keys = read_toml(path)
    return parse(FederationConfig, keys), parse(SimulationConfig, keys)


def on_little_data(config: FederationConfig, data: SimulationConfig) -> Simulation:
    """The same run with little of everything: at most six silos and three rounds."""
    settings: dict[str, Any] = dict(config.dp_sgd)
    if "local_steps" in settings:
        settings["local_steps"] = 2
    rounds = 3 if config.trainer == "dp-sgd" else 0
    small = replace(config, silos=min(config.silos, 6), rounds=rounds, dp_sgd=settings, threads=1, device="cpu")
    return Simulation(federation=small, data=replace(data, data=SMALL))


def test_there_are_scenarios() -> None:
    assert {path.stem for path in SCENARIOS} >= {"quickstart", "ml-1m", "hundred-silos", "taste-skewed"}


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_a_scenario_is_found_by_name_and_starts_with_what_it_is_for(path: Path) -> None:
    assert scenario_path(path.stem).samefile(path)
    assert path.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_a_scenario_runs_and_keeps_its_budget(path: Path) -> None:
    config, data = run_of(path)
    simulation = on_little_data(config, data)
    record: Any = simulate(simulation)
    assert record["refused"] == []
    assert len(record["epsilon_spent"]) == simulation.federation.silos
    for spent in record["epsilon_spent"].values():
        assert 0.97 * config.epsilon <= spent <= config.epsilon
    assert math.isfinite(record["metrics"]["recall@20"])


def test_the_dp_sgd_scenarios_cover_both_schedules() -> None:
    schedules = {config.dp_sgd.get("schedule") for config, _ in map(run_of, SCENARIOS) if config.trainer == "dp-sgd"}
    assert schedules == {"synchronous", "local"}
