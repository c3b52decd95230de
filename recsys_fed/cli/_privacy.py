"""`recsys-fed privacy`: what runs would cost, what a ledger holds, whether it holds, and what a silo decides."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recsys_fed.cli import _options
from recsys_fed.cli._options import (
    AsJson,
    KeyFile,
    LedgerAddress,
    WitnessFile,
    catalogue_of,
    emit,
    federation_of,
    key_made,
    key_of,
    one_of_two,
)
from recsys_fed.errors import ConfigurationError

if TYPE_CHECKING:
    from recsys_fed.config import FederationConfig
    from recsys_fed.federation.planning import PublicCatalogue


@_options.run_options(
    "epsilon", "delta", "trainer", "rounds", "embedding_dim", "silos", "declared_users",
    "declared_interactions", "max_silos_per_user",
    "metrics_epsilon", "noise", "secure_aggregation", "secure_aggregation_threshold", "secure_aggregation_colluders",
    epsilon="Budget of every user, over all runs that are planned.",
)  # fmt: skip
def plan(  # noqa: PLR0913  (one argument a flag)
    *,
    given: dict[str, Any],
    noise_multiplier: _options.NoiseMultiplier = None,
    n_items: _options.Items = _options.DEFAULT_ITEMS,
    catalogue: _options.CatalogueFile = None,
    runs: Annotated[int, typer.Option(min=1, help="Equal runs that share epsilon, such as trials of a sweep.")] = 1,
    schedule: Annotated[
        str | None, typer.Option(help="Trainings that build on one another: weekly, monthly, quarterly or yearly.")
    ] = None,
    years: Annotated[float, typer.Option(help="For how long, with --schedule.")] = 1.0,
    ledger: Annotated[str | None, typer.Option(help="Would it fit into this ledger, and how often?")] = None,
    settings: _options.Setting = None,
    as_json: _options.AsJson = False,
) -> None:
    """The noise that a budget needs and the error to expect, or (--noise-multiplier) the epsilon of a noise.

    It is the plan that the server makes. Exit code 1 if it does not fit into the ledger.
    """
    one_of_two(epsilon=given.get("epsilon"), noise_multiplier=noise_multiplier)
    from recsys_fed.federation.planning import schedule_of_equal_runs, schedule_with_noise  # noqa: PLC0415
    from recsys_fed.ledger.ledger import Ledger  # noqa: PLC0415
    from recsys_fed.report.planning import plan_record, print_plan  # noqa: PLC0415

    opened = Ledger.open(ledger) if ledger is not None else None
    config = federation_of(given, settings, terms=opened.terms() if opened is not None else None)
    public = catalogue_of(catalogue, n_items)
    if schedule is not None:
        if noise_multiplier is not None or runs > 1 or ledger is not None:
            raise ConfigurationError("Expected --schedule without --noise-multiplier, --runs and --ledger.")
        _plan_years(config, public, schedule=schedule, years=years, as_json=as_json)
        return
    if noise_multiplier is not None:
        planned = schedule_with_noise(config, public, noise_multiplier=noise_multiplier)
    else:
        planned = schedule_of_equal_runs(config, public, runs=runs)
    record = plan_record(planned, runs=runs, ledger=opened)
    emit(record) if as_json else print_plan(record)
    raise typer.Exit(0 if opened is None or record["ledger"]["fits"] else 1)


def _plan_years(
    config: "FederationConfig", public: "PublicCatalogue", *, schedule: str, years: float, as_json: bool
) -> None:
    from recsys_fed.report.years import print_years_plan, trainings_in, years_plan  # noqa: PLC0415

    record = years_plan(config, public, trainings=trainings_in(schedule, years))
    emit(record) if as_json else print_years_plan(record)


@_options.run_options("delta", "trainer", "rounds", "silos", "declared_users", "max_silos_per_user")
def simulate_budget(  # noqa: PLR0913  (one argument a flag)
    ledger: Annotated[str | None, typer.Argument(metavar="[LEDGER]", help="Start from what it has spent.")] = None,
    *,
    given: dict[str, Any],
    epsilon_per_run: Annotated[float | None, typer.Option(help="Of every run, as `simulate --epsilon`.")] = None,
    noise_multiplier: _options.NoiseMultiplier = None,
    until: Annotated[float | None, typer.Option(help="Limit; by default that of the ledger, or epsilon 8.")] = None,
    runs: Annotated[int | None, typer.Option(min=1, help="How many; by default until one does not fit.")] = None,
    every: Annotated[str | None, typer.Option(help='Time between two runs: "30 days", "2 weeks".')] = None,
    start: Annotated[str | None, typer.Option(help="Date of the first run, 2026-01-31; by default today.")] = None,
    n_items: _options.Items = _options.DEFAULT_ITEMS,
    plot: Annotated[Path | None, typer.Option(help="Also draw it: a PNG (needs recsys-fed[plots]).")] = None,
    settings: _options.Setting = None,
    as_json: _options.AsJson = False,
) -> None:
    """What is left of a budget after each retraining. Exit code 1 if a run that is asked for does not fit."""
    one_of_two(epsilon_per_run=epsilon_per_run, noise_multiplier=noise_multiplier)
    from recsys_fed.federation.planning import planned_schedule, schedule_with_noise  # noqa: PLC0415
    from recsys_fed.ledger.ledger import Ledger  # noqa: PLC0415
    from recsys_fed.report.planning import (  # noqa: PLC0415
        Calendar,
        budget_record,
        day_of,
        draw_budget,
        period_of,
        print_budget,
    )

    calendar = Calendar(first=day_of(start), every=period_of(every))
    opened = Ledger.open(ledger) if ledger is not None else None
    config = federation_of(
        {"epsilon": epsilon_per_run or 1.0} | given, settings, terms=opened.terms() if opened is not None else None
    )
    public = catalogue_of(None, n_items)
    if noise_multiplier is not None:
        schedule = schedule_with_noise(config, public, noise_multiplier=noise_multiplier)
    else:
        schedule = planned_schedule(config, public)
    record = budget_record(schedule, ledger=opened, limit=until, runs=runs, calendar=calendar)
    if plot is not None:
        draw_budget(record, plot)
    emit(record) if as_json else print_budget(record)
    raise typer.Exit(0 if record["runs_that_fit"] >= (runs or 1) else 1)


EXIT_CODES = (
    "Exit code 0: it holds, fits or is done. 1: it does not hold, would exceed, or was refused. 2: bad input."
)

app = typer.Typer(
    help=f"The privacy ledger of a silo: plan, look, verify, export. {EXIT_CODES}",
    no_args_is_help=True,
)
app.command("plan")(plan)
app.command("simulate-budget")(simulate_budget)


@app.command()
def create(  # noqa: PLR0913  (one argument a flag)
    ledger: LedgerAddress,
    *,
    key: KeyFile,
    silo: Annotated[str, typer.Option(help="Public name of the silo.")],
    epsilon: Annotated[float, typer.Option(help="Limit over the silo's lifetime.")],
    declared_users: Annotated[int, typer.Option(help="Public order of magnitude of users of all silos.")],
    delta: Annotated[float, typer.Option(help="Delta of the guarantee, below 1 / declared users.")] = 1e-6,
    max_silos_per_user: Annotated[int, typer.Option(help="In how many silos a user may be.")] = 1,
    simulated: Annotated[bool, typer.Option("--simulated", help="Take noise from a seed: protects nobody.")] = False,
    witness: WitnessFile = None,
    as_json: AsJson = False,
) -> None:
    """Start a ledger; the key is made if it is not there. Exit code 2 if there is a ledger already."""
    from recsys_fed.certificates.terms import LedgerTerms  # noqa: PLC0415
    from recsys_fed.ledger.ledger import Ledger  # noqa: PLC0415
    from recsys_fed.privacy.guarantee import Guarantee  # noqa: PLC0415
    from recsys_fed.report.privacy import print_created  # noqa: PLC0415

    guarantee = Guarantee(epsilon=epsilon, delta=delta, max_silos_per_user=max_silos_per_user)
    signing = key_made(key)
    terms = LedgerTerms(
        silo=silo,
        public_key=signing.public_key,
        guarantee=guarantee,
        declared_users=declared_users,
        simulated=simulated,
    )
    created = Ledger.create(ledger, key=signing, terms=terms, witness=witness)
    record = {"ledger": created.place, "terms": terms.to_record(), "guarantee": guarantee.sentence()}
    emit(record) if as_json else print_created(record)


@app.command("set-limit")
def set_limit(
    ledger: LedgerAddress,
    *,
    key: KeyFile,
    epsilon: Annotated[float, typer.Option(help="The new limit over the silo's lifetime.")],
    reason: Annotated[str, typer.Option(help="Why; it is kept in the ledger.")],
    witness: WitnessFile = None,
    as_json: AsJson = False,
) -> None:
    """Replace the epsilon limit by a signed entry with a reason."""
    from recsys_fed.ledger.ledger import Ledger  # noqa: PLC0415
    from recsys_fed.ledger.records import entry_record  # noqa: PLC0415
    from recsys_fed.report.privacy import print_entries  # noqa: PLC0415

    entry = Ledger.open(ledger, key=key_of(key), witness=witness).set_limit(epsilon, reason=reason)
    emit(entry_record(entry)) if as_json else print_entries([entry_record(entry)])


@app.command()
def status(
    ledger: LedgerAddress,
    *,
    delta: Annotated[list[float] | None, typer.Option(help="Also at this delta; may be repeated.")] = None,
    runs: Annotated[int, typer.Option(min=0, help="How many of the last runs are listed.")] = 10,
    witness: WitnessFile = None,
    as_json: AsJson = False,
) -> None:
    """Terms, what is spent and left, and what the last runs cost. It does not verify the ledger."""
    from recsys_fed.ledger.ledger import Ledger  # noqa: PLC0415
    from recsys_fed.ledger.records import status_record  # noqa: PLC0415
    from recsys_fed.report.privacy import print_status  # noqa: PLC0415

    record = status_record(Ledger.open(ledger, witness=witness), deltas=delta or (), newest_runs=runs)
    emit(record) if as_json else print_status(record)


@app.command()
def log(
    ledger: LedgerAddress,
    *,
    run: Annotated[str | None, typer.Option(help="Only entries of this run.")] = None,
    last: Annotated[int, typer.Option(min=1, help="How many of the last entries.")] = 20,
    epsilon: Annotated[bool, typer.Option("--epsilon", help="Also what was spent until each entry.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the last entries of a ledger."""
    from recsys_fed.ledger.ledger import Ledger  # noqa: PLC0415
    from recsys_fed.ledger.records import log_record  # noqa: PLC0415
    from recsys_fed.report.privacy import print_entries  # noqa: PLC0415

    records = log_record(Ledger.open(ledger), last=last, run=run, epsilon=epsilon)
    emit(records) if as_json else print_entries(records)


