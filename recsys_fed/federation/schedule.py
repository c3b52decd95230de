"""The server's half of a run: plan, calibrate, ask, step. Pure computation; `server` moves the messages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from recsys_fed.catalogue.features import public_features
from recsys_fed.catalogue.items import Catalogue
from recsys_fed.config import FederationConfig, half_lives_of
from recsys_fed.errors import ConfigurationError, PrivacyError, ProtocolError
from recsys_fed.federation._public_users import check_public_users, histories_of_public_users, with_public_users
from recsys_fed.federation.aggregation import in_unit_of, noise_factor, noise_on_total, robust_total, total_of
from recsys_fed.federation.messages import Greeting, Request, Update, check_update
from recsys_fed.federation.metrics_round import STAGE as METRICS_STAGE
from recsys_fed.federation.metrics_round import (
    fold_in_settings,
    group_settings,
    metrics_epsilon,
    metrics_layout,
    metrics_of,
    metrics_release,
    metrics_stage,
    model_tables,
)
from recsys_fed.federation.noise_split import masking_of, share_of_silo
from recsys_fed.federation.user_weights import check_weights, weight_settings
from recsys_fed.models.histories import Histories
from recsys_fed.models.items import FoldIn, ItemEmbeddings, favour_rare_items
from recsys_fed.privacy.calibration import calibrate_noise_multiplier
from recsys_fed.privacy.events import PlannedRelease, events_of
from recsys_fed.privacy.guarantee import Guarantee, check_delta, guarantee_of
from recsys_fed.privacy.integer_mechanism import ROUNDING_SLACK, grid_step
from recsys_fed.trainers import ordered
from recsys_fed.trainers.pooling import ReleasedTable, released_table
from recsys_fed.trainers.registry import configured_trainer
from recsys_fed.trainers.trainer import EarlierTraining, Layout, PublicFacts, Stage, Trainer

# Half-life of a history in positions where the next item is asked for; chosen on validation items (docs/order.md).
RECENCY = 5.0
_FEATURES: WeakKeyDictionary[Catalogue, dict[str, sparse.csr_matrix | None]] = WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True, eq=False)
class Schedule:
    """A run between two rounds: what is agreed, what is done, what comes next.

    Attributes:
        config: of the federation.
        trainer: its server half is used here.
        facts: public facts that the plan follows from.
        stages: one a round.
        noise_multiplier: base of the plan, calibrated for all rounds together; 0 for epsilon = inf.
        state: of the trainer.
        public_users: of the catalogue, whose histories help every sum; see `_public_users`.
        fold_in: how the model folds in users; the trainer's settings decide it, not what is released.
        round: the next one, from 0.
        metrics: what the silos measured on the model, as noisy means over all silos' users.
        releases: what later trainings may pool, so far.
    """

    config: FederationConfig
    trainer: Trainer
    facts: PublicFacts
    stages: tuple[Stage, ...]
    noise_multiplier: float
    state: Any
    fold_in: FoldIn
    public_users: Histories | None = None
    round: int = 0
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    releases: tuple[ReleasedTable, ...] = ()


def agree(greetings: Sequence[Greeting], catalogue: Catalogue | None) -> Greeting:
    """The catalogue that all silos and, where it has one, the server hold.

    Raises:
        ProtocolError: somebody holds another one, or two silos have one name; names the silos.
    """
    if not greetings:
        raise ProtocolError("Expected at least one silo, got none.")
    names = [greeting.silo for greeting in greetings]
    if len(set(names)) < len(names):
        raise ProtocolError(f"Expected silos with names of their own, got {', '.join(sorted(names))}.")
    expected = greetings[0]
    if catalogue is not None:
        expected = Greeting(silo="server", catalogue_hash=catalogue.content_hash, n_items=catalogue.n_items)
    wanted = (expected.catalogue_hash, expected.n_items)
    others = [g.silo for g in greetings if (g.catalogue_hash, g.n_items) != wanted]
    if others:
        raise ProtocolError(
            f"Expected one catalogue everywhere, silos {', '.join(others)} hold another than {expected.silo}. "
            "Give every silo the same catalogue: `recsys-fed silo update --agree` fetches the federation's."
        )
    return expected


def begin(
    config: FederationConfig,
    agreed: Greeting,
    catalogue: Catalogue | None,
    *,
    trainer: Trainer | None = None,
    earlier: Sequence[EarlierTraining] = (),
) -> Schedule:
    """Plan the rounds and calibrate their noise before anything is asked of anybody.

    Args:
        config: of the federation.
        agreed: the catalogue that all silos hold.
        catalogue: its public columns, where the server has them.
        trainer: in place of the one that the configuration names, such as one with sizes set by hand.
        earlier: what so many trainings have released, where the server has it; see `kept_releases.read_earlier`.

    Raises:
        ConfigurationError: settings that do not go together.
        PrivacyError: delta is not small enough for the declared users, or no noise reaches the target.
    """
    check_delta(config.delta, n_users=config.declared_users)
    trainer = trainer or configured_trainer(config)
    facts = replace(_facts(config, agreed, catalogue), earlier=tuple(earlier))
    stages = trainer.plan(facts)
    if facts.order and config.trainer != "auto" and ordered.STAGE not in {stage.name for stage in stages}:
        raise ConfigurationError(
            f"Expected order = off (or auto) with the trainer {config.trainer}, which reads none, got {config.order}."
        )
    split = config.noise == "distributed" or masking_of(config) is not None
    if split and any(stage.noise_inside for stage in stages):
        raise ConfigurationError(
            "Expected noise = per-silo with the local schedule, and secure-aggregation = off: noise of local steps "
            "cannot be split over silos. Use dp-sgd.schedule = synchronous."
        )
    metrics_noise = _metrics_noise(config)
    noise_multiplier = _calibrate([stage.release for stage in stages], config, metrics_noise=metrics_noise)
    if metrics_noise is not None:
        relative = metrics_noise / noise_multiplier if noise_multiplier else 1.0
        stages = (*stages, metrics_stage(relative_noise=relative))
    state = trainer.start(facts, np.random.default_rng([config.seed, 0]))
    # Refuses here, before anything is asked of a silo.
    begun = favour_rare_items(trainer.item_embeddings(state), config.long_tail)
    public_users = None if catalogue is None else histories_of_public_users(catalogue)
    check_weights(config, stages, public_users=public_users is not None)
    if public_users is not None:
        check_public_users(stages, trainer)
    return Schedule(
        config=config,
        trainer=trainer,
        facts=facts,
        stages=stages,
        noise_multiplier=noise_multiplier,
        state=state,
        fold_in=_with_recency(begun.fold_in, config),
        public_users=public_users,
    )


def _facts(config: FederationConfig, agreed: Greeting, catalogue: Catalogue | None) -> PublicFacts:
    features = None if catalogue is None or not config.item_features else _features(catalogue, config.feature_kinds)
    return PublicFacts(
        n_items=agreed.n_items,
        catalogue_hash=agreed.catalogue_hash,
        declared_users=config.declared_users,
        declared_interactions=config.declared_interactions,
        silos=config.silos,
        noise_level=_noise_level(config),
        features=features,
        embedding_dim=config.embedding_dim,
        rounds=config.rounds,
        next_item=config.target == "next",
        order=_positions(half_lives_of(config.order, name="order", days=False)),
        earlier_trainings=config.earlier_trainings,
    )


def request(schedule: Schedule) -> Request:
    """What every silo is asked for in the next round."""
    stage = schedule.stages[schedule.round]
    if stage.name == METRICS_STAGE:
        tables = model_tables(item_embeddings(schedule))
    else:
        tables = schedule.trainer.tables(schedule.state, stage)
    return replace(planned_request(schedule, schedule.round), tables=tables)


def planned_request(schedule: Schedule, number: int) -> Request:
    """The request of round `number` without its tables: it follows from public facts alone, whatever was released."""
    stage, config = schedule.stages[number], schedule.config
    noise_multiplier = schedule.noise_multiplier * stage.release.relative_noise
    shape = layout_of(schedule, number).shape
    metrics = stage.name == METRICS_STAGE
    share, masking = share_of_silo(config), masking_of(config)
    return Request(
        epsilon=config.epsilon,
        earlier_trainings=config.earlier_trainings,
        round=number,
        trainer=config.trainer,
        stage=stage.name,
        released=stage.release.released,
        tables={},
        settings=fold_in_settings(schedule.fold_in) | group_settings(config)
        if metrics
        else {name: float(value) for name, value in stage.settings.items()} | weight_settings(config),
        shape=shape,
        noise_multiplier=noise_multiplier,
        l2_clip_norm=stage.l2_clip_norm,
        sampling_probability=stage.release.sampling_probability,
        steps=stage.release.steps,
        noise_share=share,
        noise_inside=stage.noise_inside,
        grid_step=grid_step(
            noise_multiplier=noise_multiplier * share**0.5,
            l2_clip_norm=stage.l2_clip_norm,
            declared_users=schedule.facts.declared_users_of_silo,
            entries=max(1, shape[0] * shape[1]),
            steps=stage.release.steps if stage.noise_inside else 1,
        ),
        catalogue_hash=schedule.facts.catalogue_hash,
        threshold=masking.threshold if masking else 0,
        colluding=masking.colluding if masking else 0,
    )


def layout_of(schedule: Schedule, number: int) -> Layout:
    """The public shapes of round `number`."""
    stage = schedule.stages[number]
    if stage.name == METRICS_STAGE:
        return metrics_layout(schedule.facts.n_items, schedule.config)
    return schedule.trainer.layout(schedule.facts, stage)


def advance(schedule: Schedule, asked: Request, updates: Sequence[Update]) -> Schedule:
    """The run after a round whose answers are not masked.

    Raises:
        ProtocolError: an update does not answer the request, or none came.
        PrivacyError: noise was to be split over all silos and some did not answer.
    """
    for update in updates:
        check_update(update, asked)
    if asked.noise_share < 1 and len(updates) < schedule.config.silos:
        raise PrivacyError(
            f"Expected all {schedule.config.silos} silos to add their share of the noise, got {len(updates)}: "
            "the sum has less noise than was promised and is not used. Use noise = per-silo, or try again."
        )
    config, noise_std = schedule.config, noise_on_total(asked, len(updates))
    if config.robust == "none":
        return _step(schedule, asked, total_of(updates, asked), noise_std=noise_std)
    total = robust_total(updates, asked, kind=config.robust, trim=config.trim)
    factor = noise_factor(len(updates), kind=config.robust, trim=config.trim)
    return _step(schedule, asked, total, noise_std=factor * noise_std)


def advance_by_sum(schedule: Schedule, asked: Request, integers: npt.NDArray[np.int64], *, n_silos: int) -> Schedule:
    """The run after a masked round: the unmasked sum of `n_silos` silos' integers."""
    return _step(schedule, asked, in_unit_of(integers, asked), noise_std=noise_on_total(asked, n_silos))


