"""A real run with canaries in its data: the same apps, engine, ledgers and messages as any other, overheard."""

import logging
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from recsys_fed.audit.canaries import crafted_canaries
from recsys_fed.audit.mechanisms.mechanism import Mechanism
from recsys_fed.audit.placement import Placed, place
from recsys_fed.audit.transcript import Round, Wiretap
from recsys_fed.catalogue.items import Catalogue
from recsys_fed.config import FederationConfig, SimulationConfig, Value, flat
from recsys_fed.data.simulated import simulated_federation
from recsys_fed.federation.inprocess import run_in_process
from recsys_fed.federation.messages import Greeting
from recsys_fed.federation.metrics_round import STAGE as METRICS_STAGE
from recsys_fed.federation.noise_split import resolve_masking
from recsys_fed.federation.planning import PublicCatalogue, planned_schedule, stages_of
from recsys_fed.federation.release import SiloUsers
from recsys_fed.federation.run_files import EMBEDDINGS
from recsys_fed.federation.schedule import begin
from recsys_fed.models.histories import histories_of
from recsys_fed.models.items import ItemEmbeddings, load_item_embeddings
from recsys_fed.simulation.apps import load_apps
from recsys_fed.simulation.progress import Progress, ReleaseCounter
from recsys_fed.simulation.runner import one_digit
from recsys_fed.trainers.popularity import contribute_counts
from recsys_fed.trainers.registry import configured_trainer

_CATALOGUE, _DATA, _RUN = "catalogue.parquet", "data", "run"


@dataclass(frozen=True, kw_only=True, eq=False)
class AuditedRun:
    """A finished run with canaries.

    Attributes:
        config: as the run's silos agreed on it.
        placed: users and canaries.
        rounds: what was asked and seen.
        model: what it ended with.
        folder: with the run's events and certificates.
    """

    config: FederationConfig
    placed: Placed
    rounds: tuple[Round, ...]
    model: ItemEmbeddings
    folder: Path

    def users(self, *, canaries: bool) -> list[SiloUsers]:
        """Every silo's users, with the canaries that are in or without any."""
        train, test = self.placed.federation.train, self.placed.federation.test
        rows = self.placed.federation.users_of_silo if canaries else self.placed.others
        return [SiloUsers(histories=histories_of(train[some]), test=test[some]) for some in rows]


def canary_data(
    config: FederationConfig,
    data: SimulationConfig,
    *,
    count: int,
    withhold: int,
    folder: Path,
    rng: np.random.Generator,
) -> tuple[FederationConfig, Placed]:
    """Craft canaries for a run, place them, and settle what the run declares of its users."""
    plain = simulated_federation(data, silos=config.silos, seed=config.seed)
    n_users = plain.train.shape[0]
    config = resolve_masking(replace(config, declared_users=one_digit(n_users)), simulated=True)
    withheld = np.sort(rng.choice(n_users, size=min(withhold, n_users // 4), replace=False))
    kept = plain.train[np.setdiff1d(np.arange(n_users), withheld)]
    popularity = contribute_counts(histories_of(kept), l2_clip_norm=1.0)[:, 0].numpy()
    canaries = crafted_canaries(popularity, count=count, n_head=expected_head(config, plain.catalogue), rng=rng)
    placed = place(
        plain, data, canaries, folder=folder / _DATA, silos=config.silos, seed=config.seed, withheld=withheld, rng=rng
    )
    return config, placed


def expected_head(config: FederationConfig, catalogue: Catalogue) -> int:
    """Rows of the last training release, from the public plan alone."""
    schedule = planned_schedule(config, PublicCatalogue(n_items=catalogue.n_items, items=catalogue))
    training = [stage for stage in stages_of(schedule) if stage.asked.stage != METRICS_STAGE]
    return int(training[-1].asked.shape[0])


def run_with_canaries(
    config: FederationConfig, placed: Placed, *, folder: Path, progress: Progress | None = None
) -> AuditedRun:
    """Run the federation from its data files through both apps, and keep what the server sees."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    logging.getLogger("flwr").setLevel(logging.WARNING)
    output = folder / _RUN
    # An audited run has no history: what an earlier one left there goes.
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    data = replace(placed.data, ledgers=str(output / "ledgers"))
    placed.federation.catalogue.save(output / _CATALOGUE)
    config = replace(config, output=str(output), catalogue=str(output / _CATALOGUE))
    server_app, client_app = load_apps()
    tap = Wiretap(client_app)
    run_config: dict[str, Value] = flat(config) | flat(data)
    counter = ReleaseCounter(output, config.silos, progress or Progress())
    run_in_process(
        server_app,
        tap.as_client_app(),
        run_config=run_config,
        n_silos=config.silos,
        on_reply=lambda reply: counter.count() if reply.metadata.message_type == "train" else None,
    )
    catalogue = placed.federation.catalogue
    agreed = Greeting(silo="server", catalogue_hash=catalogue.content_hash, n_items=catalogue.n_items)
    return AuditedRun(
        config=config,
        placed=placed,
        rounds=tap.rounds(begin(config, agreed, catalogue)),
        model=load_item_embeddings(output / EMBEDDINGS),
        folder=output,
    )


def deployed(run: AuditedRun, *, key: int) -> Mechanism:
    """The run's mechanism in the auditor's hands, with keys of the auditor."""
    return Mechanism(trainer=configured_trainer(run.config), key=key, public_seed=run.config.seed)
