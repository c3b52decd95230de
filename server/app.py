"""ServerApp: greet the silos, plan and calibrate, run the rounds, keep the result.

A deployed server (one with a roster) asks silos again that were away, and keeps a checkpoint after each round.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from flwr.app import Array, ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.config import FederationConfig, parse
from recsys_fed.federation.noise_split import masking_of, resolve_masking
from recsys_fed.federation.run_files import FILE as CHECKPOINT
from recsys_fed.federation.run_files import FederationLog, checkpointed_silos, resume_schedule, save_checkpoint
from recsys_fed.federation.schedule import Schedule, agree, begin, item_embeddings
from recsys_fed.models.device import use_threads
from recsys_fed.privacy.guarantee import check_delta
from server.finalize import collect_certificates
from server.handshake import Greeted, greet_silos
from server.masked_rounds import MaskedRounds
from server.retry import RetryingGrid
from server.strategy import TrainerStrategy

# Seconds for all of a round of a deployed federation; a silo that is away longer is left out of it.
ROUND_TIMEOUT = 3_600.0
# Seconds for one exchange of a masked round.
MASKED_TIMEOUT = 600.0

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train one global model, or go on where the checkpoint in the output folder is."""
    config = parse(FederationConfig, context.run_config)
    use_threads(config.threads)
    # Silos look at it too, but may not say why they refuse.
    check_delta(config.delta, n_users=config.declared_users)
    if config.silos:
        masking_of(resolve_masking(config, simulated=True))
    catalogue = Catalogue.load(config.catalogue) if config.catalogue else None
    run = config.training or str(context.run_id)
    gathered = greet_silos(_retrying(grid, config, masked=False), config, run=run)
    kept = Path(config.output) / CHECKPOINT if config.output and config.roster else None
    resumed = kept is not None and config.resume and kept.is_file()
    simulated = any(greeting.simulated for greeting in gathered.greetings.values())
    config = replace(config, silos=_silos(config, gathered, kept if resumed else None))
    config = resolve_masking(config, simulated=simulated)
    begun = begin(config, agree(list(gathered.greetings.values()), catalogue), catalogue)
    schedule = resume_schedule(begun, kept) if resumed and kept is not None else begun
    run_log = FederationLog(folder=Path(config.output) if config.output else None, training=run)
    run_log.started(schedule, refused=gathered.refused)
    masked = None
    if masking_of(config) is not None:
        masked = MaskedRounds(gathered.greetings, run=run, declared_users=config.declared_users)
    strategy = TrainerStrategy(
        schedule, run_log, gathered.greetings, masked=masked, after_round=_checkpoint_after(kept, begun)
    )
    rounds = _retrying(grid, config, masked=masked is not None)
    strategy.start(rounds, ArrayRecord(), num_rounds=len(schedule.stages) - schedule.round, timeout=ROUND_TIMEOUT)
    model = item_embeddings(strategy.schedule)
    collected = collect_certificates(_retrying(grid, config, masked=False), gathered.greetings, model, run=run)
    run_log.finished(model, collected.certificates, missing=collected.missing, metrics=strategy.schedule.metrics)
    vectors = Array(model.vectors.numpy())
    context.state["item-embeddings"] = ArrayRecord(OrderedDict(vectors=vectors))


def _retrying(grid: Grid, config: FederationConfig, *, masked: bool) -> Grid:
    """The grid of a deployed server. Steps of a masked round must not be asked for twice: it has attempts instead."""
    if not config.roster:
        return grid
    if masked:
        return RetryingGrid(grid, timeout=MASKED_TIMEOUT, first_wait=MASKED_TIMEOUT, attempts=1)
    return RetryingGrid(grid, timeout=ROUND_TIMEOUT)


def _silos(config: FederationConfig, gathered: Greeted, checkpoint: Path | None) -> int:
    """For how many silos a run is planned: a public constant, also where some are away."""
    if checkpoint is not None:
        return checkpointed_silos(checkpoint)
    return config.silos if config.roster and config.silos else len(gathered.greetings)


def _checkpoint_after(path: Path | None, begun: Schedule) -> Callable[[Schedule], None]:
    return lambda schedule: save_checkpoint(schedule, path, begun=begun) if path is not None else None
