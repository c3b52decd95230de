"""`recsys-fed silo`: join a federation, check, serve, recommend."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recsys_fed.cli._federation import Insecure, MetricsPort
from recsys_fed.cli._options import AsJson, emit, run_options
from recsys_fed.settings_file import parse_value

if TYPE_CHECKING:
    from recsys_fed.silo.recommendations import Recommender

app = typer.Typer(help="The operator of a silo: join, check, serve, recommend.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the silo.")]


@app.command()
@run_options("columns", "kinds", "format", "device", "threads")
def init(  # noqa: PLR0913  (one argument a flag)
    folder: Folder,
    *,
    given: dict[str, Any],
    federation: Annotated[Path, typer.Option(help="The public folder that the federation handed out.")],
    name: Annotated[str, typer.Option(help="Public name of the silo.")],
    epsilon: Annotated[float | None, typer.Option(help="Limit of the silo's ledger over its lifetime.")] = None,
    beside: Annotated[
        Path | None,
        typer.Option(help="Folder of this silo in another federation: one ledger and one limit for both."),
    ] = None,
    source: Annotated[
        str, typer.Option(help="csv (any text), json (lines), parquet, sqlite or postgresql; found by --path.")
    ] = "",
    path: Annotated[Path | None, typer.Option(help="File or folder, for csv and parquet.")] = None,
    url: Annotated[
        str | None, typer.Option(help="SQLAlchemy URL, or the path of an SQLite file; no password in it.")
    ] = None,
    query: Annotated[str | None, typer.Option(help="The one query that is ever run, for databases.")] = None,
    personalisation: Annotated[
        str,
        typer.Option(help="user-only: from the model and the own history; silo-trusted: also from the silo's users."),
    ] = "user-only",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE of [data], such as since=2026-01-01.")
    ] = None,
) -> None:
    """Make keys, ledger and silo.toml; hand the NAME.pub that it writes to the federation's operator."""
    from recsys_fed.config import columns_of, kinds_of  # noqa: PLC0415
    from recsys_fed.data.readers.blocks import source_of  # noqa: PLC0415
    from recsys_fed.deployment.provisioning import init_silo, shared_ledger  # noqa: PLC0415
    from recsys_fed.report.deployment import say  # noqa: PLC0415
    from recsys_fed.silo.secret import passphrase  # noqa: PLC0415

    named, counted, form = columns_of(given.get("columns", "")), kinds_of(given.get("kinds", "")), given.get("format")
    data: dict[str, Any] = {"source": source or (source_of(path) if path else ""), **named}
    data |= {"format": form} if form else {}
    if path is not None and path.exists() and not named:
        data |= _find_columns(path, data["source"], kinds=counted, form=form or "")
    # A path on the command line is relative to here, one in silo.toml to that file.
    place = str(Path(url).expanduser().resolve()) if url and "://" not in url else url
    machine = {"device": given.get("device", "auto"), "threads": given.get("threads", 0)}
    place_of = {"path": str(path.expanduser().resolve()) if path else None, "url": place, "query": query}
    data |= {key: value for key, value in place_of.items() if value is not None}
    data |= _settings_of(settings or [])
    ledger = shared_ledger(beside, federation) if beside is not None else {}
    admission = init_silo(
        folder,
        federation=federation,
        name=name,
        epsilon=epsilon,
        data=data,
        kinds=counted,
        extra={"personalisation": personalisation, **machine, **ledger},
        passphrase=passphrase(),
    )
    say(f"made {folder / 'silo.toml'}; hand {folder / (admission.name + '.pub')} to the federation's operator")
    say("then: recsys-fed silo check")


def _find_columns(path: Path, source: str, *, kinds: dict[str, float], form: str) -> dict[str, Any]:
    """Keys of [data] for the columns of a file that have usual names."""
    from recsys_fed.data.readers.blocks import usual_columns  # noqa: PLC0415
    from recsys_fed.data.readers.reading import (  # noqa: PLC0415
        Reading,
        are_numbers,
        text_format_of,
    )

    found = usual_columns(Reading(source=source, path=str(path), kinds=kinds, format=text_format_of(form)))
    if are_numbers(found):
        # Of names that occur twice, which for once do not mean that there is no header.
        return {**found, "format": ",".join(filter(None, (form, "header=yes")))}
    return dict(found)


