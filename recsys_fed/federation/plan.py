"""What a silo answers: the plan that it derives by itself, and what a request must be to belong to it.

A server is not trusted. From the settings that a silo agreed to and the public catalogue the silo computes every
request of a training, in order: stages, shapes, noise, grid, clip norm, sampling, steps, settings. What a server
sends must equal that in every scalar. Three things are the server's to decide, and each is bounded here:

    epsilon of the training    above 0 and at most the agreed one; all else follows from it
    tables                     names, types and shapes of the plan, finite, rows of the catalogue strictly ascending
    attempt                    of a masked round; each is charged

Which training it is, and how many there may be, is the ledger's to check (`ledger.budget.Allowance`), and so is that
rounds never go back. All checks here read public data only: they come before any private data is touched, and their
errors may leave the silo.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from threading import Lock

import torch

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.config import FederationConfig, flat
from recsys_fed.errors import ProtocolError, RecsysFedError
from recsys_fed.federation.messages import PLAN, Greeting, Request
from recsys_fed.federation.schedule import begin, layout_of, planned_request
from recsys_fed.trainers.trainer import Layout, TableLayout

# Two processors may round a calibrated figure differently. What is charged is what is used, see `release_event`.
CALIBRATED = 1e-6
MOST_ATTEMPTS = 100
# Columns of a table whose columns are free, a bound on a silo's memory.
MOST_COLUMNS = 4_096
# What is compared by itself, or not at all.
_APART = {"plan", "epsilon", "round", "attempt", "tables", "settings", "noise_multiplier", "catalogue_hash"}
# Settings that follow from a calibrated noise multiplier.
_CALIBRATED_SETTINGS = {"count_share"}
_KEPT_PLANS = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class _Plan:
    """A training as a silo derives it.

    Attributes:
        requests: one a round, without tables.
        layouts: of each round's contribution and tables.
        n_items: of the catalogue.
        catalogue_hash: of the catalogue.
    """

    requests: tuple[Request, ...]
    layouts: tuple[Layout, ...]
    n_items: int
    catalogue_hash: str


_plans: dict[tuple[object, ...], _Plan] = {}
_deriving = Lock()


def derive_plan(config: FederationConfig, catalogue: Catalogue, *, with_features: bool = True) -> _Plan:
    """The plan of a training with the settings of `config`, its epsilon among them.

    Args:
        config: settled, see `noise_split.resolve_masking`.
        catalogue: the public one.
        with_features: whether the server has the catalogue's public columns too.

    Raises:
        ConfigurationError, PrivacyError: there is no such training, see `schedule.begin`.
    """
    key = (*sorted(flat(config).items()), catalogue.content_hash, with_features)
    with _deriving:
        if key not in _plans:
            while len(_plans) >= _KEPT_PLANS:
                _plans.pop(next(iter(_plans)))
            _plans[key] = _derive(config, catalogue, with_features=with_features)
        return _plans[key]


def _derive(config: FederationConfig, catalogue: Catalogue, *, with_features: bool) -> _Plan:
    agreed = Greeting(silo="plan", catalogue_hash=catalogue.content_hash, n_items=catalogue.n_items)
    schedule = begin(config, agreed, catalogue if with_features else None)
    rounds = range(len(schedule.stages))
    return _Plan(
        requests=tuple(planned_request(schedule, number) for number in rounds),
        layouts=tuple(layout_of(schedule, number) for number in rounds),
        n_items=catalogue.n_items,
        catalogue_hash=catalogue.content_hash,
    )


def check_plan_version(version: str) -> None:
    """Refuse a server that computes another plan; names both versions.

    Raises:
        ProtocolError: the versions differ.
    """
    if version != PLAN:
        raise ProtocolError(
            f"Expected a server that computes plan {PLAN}, as this silo does, got one that computes plan "
            f"{version!r:.40}. Install the same version of recsys-fed on the server and in every silo."
        )


def _training_config(config: FederationConfig, request: Request, catalogue: Catalogue) -> FederationConfig:
    """The settings of the training that a request is part of: the agreed ones with the request's epsilon.

    Raises:
        ProtocolError: another version of the plan, another catalogue, or an epsilon above the agreed one.
    """
    check_plan_version(request.plan)
    if request.catalogue_hash != catalogue.content_hash:
        raise ProtocolError(
            f"Expected a request about the catalogue {catalogue.content_hash[:12]}, got "
            f"{request.catalogue_hash!r:.40}. Agree on one catalogue."
        )
    if not request.epsilon <= config.epsilon:
        raise ProtocolError(
            f"Expected a training of at most the agreed epsilon {config.epsilon:g}, got {request.epsilon:g}."
        )
    return replace(config, epsilon=request.epsilon)


def check_request(
    request: Request, config: FederationConfig, catalogue: Catalogue, *, with_features: bool = True
) -> None:
    """Refuse what is not part of the plan; `config` is what the silo agreed to, settled.

    Guarantees: reads the request, the settings and the catalogue, nothing private.

    Raises:
        ProtocolError: it names what differs.
    """
    settings = _training_config(config, request, catalogue)
    try:
        plan = derive_plan(settings, catalogue, with_features=with_features)
    except RecsysFedError as error:
        raise ProtocolError(f"Expected a training that can be planned: {error}") from error
    if not request.round < len(plan.requests):
        raise ProtocolError(f"Expected one of the {len(plan.requests)} rounds of the plan, got {request.round}.")
    _check_scalars(request, plan.requests[request.round])
    _check_tables(request.tables, plan.layouts[request.round].tables, n_items=plan.n_items)


def _check_scalars(request: Request, planned: Request) -> None:
    for name in (field.name for field in fields(Request) if field.name not in _APART):
        _equal(name, getattr(planned, name), getattr(request, name))
    _close("noise_multiplier", planned.noise_multiplier, request.noise_multiplier)
    _equal("settings", sorted(planned.settings), sorted(request.settings))
    for name, value in planned.settings.items():
        compare = _close if name in _CALIBRATED_SETTINGS else _equal
        compare(f"setting {name}", value, request.settings[name])
    most = MOST_ATTEMPTS if planned.masked else 1
    if not request.attempt < most:
        raise ProtocolError(f"Expected an attempt below {most}, got {request.attempt}.")


def _check_tables(tables: Mapping[str, torch.Tensor], layout: Mapping[str, TableLayout], *, n_items: int) -> None:
    _equal("tables", sorted(layout), sorted(tables))
    for name, expected in layout.items():
        table = tables[name]
        _equal(f"type of table {name}", str(expected.dtype), str(table.dtype))
        _check_shape(name, expected.shape, tuple(table.shape))
        if table.is_floating_point():
            if not bool(table.isfinite().all()):
                raise ProtocolError(f"Expected finite values in table {name}, got NaN or infinity.")
        elif len(table):
            ascending = bool((table.diff() > 0).all()) and int(table[0]) >= 0 and int(table[-1]) < n_items
            if not ascending:
                raise ProtocolError(f"Expected rows of the catalogue in table {name}, each once and ascending.")


def _check_shape(name: str, expected: tuple[int | None, ...], got: tuple[int, ...]) -> None:
    fits = len(expected) == len(got) and all(
        size == wanted if wanted is not None else 1 <= size <= MOST_COLUMNS
        for wanted, size in zip(expected, got, strict=True)
    )
    if not fits:
        raise ProtocolError(f"Expected table {name} of shape {expected}, got {got}.")


def _equal(name: str, planned: object, got: object) -> None:
    if type(planned) is not type(got) or planned != got:
        raise ProtocolError(
            f"Expected {name} {planned!r:.80} of the agreed plan, got {got!r:.80}. "
            "Compare the terms of the federation with [agreed] in silo.toml."
        )


def _close(name: str, planned: float, got: float) -> None:
    if not (type(got) is float and math.isclose(planned, got, rel_tol=CALIBRATED, abs_tol=0.0)):
        _equal(name, planned, got)
