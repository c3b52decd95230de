"""A trainer in a package of somebody's own: found by its entry point, by every door, and held to its promise."""

import json
import os
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
from command_line import run_in_a_child
from own_package import EXAMPLES, install_own_trainer, path_with

from recsys_fed import Dataset, Federation, PopularItems, Trainer
from recsys_fed.config import FederationConfig, parse
from recsys_fed.errors import ConfigurationError
from recsys_fed.extensions import register
from recsys_fed.testing import ConformanceError, check_trainer
from recsys_fed.trainers.registry import configured_trainer, make_trainer

sys.path.insert(0, str(EXAMPLES))
from own_trainer import Bestsellers

DATA = "generated:users=60,items=30,interactions=8"


@pytest.fixture
def package(tmp_path):
    """An environment in which a package with the trainer of the example is installed."""
    install_own_trainer(tmp_path)
    return os.environ | {"PYTHONPATH": path_with(tmp_path, EXAMPLES.parent)}


SIMULATE = ["simulate", "--data", DATA, "--silos", "2", "--no-secure-aggregation", "--json"]


def test_the_command_line_finds_it_with_its_settings(package, tmp_path):
    output = tmp_path / "run"
    own = [*SIMULATE, "--trainer", "bestsellers"]
    (tmp_path / "s.toml").write_text('trainer = "bestsellers"\n[bestsellers]\npower = 0.75\n')
    lines = [
        [*own, "--set", "bestsellers.power=0.75", "--output", output],
        # The run's own settings repeat it, and a table of a scenario says the same.
        [*SIMULATE, output / "config.toml"],
        [*SIMULATE, tmp_path / "s.toml"],
        [*own, "--set", "bestsellers.height=1"],
    ]
    (*done, refused), errors = run_in_a_child(lines, env=package)
    assert [code for code, _ in (*done, refused)] == [0, 0, 0, 2], errors.decode()
    assert "Expected a key of [bestsellers]" in errors.decode()
    run = Federation(DATA, silos=2).train(Bestsellers(power=0.75))
    assert (output / "item_embeddings.safetensors").read_bytes() == (
        run.folder / "item_embeddings.safetensors"
    ).read_bytes()
    for _, record in done:
        assert (json.loads(record)["trainer"], json.loads(record)["metrics"]) == ("bestsellers", run.metrics)


def test_settings_are_checked_by_their_types():
    register("recsys_fed.trainers", "bestsellers", Bestsellers)
    keys = {"trainer": "bestsellers", "bestsellers.power": "much"}
    with pytest.raises(ConfigurationError, match=r"power of type float in \[bestsellers\]"):
        configured_trainer(parse(FederationConfig, keys))
    for keys in (
        {"bestsellers.power": 0.75},
        {"trainer-settings": "power = 0.75"},
        {"trainer-settings": '{"power": 0.75}'},
    ):
        assert configured_trainer(parse(FederationConfig, {"trainer": "bestsellers", **keys})) == Bestsellers(
            power=0.75
        )
    with pytest.raises(ConfigurationError, match="JSON or"):
        parse(FederationConfig, {"trainer": "bestsellers", "trainer-settings": "power is large"})


@pytest.mark.soak
def test_flowers_engine_finds_it_in_its_own_processes(package):
    own = [*SIMULATE, "--trainer", "bestsellers", "--set", "bestsellers.power=0.75", "--engine", "flower"]
    ((code, record),), errors = run_in_a_child([own], env=package)
    assert code == 0, errors.decode()
    assert json.loads(record)["metrics"] == Federation(DATA, silos=2).train(Bestsellers(power=0.75)).metrics


@pytest.mark.parametrize("trainer", [Bestsellers(), PopularItems()], ids=lambda t: t.name)
def test_trainers_that_keep_their_promise_pass(trainer):
    check_trainer(trainer)


def broken(**changes):
    return type("Broken", (Bestsellers,), {"name": "broken", **changes})()


def _counted_whole(self, stage, tables, histories, *, settings):
    return Bestsellers(power=0.0).contribution(stage, tables, histories, settings=settings)


def _by_block(self, stage, tables, histories, *, settings):
    found = [Bestsellers().contribution(stage, tables, block, settings=settings) for block in histories.blocks()]
    return sum(found[1:], found[0]) / max(1, len(found)) if found else 0


def _by_place(self, stage, tables, histories, *, settings):
    total = Bestsellers().contribution(stage, tables, histories, settings=settings) / 2
    for block in histories.blocks():
        total[block.items[: int(block.starts[1])]] *= 0.5
        break
    return total


@pytest.mark.parametrize(
    ("trainer", "what"),
    [
        (Bestsellers(power=0.25), "clip norm"),
        (broken(contribution=_counted_whole), "clip norm"),
        (broken(contribution=_by_block), "blocks|silo without users"),
        (broken(contribution=_by_place), "order of users"),
        (broken(name=""), "has a name"),
    ],
    ids=["weights too large", "not clipped", "depends on blocks", "depends on order", "no name"],
)
def test_trainers_that_break_it_are_found_out(trainer, what):
    with pytest.raises((ConformanceError, AttributeError, TypeError), match=what):
        check_trainer(trainer)


def test_an_object_needs_a_name_of_its_own():
    @dataclass(frozen=True)
    class Impostor(Bestsellers):
        name: ClassVar[str] = "spectral"

    with pytest.raises(ConfigurationError, match="name of its own"):
        Federation(DATA, silos=2).train(Impostor())
    with pytest.raises(ConfigurationError, match="worstsellers"):
        make_trainer("worstsellers")
    assert issubclass(Bestsellers, Trainer)
    assert isinstance(Dataset.open(DATA), Dataset)