def _settings_of(pairs: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE of [data], values as TOML has them or as text; dates as text."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, _, text = pair.partition("=")
        value = parse_value(text)
        found[key] = value.isoformat() if hasattr(value, "isoformat") else value
    return found


FederationKey = Annotated[
    str | None,
    typer.Option(help="Of a silo that joined before there was one: the key that its operator reads out."),
]


@app.command()
def roster(
    folder: Folder,
    file: Annotated[
        Path | None, typer.Argument(metavar="[ROSTER]", help="A roster.json; without it, it is fetched.")
    ] = None,
    *,
    federation_key: FederationKey = None,
) -> None:
    """Take in the names and ledger keys of the other silos: compare them with what their operators tell you.

    Secure aggregation protects a silo by the noise of the silos in this list, and of nobody else.
    """
    from recsys_fed.deployment.updating import accept_roster, fetch_update  # noqa: PLC0415
    from recsys_fed.federation.admission import read_roster, write_roster  # noqa: PLC0415
    from recsys_fed.report.deployment import say  # noqa: PLC0415
    from recsys_fed.silo.secret import passphrase  # noqa: PLC0415
    from recsys_fed.silo.settings import read_silo_settings  # noqa: PLC0415

    settings = read_silo_settings(folder)
    if file is not None:
        found = read_roster(file)
        write_roster(Path(settings.roster), found)
        for name, key in sorted(found.items()):
            say(f"{key}  {name}")
        return
    _pin(settings, federation_key)
    update = fetch_update(settings, passphrase=passphrase())
    for line in update.lines():
        say(line)
    accept_roster(settings, update, passphrase=passphrase())
    if update.terms or update.catalogue:
        say(f"the roster is taken in; what else is new needs: recsys-fed silo update {folder} --agree")


@app.command()
def update(
    folder: Folder,
    *,
    agree: Annotated[bool, typer.Option("--agree", help="Take in what is shown.")] = False,
    notice: Annotated[Path | None, typer.Option(help="A notice.json, instead of fetching it.")] = None,
    federation_key: FederationKey = None,
) -> None:
    """Show what is new in the federation (silos, terms, catalogue), and take it in with --agree.

    Compare the fingerprint with other silos' operators first. Exit code 1 if something new was not agreed to.
    """
    from recsys_fed.deployment.updating import accept_update, fetch_update  # noqa: PLC0415
    from recsys_fed.report.deployment import say  # noqa: PLC0415
    from recsys_fed.silo.secret import passphrase  # noqa: PLC0415
    from recsys_fed.silo.settings import read_silo_settings  # noqa: PLC0415

    settings = read_silo_settings(folder)
    _pin(settings, federation_key)
    found = fetch_update(settings, passphrase=passphrase(), file=notice)
    for line in found.lines():
        say(line)
    if not found.is_news:
        say("nothing is new")
    elif agree:
        accept_update(settings, found, passphrase=passphrase())
        say("taken in; a silo that serves uses it from the next message on")
    raise typer.Exit(1 if found.is_news and not agree else 0)


def _pin(settings: Any, key: str | None) -> None:
    from recsys_fed.deployment.updating import pin_federation_key  # noqa: PLC0415

    if key is not None:
        pin_federation_key(settings, key)


@app.command("change-keys")
def change_keys(
    folder: Folder,
    *,
    reason: Annotated[str, typer.Option(help="Kept in the silo's ledger.")],
    also: Annotated[
        list[Path] | None,
        typer.Option(help="The silo's folder in another federation, with the same ledger; may be repeated."),
    ] = None,
) -> None:
    """Make a new node key and a new ledger key; hand the NAME.pub that it writes to the federation's operator.

    Earlier entries of the ledger and earlier certificates stay verifiable. Start the silo again afterwards.
    """
    from recsys_fed.deployment.provisioning import change_keys as make_new_keys  # noqa: PLC0415
    from recsys_fed.report.deployment import say  # noqa: PLC0415
    from recsys_fed.silo.secret import passphrase  # noqa: PLC0415

    admissions = make_new_keys(folder, reason=reason, also=also or (), passphrase=passphrase())
    say(f"new ledger key {admissions[0].ledger_key}")
    for admission, place in zip(admissions, (folder, *(also or ())), strict=True):
        say(f"hand {place / (admission.name + '.pub')} to the federation's operator")
    say("then: silo roster, and start the silo again")


@app.command()
def backup(
    folder: Folder, file: Annotated[Path, typer.Argument(metavar="FILE", help="The backup, a new file (tar.gz).")]
) -> None:
    """Write keys, settings, ledger and sealed state to one file; the silo may go on meanwhile."""
    from recsys_fed.deployment.backup import back_up_silo  # noqa: PLC0415
    from recsys_fed.report.deployment import say  # noqa: PLC0415

    say(f"{back_up_silo(folder, file)} files are in {file}; it holds the silo's private keys")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A backup that `silo backup` wrote.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    *,
    witness: Annotated[
        Path | None, typer.Option(help="The ledger's witness, where it has outlived the folder.")
    ] = None,
    spent: Annotated[
        float | None, typer.Option(help="The most epsilon that was charged after the backup; the limit falls by it.")
    ] = None,
) -> None:
    """Put a silo back. Its ledger has forgotten what was charged since: --witness or --spent tells."""
    from recsys_fed.deployment.backup import restore_silo  # noqa: PLC0415
    from recsys_fed.report.deployment import say  # noqa: PLC0415
    from recsys_fed.silo.secret import passphrase  # noqa: PLC0415

    head = restore_silo(file, folder, witness=witness, spent=spent, passphrase=passphrase())
    say(f"the silo is in {folder}, its ledger holds up to entry {head.number}; then: recsys-fed silo check {folder}")


