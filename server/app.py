"""ServerApp: greet the silos, plan and calibrate, run the rounds, keep the result.

A deployed server (one with a roster) asks silos again that were away, and keeps a checkpoint after each round.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from logging import WARNING
from pathlib import Path

from flwr.app import Array, ArrayRecord, Context, Message
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.certificates.certificate import Certificate, read_certificate
from recsys_fed.config import FederationConfig, parse
from recsys_fed.errors import DataFormatError, EngineError, LedgerIntegrityError, ProtocolError
from recsys_fed.federation.kept_releases import read_earlier, releases_bytes
from recsys_fed.federation.messages import Greeting
from recsys_fed.federation.noise_split import masking_of, resolve_masking
from recsys_fed.federation.run_files import FILE as CHECKPOINT
from recsys_fed.federation.run_files import STOP, FederationLog, checkpointed_silos, resume_schedule, save_checkpoint
from recsys_fed.federation.schedule import Schedule, agree, begin, item_embeddings
from recsys_fed.federation.wire import Conclusion, blob_from_records, conclusion_to_records
from recsys_fed.flower import scale_timeout
from recsys_fed.models.device import use_threads
from recsys_fed.models.items import item_embeddings_bytes
from recsys_fed.privacy.guarantee import check_delta
from recsys_fed.signing import sha256
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
    earlier = read_earlier(config, catalogue)
    # Simulated silos have the settings of the server, and leave it to them.
    shown = earlier.certificates if config.roster else ()
    gathered = greet_silos(_retrying(grid, config, masked=False), config, run=run, catalogue=catalogue, earlier=shown)
    kept = Path(config.output) / CHECKPOINT if config.output and config.roster else None
    resumed = kept is not None and config.resume and kept.is_file()
    simulated = any(greeting.simulated for greeting in gathered.greetings.values())
    config = replace(config, silos=_silos(config, gathered, kept if resumed else None))
    config = resolve_masking(config, simulated=simulated)
    agreed = agree(list(gathered.greetings.values()), catalogue)
    begun = begin(config, agreed, catalogue, earlier=earlier.trainings)
    schedule = resume_schedule(begun, kept) if resumed and kept is not None else begun
    run_log = FederationLog(folder=Path(config.output) if config.output else None, training=run)
    run_log.started(schedule, refused=gathered.refused)
    masked = None
    if masking_of(config) is not None:
        masked = MaskedRounds(
            gathered.greetings, run=run, declared_users=config.declared_users, patience=patience(config)
        )
    strategy = TrainerStrategy(
        schedule, run_log, gathered.greetings, masked=masked, after_round=_checkpoint_after(kept, begun)
    )
    rounds = _retrying(grid, config, masked=masked is not None)
    strategy.start(rounds, ArrayRecord(), num_rounds=len(schedule.stages) - schedule.round, timeout=ROUND_TIMEOUT)
    model = item_embeddings(strategy.schedule)
    releases = releases_bytes(strategy.schedule)
    told = Conclusion(model=item_embeddings_bytes(model), tables=sha256(releases), earlier=earlier.digests)
    collected = collect_certificates(_retrying(grid, config, masked=False), gathered.greetings, told, run=run)
    run_log.finished(
        model,
        collected.certificates,
        missing=collected.missing,
        metrics=strategy.schedule.metrics,
        releases=releases,
    )
    vectors = Array(model.vectors.numpy())
    context.state["item-embeddings"] = ArrayRecord(OrderedDict(vectors=vectors))


def _retrying(grid: Grid, config: FederationConfig, *, masked: bool) -> Grid:
    """The grid of a deployed server. Steps of a masked round must not be asked for twice: it has attempts instead."""
    if not config.roster:
        return grid
    if masked:
        return RetryingGrid(grid, timeout=MASKED_TIMEOUT, first_wait=MASKED_TIMEOUT, attempts=1)
    return RetryingGrid(grid, timeout=ROUND_TIMEOUT)


def patience(config: FederationConfig) -> float:
    """Seconds in which a masked round waits for silos that it has lost; a simulation's never come back."""
    return scale_timeout(MASKED_TIMEOUT) if config.roster else 0.0


def _silos(config: FederationConfig, gathered: Greeted, checkpoint: Path | None) -> int:
    """For how many silos a run is planned: a public constant, also where some are away."""
    if checkpoint is not None:
        return checkpointed_silos(checkpoint)
    return config.silos if config.roster and config.silos else len(gathered.greetings)


def _checkpoint_after(path: Path | None, begun: Schedule) -> Callable[[Schedule], None]:
    """Called after each round; ends a run whose operator has asked for it, but not one that has no further round."""

    def keep(schedule: Schedule) -> None:
        if path is None:
            return
        save_checkpoint(schedule, path, begun=begun)
        if schedule.round < len(schedule.stages) and (path.parent / STOP).exists():
            raise EngineError(f"Its operator has stopped it after round {schedule.round} of {len(schedule.stages)}.")

    return keep


@dataclass(frozen=True, kw_only=True)
class Collected:
    """Signed certificates by silo, and why the others are missing."""

    certificates: dict[str, bytes] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def collect_certificates(grid: Grid, greetings: Mapping[int, Greeting], told: Conclusion, *, run: str) -> Collected:
    """Send the model to every silo that greeted, and keep the certificates that hold."""
    records = conclusion_to_records(told)
    messages = [Message(records, node, "query.conclude") for node in greetings]
    collected = Collected()
    for reply in _sort_by_node(grid.send_and_receive(messages)):
        greeting = greetings[reply.metadata.src_node_id]
        try:
            signed = _read_certificate(reply)
            _check(read_certificate(signed), greeting, told, run=run)
            collected.certificates[greeting.silo] = signed
        except (ProtocolError, DataFormatError, LedgerIntegrityError) as error:
            collected.missing.append(f"{greeting.silo}: {error}")
            log(WARNING, "no certificate of %s: %s", greeting.silo, error)
    silent = {greeting.silo for greeting in greetings.values()} - collected.certificates.keys()
    named = {line.split(":")[0] for line in collected.missing}
    collected.missing.extend(f"{silo}: no answer" for silo in sorted(silent - named))
    return collected


def _read_certificate(reply: Message) -> bytes:
    if reply.has_error():
        raise ProtocolError(f"Expected a certificate, got an error: {reply.error.reason}")
    return blob_from_records("certificate", reply.content)


def _check(certificate: Certificate, greeting: Greeting, told: Conclusion, *, run: str) -> None:
    facts = {
        "silo": (greeting.silo, certificate.terms.silo),
        "key": (greeting.public_key, certificate.terms.public_key),
        "run": (run, certificate.run),
        "model": (sha256(told.model), certificate.model),
        "released tables": (told.tables, certificate.tables),
        "earlier tables": (told.earlier, certificate.earlier),
    }
    for name, (expected, got) in facts.items():
        if expected != got:
            raise ProtocolError(f"Expected a certificate of the {name} {expected}, got {got}.")


def _sort_by_node(replies: Iterable[Message]) -> list[Message]:
    return sorted(replies, key=lambda reply: reply.metadata.src_node_id)
