"""The last round of a run: the silos measure the released model on what they have held out, as a noisy sum.

It is a stage like any other, so it is calibrated, charged, made noisy and summed like any other.

Where the federation names groups of users by an attribute (`metric-groups = "gender:F,M"`), the sums are those of
`metric_sums` for each group, and for all others, one below the other. The groups are public; who is in which is
looked up in the silo by the user's own rows (`data.readers.users`).

Guarantees: a user is in one group, and adds to its sums alone what the user would add to those of all. So the L2
sensitivity of all sums together is that of one group's, l2_clip_norm, and noise and charge are those without groups.
What is said of all users is the sum over g groups, with sqrt(g) times the noise.
"""

from collections.abc import Mapping
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from recsys_fed.config import FederationConfig, user_weights_of
from recsys_fed.errors import ConfigurationError, DataFormatError, ProtocolError
from recsys_fed.evaluation.metric_sums import metric_sums, metrics_from_sums
from recsys_fed.evaluation.metrics import HEADLINE_NAMES
from recsys_fed.federation.distributed import rows_of_share
from recsys_fed.models.histories import UserHistories
from recsys_fed.models.items import FoldIn, ItemEmbeddings
from recsys_fed.privacy.calibration import SMALLEST_EPSILON
from recsys_fed.privacy.events import PlannedRelease
from recsys_fed.trainers.trainer import Layout, Stage, TableLayout, Tables

STAGE = "metrics"
_ROWS = 1 + len(HEADLINE_NAMES)
# Of the settings of a request that name a group, and hold its number.
_GROUP = "metric-groups."
# Of the run's epsilon, unless the configuration says otherwise: noise on the model grows by 0.1%.
DEFAULT_SHARE = 0.05
_TABLES = {"vectors", "bias", "history_weights"}


def metrics_epsilon(config: FederationConfig) -> float:
    """What the metrics alone may cost; 0 if no metric leaves a silo.

    Raises:
        ConfigurationError: they would take the whole budget.
    """
    if config.metrics_epsilon < 0 and config.target == "rating":
        # What silos report are metrics of rankings, which predicted ratings are not made for.
        return 0.0
    if config.metrics_epsilon < 0:
        share = DEFAULT_SHARE * config.epsilon
        return share if share >= SMALLEST_EPSILON else 0.0
    if config.metrics_epsilon >= config.epsilon and config.metrics_epsilon > 0:
        raise ConfigurationError(
            f"Expected metrics_epsilon below epsilon = {config.epsilon:g}, got {config.metrics_epsilon:g}: nothing "
            "would be left for the model."
        )
    return config.metrics_epsilon


def metrics_release(relative_noise: float = 1.0) -> PlannedRelease:
    """What the round releases."""
    return PlannedRelease(released="metric sums", relative_noise=relative_noise)


def metrics_stage(*, relative_noise: float) -> Stage:
    """The round; its tables and settings follow from the model, once there is one."""
    return Stage(name=STAGE, release=metrics_release(relative_noise))


def metrics_layout(n_items: int, config: FederationConfig) -> Layout:
    """The shapes of the round: the model's length of vectors is free, as public features may decide it."""
    vectors = TableLayout(dtype=torch.float32, shape=(n_items, None))
    column = TableLayout(dtype=torch.float32, shape=(n_items,))
    shape = (_ROWS * (1 + len(group_settings(config))), 1)
    return Layout(shape=shape, tables={"vectors": vectors, "bias": column, "history_weights": column})


def group_settings(config: FederationConfig) -> dict[str, float]:
    """The groups as settings of a request, `metric-groups.ATTRIBUTE.VALUE`; none without any."""
    attribute, values = user_weights_of(config.metric_groups)
    return {f"{_GROUP}{attribute}.{value}": float(number) for number, value in enumerate(values)}


def model_tables(model: ItemEmbeddings) -> Tables:
    """Server: the model as the tables of a request."""
    return {name: getattr(model, name) for name in sorted(_TABLES)}


def fold_in_settings(how: FoldIn) -> dict[str, float]:
    """The model's fold-in as the settings of a request."""
    return {"ridge": float(how.kind == "ridge"), **{k: v for k, v in how.record().items() if k != "kind"}}


def contribute_metrics(
    tables: Tables,
    histories: UserHistories,
    test: sparse.csr_matrix | None,
    *,
    settings: Mapping[str, float],
    catalogue_hash: str,
    groups: npt.NDArray[np.float64] | None = None,
) -> torch.Tensor:
    """Silo: see `metric_sums`, and the module for `groups`, the number of each user's [n_users].

    Raises:
        ProtocolError: the tables are no model of this catalogue.
        ConfigurationError: nobody looked up the groups that are asked for.
    """
    if tables.keys() != _TABLES or len(tables["vectors"]) != histories.n_items:
        raise ProtocolError(f"Expected the tables {sorted(_TABLES)} of a model of this catalogue, got others.")
    try:
        fold_in = FoldIn(
            kind="ridge" if settings["ridge"] else "projection",
            unobserved_weight=settings["unobserved_weight"],
            regularization=settings["regularization"],
            half_life=settings.get("half_life", 0.0),
            half_life_days=settings.get("half_life_days", 0.0),
        )
        model = ItemEmbeddings(
            vectors=tables["vectors"],
            bias=tables["bias"],
            history_weights=tables["history_weights"],
            fold_in=fold_in,
            catalogue_hash=catalogue_hash,
        )
    except (KeyError, ConfigurationError, DataFormatError) as error:
        raise ProtocolError(f"Expected a model to measure: {error}") from error
    measure, named = partial(metric_sums, model, l2_clip_norm=settings["l2_clip_norm"]), _named(settings)
    if not named:
        return measure(histories, test)
    if groups is None or len(groups) != histories.n_users:
        raise ConfigurationError("Expected the group of each user by metric-groups, got something else.")
    parts = []
    for number in range(1 + len(named)):
        inside = groups == number
        some = histories.subset(torch.from_numpy(inside).to(histories.device))
        # Of several ranks the first measures its own users.
        own = inside[rows_of_share(len(inside))]
        parts.append(measure(some, None if test is None else test[own]))
    return torch.cat(parts)


def _named(settings: Mapping[str, float]) -> list[str]:
    return [name for name in settings if name.startswith(_GROUP)]


def metrics_of(
    total: torch.Tensor, config: FederationConfig, *, noise_std: float, l2_clip_norm: float
) -> dict[str, Mapping[str, float]]:
    """Server: each metric over all users and, as "ndcg@20, gender F", over those of each group; see the module.

    Those of a group whose number of users is not well above its noise are left out.
    """
    parts = total[:, 0].double().view(-1, _ROWS, 1)
    read = partial(metrics_from_sums, l2_clip_norm=l2_clip_norm)
    found = read(parts.sum(0), noise_std=noise_std * len(parts) ** 0.5)
    names = [name.removeprefix(_GROUP).replace(".", " ", 1) for name in group_settings(config)]
    for name, part in zip(names, parts, strict=False):
        found |= {f"{metric}, {name}": value for metric, value in read(part, noise_std=noise_std).items()}
    return found
