"""The last round of a run: the silos measure the released model on what they have held out, as a noisy sum.

It is a stage like any other, so it is calibrated, charged, made noisy and summed like any other.
"""

from collections.abc import Mapping

import torch
from scipy import sparse

from recsys_fed.config import FederationConfig
from recsys_fed.errors import ConfigurationError, DataFormatError, ProtocolError
from recsys_fed.evaluation.metric_sums import metric_sums
from recsys_fed.evaluation.metrics import HEADLINE_NAMES
from recsys_fed.models.histories import UserHistories
from recsys_fed.models.items import FoldIn, ItemEmbeddings
from recsys_fed.privacy.calibration import SMALLEST_EPSILON
from recsys_fed.privacy.events import PlannedRelease
from recsys_fed.trainers.trainer import Layout, Stage, TableLayout, Tables

STAGE = "metrics"
SHAPE = (1 + len(HEADLINE_NAMES), 1)
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


def metrics_layout(n_items: int) -> Layout:
    """The shapes of the round: the model's length of vectors is free, as public features may decide it."""
    vectors = TableLayout(dtype=torch.float32, shape=(n_items, None))
    column = TableLayout(dtype=torch.float32, shape=(n_items,))
    return Layout(shape=SHAPE, tables={"vectors": vectors, "bias": column, "history_weights": column})


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
) -> torch.Tensor:
    """Silo: see `metric_sums`; raises ProtocolError if the tables are no model of this catalogue."""
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
    return metric_sums(model, histories, test, l2_clip_norm=settings["l2_clip_norm"])