def _step(schedule: Schedule, asked: Request, total: torch.Tensor, *, noise_std: float) -> Schedule:
    """What is divided by is the public number of all silos, whoever has answered."""
    stage, n_silos = schedule.stages[schedule.round], schedule.config.silos
    after = replace(schedule, round=schedule.round + 1)
    if stage.name == METRICS_STAGE:
        found = metrics_of(total, schedule.config, noise_std=noise_std, l2_clip_norm=asked.l2_clip_norm)
        return replace(after, metrics=found)
    if stage.kept:
        table = released_table(stage.name, total, noise_std=noise_std, tables=asked.tables)
        after = replace(after, releases=(*schedule.releases, table))
    if schedule.public_users is not None and noise_std:
        public = schedule.trainer.contribution(
            stage.name,
            asked.tables,
            schedule.public_users,
            settings=dict(asked.settings) | {"l2_clip_norm": asked.l2_clip_norm},
        )
        total, noise_std = with_public_users(
            total, noise_std, public=public, users=schedule.public_users.n_users,
            declared_users=schedule.facts.declared_users, l2_clip_norm=asked.l2_clip_norm,
        )  # fmt: skip
    state = schedule.trainer.step(schedule.state, stage, total, noise_std=noise_std, n_silos=n_silos)
    return replace(after, state=state)