@app.command()
def check(
    folder: Folder,
    *,
    offline: Annotated[bool, typer.Option("--offline", help="Do not reach for the federation's server.")] = False,
    as_json: AsJson = False,
) -> None:
    """Settings, keys, ledger, catalogue, data, server and clock. Exit code 1 if one of them is not good."""
    from recsys_fed.deployment.checking import check_silo  # noqa: PLC0415
    from recsys_fed.report.deployment import print_findings  # noqa: PLC0415

    findings = check_silo(folder, reach=not offline)
    records = [vars(finding) for finding in findings]
    emit(records) if as_json else print_findings(records)
    raise typer.Exit(0 if all(finding.good for finding in findings) else 1)


@app.command()
def status(folder: Folder, *, as_json: AsJson = False) -> None:
    """Budget, the model in use, and how many messages of the server were answered and refused."""
    from recsys_fed.deployment.status import silo_status  # noqa: PLC0415
    from recsys_fed.report.deployment import print_silo_status  # noqa: PLC0415
    from recsys_fed.silo.settings import read_silo_settings  # noqa: PLC0415

    record = silo_status(read_silo_settings(folder))
    emit(record) if as_json else print_silo_status(record)


@app.command()
def serve(folder: Folder, *, metrics_port: MetricsPort = 0, insecure: Insecure = False) -> None:
    """Take part until Ctrl-C or SIGTERM."""
    from contextlib import ExitStack  # noqa: PLC0415

    from recsys_fed.deployment.serving_silo import serve_silo  # noqa: PLC0415
    from recsys_fed.flower import end_on_signals  # noqa: PLC0415
    from recsys_fed.report.deployment import say  # noqa: PLC0415
    from recsys_fed.silo.secret import passphrase  # noqa: PLC0415
    from recsys_fed.silo.settings import read_silo_settings  # noqa: PLC0415

    settings, code = read_silo_settings(folder), 0
    with end_on_signals(), ExitStack() as stack:
        if metrics_port:
            from recsys_fed.deployment.status import serve_metrics, silo_metrics  # noqa: PLC0415

            stack.enter_context(serve_metrics(metrics_port, lambda: silo_metrics(settings)))
        code = serve_silo(settings, insecure=insecure, passphrase=passphrase(), say=say)
    raise typer.Exit(code)


At = Annotated[
    str, typer.Option(help="Date or time of the request, where the silo's own model uses hour or weekday.")
]


