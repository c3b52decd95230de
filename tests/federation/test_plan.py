"""A silo answers what it derives: every scalar of a request, every table's shape, and nothing else."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from by_hand import answers
from silo_data import make_histories

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.config import FederationConfig
from recsys_fed.errors import ProtocolError
from recsys_fed.federation import plan as plan_module
from recsys_fed.federation.messages import PLAN, Greeting, Request
from recsys_fed.federation.noise_split import resolve_masking
from recsys_fed.federation.plan import MOST_ATTEMPTS, MOST_COLUMNS, check_request, derive_plan
from recsys_fed.federation.schedule import advance, begin, request

N_ITEMS, SILOS = 40, 3
CATALOGUE = Catalogue(
    item_ids=np.array([f"sku-{n}" for n in range(N_ITEMS)], dtype=object),
    titles=tuple(f"Title {n % 7} ({1950 + n})" for n in range(N_ITEMS)),
)
BASE = FederationConfig(silos=SILOS, declared_users=90, embedding_dim=3, epsilon=4.0, secure_aggregation="off")
CONFIGS = {
    "spectral": replace(BASE, embedding_dim=0),
    "spectral, no features": replace(BASE, item_features=False),
    "auto": replace(BASE, trainer="auto", embedding_dim=0),
    "popularity": replace(BASE, trainer="popularity"),
    "dp-sgd": replace(BASE, trainer="dp-sgd", rounds=4),
    "dp-sgd, adaptive": replace(BASE, trainer="dp-sgd", rounds=4, dp_sgd={"clipping": "adaptive"}),
    "dp-sgd, sampled": replace(BASE, trainer="dp-sgd", rounds=4, dp_sgd={"sampling_probability": 0.5}),
    "dp-sgd, local": replace(BASE, trainer="dp-sgd", rounds=3, dp_sgd={"schedule": "local", "local_steps": 2}),
    "distributed": replace(BASE, noise="distributed"),
    "masked": replace(BASE, secure_aggregation="on"),
    "without noise": replace(BASE, epsilon=math.inf),
}


def requests_of(config: FederationConfig) -> list[Request]:
    """What a server asks for in a whole training with such silos."""
    greeting = Greeting(silo="server", catalogue_hash=CATALOGUE.content_hash, n_items=N_ITEMS)
    schedule = begin(config, greeting, CATALOGUE)
    silos = [make_histories(30, N_ITEMS, seed=seed) for seed in range(SILOS)]
    asked = []
    while schedule.round < len(schedule.stages):
        asked.append(request(schedule))
        unmasked = replace(schedule, config=replace(config, secure_aggregation="off"))
        schedule = replace(advance(unmasked, request(unmasked), answers(unmasked, silos)), config=config)
    return asked


@pytest.fixture(scope="module", params=CONFIGS.values(), ids=CONFIGS)
def training(request):
    config = resolve_masking(request.param, simulated=True)
    return config, requests_of(config)


def test_every_request_of_an_honest_server_is_part_of_the_plan(training):
    """Whatever was released before: the plan knows nothing of it."""
    config, asked = training
    assert len(derive_plan(config, CATALOGUE).requests) == len(asked)
    for one in asked:
        check_request(one, config, CATALOGUE)


def other(value):
    """Values of the same type that are not this one, near and far."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value + 2**20, *([value - 1] if value > 1 else [])]
    if isinstance(value, float):
        near = [value * (1 + 1e-5), value * (1 - 1e-5), value / 2] if value and math.isfinite(value) else [0.5]
        return [item for item in (*near, 1e-12, 1e-300, 1e300) if item != value]
    if isinstance(value, tuple):
        return [(value[0] + 1, value[1]), (value[1], value[0] + 1), (0, 0)]
    return ["", f"{value}x"]


def test_a_request_that_differs_in_any_scalar_is_refused(training):
    config, asked = training
    tried = 0
    for one in asked:
        for field in fields(Request):
            if field.name in ("tables", "settings", "round", "attempt", "epsilon"):
                continue
            for value in other(getattr(one, field.name)):
                try:
                    changed = replace(one, **{field.name: value})
                except (ValueError, ProtocolError):
                    continue  # no request at all
                tried += 1
                with pytest.raises(ProtocolError):
                    check_request(changed, config, CATALOGUE)
    assert tried > 20 * len(asked)


def test_a_request_of_another_round_or_attempt_is_refused(training):
    config, asked = training
    last = asked[-1]
    most = MOST_ATTEMPTS if last.masked else 1
    check_request(replace(last, attempt=most - 1), config, CATALOGUE)
    for changed in (replace(last, round=len(asked)), replace(last, attempt=most), replace(last, round=10**9)):
        with pytest.raises(ProtocolError):
            check_request(changed, config, CATALOGUE)
    if len(asked) > 1 and asked[0].stage != last.stage:
        with pytest.raises(ProtocolError):
            check_request(replace(last, round=0), config, CATALOGUE)