def item_embeddings(schedule: Schedule) -> ItemEmbeddings:
    """The global model as it stands."""
    model = replace(schedule.trainer.item_embeddings(schedule.state), fold_in=schedule.fold_in)
    return favour_rare_items(model, schedule.config.long_tail)


def _positions(half_lives: tuple[float, float] | None) -> float | None:
    return None if half_lives is None else half_lives[0]


def _with_recency(how: FoldIn, config: FederationConfig) -> FoldIn:
    """With the half-life that was asked for; by the rule that of the trainer or, for the next item, RECENCY."""
    asked = half_lives_of(config.recency, name="recency", days=True)
    if asked is None:
        asked = (RECENCY if config.target == "next" else 0.0, 0.0)
        if how.reads or asked == (0.0, 0.0):
            return how
    return replace(how, half_life=asked[0], half_life_days=asked[1])


def _features(catalogue: Catalogue, kinds: str) -> sparse.csr_matrix | None:
    """The public features of a catalogue, made once for as long as it is held."""
    kept = _FEATURES.setdefault(catalogue, {})
    if kinds not in kept:
        kept[kinds] = public_features(catalogue, kinds=kinds.split(","))
    return kept[kinds]


def _calibrate(
    plan: Sequence[PlannedRelease], config: FederationConfig, *, metrics_noise: float | None = None
) -> float:
    """The base noise multiplier at which a user who is in as many silos as allowed has spent epsilon."""
    return _calibrated(tuple(_with_slack(plan)), guarantee_of(config), metrics_noise)