@app.command()
def recommend(
    folder: Folder,
    user: Annotated[str, typer.Argument(help="A user's id as in the silo's data.")],
    *,
    k: Annotated[int, typer.Option("-k", help="How many items to recommend.")] = 10,
    at: At = "",
    as_json: AsJson = False,
) -> None:
    """Recommend from the silo's own state; nothing leaves this machine."""
    from recsys_fed.report.deployment import print_ranking  # noqa: PLC0415
    from recsys_fed.silo.recommendations import recommend_user  # noqa: PLC0415

    items = recommend_user(_recommender(folder, at=at), user, k=k)
    emit(items) if as_json else print_ranking(items)


@app.command()
def export(
    folder: Folder,
    output: Annotated[Path, typer.Argument(help="A new Parquet file: user, rank, item, score.")],
    *,
    k: Annotated[int, typer.Option("-k", help="Length of each user's list.")] = 10,
    users: Annotated[
        Path | None, typer.Option(help="Text file with a user id a line: export these, under their ids.")
    ] = None,
    at: At = "",
) -> None:
    """Write the recommendations of all users, under pseudonyms, or of those in a file."""
    from recsys_fed.report.deployment import say  # noqa: PLC0415
    from recsys_fed.silo.recommendations import export_recommendations  # noqa: PLC0415

    named: Sequence[str] | None = None
    if users is not None:
        named = [line.strip() for line in users.read_text(encoding="utf-8").splitlines() if line.strip()]
    count = export_recommendations(_recommender(folder, at=at), output, k=k, users=named)
    say(f"wrote recommendations of {count} users to {output}")


@app.command()
def residual(folder: Folder) -> None:
    """Write the silo's own model for `silo api --silo DIR`, for personalisation silo-trusted, after each training."""
    from recsys_fed.errors import ConfigurationError  # noqa: PLC0415
    from recsys_fed.report.deployment import say  # noqa: PLC0415
    from recsys_fed.silo.secret import Pseudonyms, SiloSecret, passphrase  # noqa: PLC0415
    from recsys_fed.silo.settings import read_silo_settings  # noqa: PLC0415
    from recsys_fed.silo.state import StateFolder  # noqa: PLC0415
    from recsys_fed.silo.told import Knowledge  # noqa: PLC0415

    settings = read_silo_settings(folder)
    if settings.personalisation != "silo-trusted":
        raise ConfigurationError(
            f"Expected personalisation = silo-trusted in silo.toml, got {settings.personalisation}."
        )
    secret = SiloSecret.load(Path(settings.secret_key), passphrase=passphrase())
    knowledge = Knowledge.of_silo(settings, Pseudonyms(secret))
    state = StateFolder(Path(settings.state), secret)
    say(f"wrote {state.write_residual(knowledge)}")
    if getattr(state.personal(knowledge), "parts", None) is not None:
        say(
            "The service runs no module: it gets the silo's best model without the private parts that were chosen. "
            "`silo recommend` and `silo export` use them."
        )


def _recommender(folder: Path, *, at: str) -> "Recommender":
    from recsys_fed.catalogue.items import Catalogue  # noqa: PLC0415
    from recsys_fed.silo.opt_out import Participants  # noqa: PLC0415
    from recsys_fed.silo.recommendations import open_recommender  # noqa: PLC0415
    from recsys_fed.silo.secret import SiloSecret, passphrase  # noqa: PLC0415
    from recsys_fed.silo.settings import moment, read_silo_settings  # noqa: PLC0415
    from recsys_fed.silo.state import StateFolder  # noqa: PLC0415
    from recsys_fed.silo.told import Knowledge  # noqa: PLC0415

    settings = read_silo_settings(folder)
    secret = SiloSecret.load(Path(settings.secret_key), passphrase=passphrase())
    catalogue = Catalogue.load(settings.catalogue)
    state = StateFolder(Path(settings.state), secret)
    participants = Participants.of_silo(settings, secret)
    return open_recommender(
        state,
        catalogue,
        participants,
        personalisation=settings.personalisation,
        self_attention=settings.self_attention,
        knowledge=Knowledge.of_silo(settings, participants),
        moment=moment(at, name="--at"),
    )