def test_settings_are_those_of_the_plan(training):
    config, asked = training
    for one in asked:
        changes = [one.settings | {"more": 1.0}]
        for name, value in one.settings.items():
            changes += [one.settings | {name: changed} for changed in (*other(value), math.inf, -value - 1)]
            changes.append({key: kept for key, kept in one.settings.items() if key != name})
        for settings in changes:
            with pytest.raises(ProtocolError):
                check_request(replace(one, settings=settings), config, CATALOGUE)


def hostile_tables(name: str, table: torch.Tensor):
    """The table in other types and shapes, with other rows, or not finite."""
    yield table.double() if table.is_floating_point() else table.int()
    yield table[:-1]
    yield torch.cat([table, table[-1:]])
    yield table[None]
    yield table.flatten()[:0]
    if table.is_floating_point():
        for value in (math.nan, math.inf, -math.inf):
            yield table.index_fill(0, torch.tensor([0]), value)
        return
    yield table.flip(0)
    yield table - 1 if int(table[0]) == 0 else table - N_ITEMS
    yield table + N_ITEMS
    yield table.index_fill(0, torch.tensor([0]), int(table[1]))
    yield table.index_fill(0, torch.tensor([-1]), N_ITEMS)


def test_tables_are_checked_completely(training):
    config, asked = training
    for one in asked:
        tables = dict(one.tables)
        changes = [tables | {"more": torch.zeros(1)}, *({**tables, name: None} for name in tables)]
        changes += [
            tables | {name: changed} for name, table in tables.items() for changed in hostile_tables(name, table)
        ]
        for changed in changes:
            kept = {name: table for name, table in changed.items() if table is not None}
            with pytest.raises(ProtocolError):
                check_request(replace(one, tables=kept), config, CATALOGUE)


def test_a_models_columns_are_free_but_few():
    config = resolve_masking(BASE, simulated=True)
    metrics = requests_of(config)[-1]
    assert metrics.stage == "metrics"
    for columns, good in ((1, True), (7, True), (MOST_COLUMNS, True), (0, False), (MOST_COLUMNS + 1, False)):
        asked = replace(metrics, tables=dict(metrics.tables) | {"vectors": torch.zeros(N_ITEMS, columns)})
        if good:
            check_request(asked, config, CATALOGUE)
        else:
            with pytest.raises(ProtocolError, match="shape"):
                check_request(asked, config, CATALOGUE)


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 4.0])
def test_a_training_may_cost_less_than_was_agreed(epsilon):
    config = resolve_masking(BASE, simulated=True)
    for one in requests_of(replace(config, epsilon=epsilon)):
        check_request(one, config, CATALOGUE)


def test_a_training_may_not_cost_more_or_say_another_price_than_its_noise_has():
    config = resolve_masking(BASE, simulated=True)
    cheap, dear = requests_of(replace(config, epsilon=2.0))[0], requests_of(replace(config, epsilon=5.0))[0]
    for asked in (dear, replace(dear, epsilon=4.0), replace(cheap, epsilon=1.0), replace(cheap, epsilon=math.inf)):
        with pytest.raises(ProtocolError):
            check_request(asked, config, CATALOGUE)


@pytest.mark.parametrize("epsilon", [1e-9, 1e-300, 3.99999])
def test_a_price_that_cannot_be_planned_is_refused_and_not_an_accident(epsilon):
    config = resolve_masking(BASE, simulated=True)
    asked = replace(requests_of(config)[0], epsilon=epsilon)
    with pytest.raises(ProtocolError):
        check_request(asked, config, CATALOGUE)


def test_another_version_of_the_plan_is_refused_with_both_names():
    config = resolve_masking(BASE, simulated=True)
    asked = replace(requests_of(config)[0], plan="2.7")
    with pytest.raises(ProtocolError, match=rf"plan {PLAN}, as this silo does, got one that computes plan '2\.7'"):
        check_request(asked, config, CATALOGUE)


def test_figures_that_another_processor_rounds_are_the_same_plan():
    """To a part in a million, and what is charged is what was asked for."""
    config = resolve_masking(BASE, simulated=True)
    asked = requests_of(config)[0]
    check_request(replace(asked, noise_multiplier=asked.noise_multiplier * (1 - 1e-9)), config, CATALOGUE)
    with pytest.raises(ProtocolError, match="noise_multiplier"):
        check_request(replace(asked, noise_multiplier=asked.noise_multiplier * (1 - 1e-5)), config, CATALOGUE)


def test_plans_are_kept_and_few(monkeypatch):
    monkeypatch.setattr(plan_module, "_plans", {})
    config = resolve_masking(BASE, simulated=True)
    assert derive_plan(config, CATALOGUE) is derive_plan(config, CATALOGUE)
    for number in range(20):
        derive_plan(replace(config, epsilon=1.0 + number / 10), CATALOGUE)
    assert len(plan_module._plans) <= 8