@lru_cache(maxsize=64)
def _calibrated(plan: tuple[PlannedRelease, ...], guarantee: Guarantee, metrics_noise: float | None) -> float:
    """Once for each plan: trainings of a sequence share theirs."""
    fixed = [] if not metrics_noise else events_of(_with_slack([metrics_release()]), metrics_noise)
    return calibrate_noise_multiplier(
        guarantee.over_silos(plan),
        epsilon=guarantee.epsilon,
        delta=guarantee.delta,
        fixed=guarantee.over_silos(fixed),
    )


def _metrics_noise(config: FederationConfig) -> float | None:
    """The noise multiplier at which the metrics alone cost what they may; None if no metric leaves a silo."""
    epsilon = metrics_epsilon(config)
    if not epsilon:
        if config.metric_groups:
            raise ConfigurationError(
                "Expected metrics-epsilon above 0, and interactions that are held out, for metric-groups: no metric "
                "leaves a silo."
            )
        return None
    everywhere = guarantee_of(config).over_silos(_with_slack([metrics_release()]))
    return calibrate_noise_multiplier(everywhere, epsilon=epsilon, delta=config.delta)


def _with_slack(plan: Sequence[PlannedRelease]) -> list[PlannedRelease]:
    """The plan with what rounding each sum to the grid costs in delta."""
    return [replace(release, slack=release.steps * ROUNDING_SLACK) for release in plan]


def _noise_level(config: FederationConfig) -> float:
    single = [PlannedRelease(released="a single release")]
    noise_multiplier = _calibrate(single, config)
    return float(noise_multiplier * (config.silos * share_of_silo(config)) ** 0.5)