@app.command()
def verify(
    ledger: Annotated[str, typer.Argument(metavar="LEDGER", help="A ledger, or an export (FILE.jsonl).")],
    *,
    public_key: Annotated[str | None, typer.Option(help="Whose ledger it must be; 64 hexadecimal digits.")] = None,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="It is an export, whatever its ending.")] = False,
    certificates: Annotated[
        list[Path] | None, typer.Option(help="Certificates of the silo: a file or a folder; may be repeated.")
    ] = None,
    every_signature: Annotated[
        bool, typer.Option("--every-signature", help="Also beyond 10,000 entries, where the chain vouches for most.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check chain, signatures, times, stored copies, limits, and certificates against the ledger.

    Exit code 1 if anything does not hold; the first bad entry is named.
    """
    from recsys_fed.ledger.verification import verification_record  # noqa: PLC0415
    from recsys_fed.report.privacy import print_audit  # noqa: PLC0415

    record = verification_record(
        ledger,
        json_lines=jsonl,
        public_key=public_key,
        certificates=certificates or (),
        every_signature=every_signature,
    )
    emit(record) if as_json else print_audit(record)
    raise typer.Exit(0 if record["holds"] else 1)


@app.command("verify-run")
def verify_run(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished run.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Check all certificates of a run together and say what the federation promises.

    Exit code 1 if anything does not hold; everything that does not is listed.
    """
    from recsys_fed.certificates.run import verify_run as verified  # noqa: PLC0415
    from recsys_fed.federation.run_files import CERTIFICATES, EMBEDDINGS, EVENTS  # noqa: PLC0415
    from recsys_fed.report.privacy import print_run, run_record  # noqa: PLC0415

    found = verified(folder / CERTIFICATES, events=folder / EVENTS, model=folder / EMBEDDINGS)
    record = run_record(found)
    emit(record) if as_json else print_run(record)
    raise typer.Exit(0 if found.holds else 1)


@app.command("verify-receipt")
def verify_receipt(
    file: Annotated[Path, typer.Argument(metavar="RECEIPT", help="A receipt that `silo opt-out add` wrote.")],
    *,
    public_key: Annotated[str | None, typer.Option(help="Whose receipt it must be; 64 hexadecimal digits.")] = None,
    ledger: Annotated[str | None, typer.Option(help="Also compare it with the silo's ledger.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check a user's receipt and say what released models may still hold. Exit code 1 if it does not hold."""
    from recsys_fed.certificates.erasure import read_receipt  # noqa: PLC0415
    from recsys_fed.errors import LedgerIntegrityError  # noqa: PLC0415
    from recsys_fed.ledger.ledger import Ledger  # noqa: PLC0415
    from recsys_fed.ledger.records import check_receipt  # noqa: PLC0415
    from recsys_fed.signing import parse_public_key  # noqa: PLC0415

    receipt = read_receipt(file.read_bytes())
    if public_key is not None and parse_public_key(public_key) != receipt.terms.public_key:
        raise LedgerIntegrityError(f"Expected a receipt of the key {public_key[:16]}..., it is another silo's.")
    if ledger is not None:
        check_receipt(receipt, Ledger.open(ledger))
    if as_json:
        emit(receipt.to_record())
        return
    typer.echo(f"it holds: silo {receipt.terms.silo}, key {receipt.terms.public_key}, user {receipt.user}")
    for training in receipt.trainings:
        typer.echo(f"training {training.run}, {training.first} to {training.last}: epsilon {training.epsilon:.4f}")
    typer.echo(receipt.statement())


@app.command()
def export(
    ledger: LedgerAddress,
    *,
    output: Annotated[Path | None, typer.Option(help="A new file; without one, standard output.")] = None,
) -> None:
    """Write the ledger as JSON lines, which `verify` also reads."""
    import sys  # noqa: PLC0415

    from recsys_fed.ledger.ledger import Ledger  # noqa: PLC0415
    from recsys_fed.ledger.records import export_ledger, export_lines  # noqa: PLC0415

    opened = Ledger.open(ledger)
    if output is not None:
        export_ledger(opened, output)
        return
    sys.stdout.buffer.writelines(export_lines(opened))
    sys.stdout.buffer.flush()
