"""`recsys-fed federation`: make a federation, admit silos, serve, train, look."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recsys_fed.cli._options import AsJson, Setting, Track, emit, run_options, settings_of
from recsys_fed.config import FederationConfig, parse
from recsys_fed.errors import ConfigurationError
from recsys_fed.report.console import new_console

if TYPE_CHECKING:
    from recsys_fed.deployment.federation import FederationFolder
    from recsys_fed.deployment.notice import Notice
    from recsys_fed.deployment.scheduling import CalendarOfTrainings

app = typer.Typer(help="The operator of a federation: make it, admit silos, serve, train.", no_args_is_help=True)
catalogue_app = typer.Typer(help="The catalogue that all silos hold.", no_args_is_help=True)
app.add_typer(catalogue_app, name="catalogue")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the federation.")]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Without TLS and node authentication: on loopback only, for trials.")
]
MetricsPort = Annotated[int, typer.Option(help="Figures for Prometheus on this port of loopback; 0: none.")]


@app.command()
@run_options("trainer", "epsilon", "delta", epsilon="The most that one training may cost a user.")
def init(  # noqa: PLR0913  (one argument a flag)
    folder: Folder,
    *,
    given: dict[str, Any],
    catalogue: Annotated[Path, typer.Option(help="The public catalogue (a catalogue.parquet).")],
    silos: Annotated[int, typer.Option(help="How many silos take part; public.")],
    declared_users: Annotated[int, typer.Option(help="Public order of magnitude of users of all silos.")],
    address: Annotated[str, typer.Option(help="HOST:PORT that silos connect to.")] = "127.0.0.1:9092",
    listen: Annotated[str, typer.Option(help="Interface to listen on, such as 0.0.0.0.")] = "127.0.0.1",
    host: Annotated[list[str] | None, typer.Option(help="Another name for the certificate; may be repeated.")] = None,
    name: Annotated[str, typer.Option(help="Public name of the federation.")] = "federation",
    settings: Setting = None,
    insecure: Insecure = False,
) -> None:
    """Make a certificate authority, the server's certificate, federation.toml and the folder that silos get."""
    from recsys_fed.deployment.federation import BUILD_ON, FederationSettings  # noqa: PLC0415
    from recsys_fed.deployment.provisioning import init_federation  # noqa: PLC0415
    from recsys_fed.report.deployment import say  # noqa: PLC0415
    from recsys_fed.silo.secret import passphrase  # noqa: PLC0415

    keys = given | {"silos": silos, "declared-users": declared_users}
    terms = {"most-earlier-trainings": BUILD_ON} | settings_of(settings or []) | keys
    made = FederationSettings(
        name=name,
        address=address,
        listen=listen,
        insecure=insecure,
        training=parse(FederationConfig, terms),
    )
    found = init_federation(folder, made, catalogue=catalogue, hosts=host or (), passphrase=passphrase())
    say(f"made {found.settings_file}; hand {found.public} to every silo")


@app.command()
def admit(
    folder: Folder,
    public_keys: Annotated[
        list[Path], typer.Argument(metavar="PUBLIC_KEY...", help="Files NAME.pub that `silo init` wrote.")
    ],
) -> None:
    """Admit silos; a running federation knows them at once."""
    from recsys_fed.deployment.federation import FederationFolder  # noqa: PLC0415
    from recsys_fed.deployment.roster import admit as admitted  # noqa: PLC0415
    from recsys_fed.deployment.roster import surplus  # noqa: PLC0415
    from recsys_fed.report.deployment import say  # noqa: PLC0415

    own = FederationFolder(folder)
    for file in public_keys:
        known = admitted(own, file)
        say(f"admitted {known.name}, ledger key {known.ledger_key}")
    if warning := surplus(own):
        say(warning)
    _publish(folder)
    _synchronise(folder)


@app.command()
def revoke(folder: Folder, name: Annotated[str, typer.Argument(help="Name of an admitted silo.")]) -> None:
    """Take a silo out for ever; a running federation refuses it at once."""
    from recsys_fed.deployment.federation import FederationFolder  # noqa: PLC0415
    from recsys_fed.deployment.roster import revoke as revoked  # noqa: PLC0415
    from recsys_fed.report.deployment import say  # noqa: PLC0415

    say(f"revoked {revoked(FederationFolder(folder), name).name}")
    _publish(folder)
    _synchronise(folder)


@app.command()
def publish(folder: Folder) -> None:
    """Sign anew who is admitted, the terms and the catalogue, for silos to fetch; admit and revoke do so as well."""
    _publish(folder)


@app.command()
def terms(folder: Folder, *, settings: Setting = None) -> None:
    """Set new terms of training, such as --set silos=4 or --set epsilon=2; every silo has to agree to them."""
    from recsys_fed.deployment.federation import FederationFolder  # noqa: PLC0415
    from recsys_fed.deployment.notice import change_terms  # noqa: PLC0415
    from recsys_fed.report.deployment import say  # noqa: PLC0415
    from recsys_fed.silo.secret import passphrase  # noqa: PLC0415

    changes: Any = settings_of(settings or [])
    notice = change_terms(FederationFolder(folder), changes, passphrase=passphrase())
    say(f"terms version {notice.terms_version}; each silo's operator agrees by: recsys-fed silo update DIR --agree")
    _say_notice(notice)


@catalogue_app.command("update")
def update_catalogue(
    folder: Folder,
    catalogue: Annotated[Path, typer.Argument(help="A catalogue (Parquet) with the new items, perhaps the old too.")],
) -> None:
    """Append the items that the federation's catalogue lacks, as its next version; nothing is changed or removed."""
    from recsys_fed.deployment.federation import FederationFolder  # noqa: PLC0415
    from recsys_fed.deployment.notice import change_catalogue  # noqa: PLC0415
    from recsys_fed.report.deployment import say  # noqa: PLC0415
    from recsys_fed.silo.secret import passphrase  # noqa: PLC0415

    notice = change_catalogue(FederationFolder(folder), catalogue, passphrase=passphrase())
    say(f"catalogue version {notice.catalogue_version}; each silo: recsys-fed silo update DIR --agree")
    _say_notice(notice)


def _publish(folder: Path) -> None:
    from recsys_fed.deployment.federation import FederationFolder  # noqa: PLC0415
    from recsys_fed.deployment.notice import publish as published  # noqa: PLC0415
    from recsys_fed.silo.secret import passphrase  # noqa: PLC0415

    _say_notice(published(FederationFolder(folder), passphrase=passphrase()))


def _say_notice(notice: "Notice") -> None:
    from recsys_fed.report.deployment import say  # noqa: PLC0415

    say(f"notice {notice.version}, fingerprint {notice.fingerprint()}")


@app.command()
def serve(folder: Folder, *, metrics_port: MetricsPort = 0, insecure: Insecure = False) -> None:
    """Run the federation's server until Ctrl-C or SIGTERM."""
    from contextlib import ExitStack  # noqa: PLC0415

    from recsys_fed.deployment.federation import FederationFolder  # noqa: PLC0415
    from recsys_fed.deployment.serving import serve_federation, wait_for_end  # noqa: PLC0415
    from recsys_fed.flower import end_on_signals  # noqa: PLC0415
    from recsys_fed.report.deployment import say  # noqa: PLC0415

    own, code = FederationFolder(folder), 0
    with end_on_signals(), ExitStack() as stack:
        if metrics_port:
            from recsys_fed.deployment.status import federation_metrics, serve_metrics  # noqa: PLC0415

            stack.enter_context(serve_metrics(metrics_port, lambda: federation_metrics(own)))
        process = stack.enter_context(serve_federation(own, insecure=insecure, say=say))
        code = wait_for_end([process])
    raise typer.Exit(code)


@app.command()
@run_options("epsilon", "minimum_silos", "robust", epsilon="Of this training; at most the agreed one.")
def train(  # noqa: PLR0913  (one argument a flag)
    folder: Folder,
    earlier: Annotated[
        str | None, typer.Argument(metavar="[TRAINING]", help="With --continue: the last one to build on.")
    ] = None,
    *,
    given: dict[str, Any],
    builds_on: Annotated[
        bool,
        typer.Option("--continue", help="Build on all that earlier trainings released, or those up to TRAINING."),
    ] = False,
    settings: Setting = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the newest training.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds in which the training has to end.")] = 86_400.0,
    track: Track = "",
    as_json: AsJson = False,
) -> None:
    """Train a global model with the connected silos."""
    from recsys_fed.deployment.federation import FederationFolder  # noqa: PLC0415
    from recsys_fed.deployment.training import (  # noqa: PLC0415
        earlier_runs,
        new_training,
        only_training,
        progress_of,
        resume_newest,
        run_training,
    )
    from recsys_fed.report.console import show_line  # noqa: PLC0415
    from recsys_fed.report.deployment import say  # noqa: PLC0415

    own = FederationFolder(folder)
    keys: Any = settings_of(settings or []) | given
    if earlier is not None and not builds_on:
        raise ConfigurationError(f"Expected --continue before the training to build on, {earlier}.")
    if resume and builds_on:
        raise ConfigurationError("Expected --resume alone: a training goes on with what it began to build on.")
    with only_training(own), show_line(new_console(stderr=True)) as tell, _interrupt_on_sigterm():
        if resume:
            training = resume_newest(own)
        else:
            built = earlier_runs(own, until=earlier, say=say) if builds_on else []
            training = new_training(own, overrides=keys, earlier=built)
        tell(f"{training.name}: waiting for silos")

        def look(path: Path) -> None:
            done = progress_of(path)
            if done["planned"]:
                tell(f"{path.name}: round {done['rounds']} of {done['planned']}")

        try:
            run_training(
                own, training, timeout=timeout, say=say, on_poll=look, keep_going=_ask_to_keep_going, track=track
            )
        except KeyboardInterrupt:
            say(f"{training.name} is not complete: recsys-fed federation train {folder} --resume")
            raise typer.Exit(130) from None
    record = progress_of(training)
    emit(record | {"folder": str(training)}) if as_json else say(f"the model is in {training}")


@app.command()
@run_options("minimum_silos", "robust")
def schedule(  # noqa: PLR0913  (one argument a flag)
    folder: Folder,
    *,
    given: dict[str, Any],
    every_days: Annotated[float | None, typer.Option(help="Days from one training to the next.")] = None,
    trainings: Annotated[int | None, typer.Option(help="How many trainings.")] = None,
    begin: Annotated[str | None, typer.Option(help="When the first is due, ISO, UTC; without it, now.")] = None,
    epsilon_in_all: Annotated[
        float | None, typer.Option(help="What all of them may cost together; without it each takes the terms'.")
    ] = None,
    retries: Annotated[int, typer.Option(help="How often a training that fails is taken up again.")] = 3,
    retry_minutes: Annotated[float, typer.Option(help="Minutes until then.")] = 15.0,
    builds_on: Annotated[
        bool, typer.Option("--continue", help="Each builds on all that trainings before it released.")
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="Train if one is due now, and end: for a timer.")] = False,
    systemd: Annotated[bool, typer.Option("--systemd", help="Print a timer and its service, and end.")] = False,
    track: Track = "",
    settings: Setting = None,
) -> None:
    """Train by the calendar: with --every-days and --trainings a new schedule begins, without them it goes on."""
    import time  # noqa: PLC0415
    from datetime import UTC, datetime  # noqa: PLC0415

    from recsys_fed.deployment.federation import FederationFolder  # noqa: PLC0415
    from recsys_fed.deployment.scheduling import keep_calendar, systemd_units  # noqa: PLC0415
    from recsys_fed.deployment.training import (  # noqa: PLC0415
        earlier_runs,
        new_training,
        only_training,
        prepare_to_resume,
        progress_of,
        run_training,
    )
    from recsys_fed.report.deployment import say  # noqa: PLC0415

    own = FederationFolder(folder)
    if systemd:
        typer.echo(systemd_units(own), nl=False)
        return
    calendar = _calendar(own, every_days, trainings, begin, epsilon_in_all, builds_on, (retries, retry_minutes))
    keys: Any = settings_of(settings or []) | given

    def begin_training(planned: "CalendarOfTrainings") -> Path:
        own_keys = keys | ({"epsilon": planned.epsilon} if planned.epsilon else {})
        built = earlier_runs(own, say=say) if planned.builds_on else []
        return new_training(own, overrides=own_keys, earlier=built)

    def finish_training(training: Path) -> None:
        # After a crash that left the model but no note of it there is nothing to do.
        with only_training(own):
            if not progress_of(training)["complete"]:
                again = prepare_to_resume(own, training)
                run_training(own, again, timeout=86_400.0, say=say, on_poll=lambda _: None, track=track)

    with _interrupt_on_sigterm():
        keep_calendar(
            own, calendar, begin=begin_training, finish=finish_training, say=say, sleep=time.sleep, once=once,
            clock=lambda: datetime.now(UTC),
        )  # fmt: skip


def _calendar(
    own: "FederationFolder",
    every_days: float | None,
    trainings: int | None,
    begin: str | None,
    epsilon: float | None,
    builds_on: bool,
    retrying: tuple[int, float],
) -> "CalendarOfTrainings":
    """The schedule that is there, or a new one, whose trainings share epsilon."""
    from datetime import UTC, datetime  # noqa: PLC0415

    from recsys_fed.deployment.scheduling import CalendarOfTrainings, epsilon_of_each, read_calendar  # noqa: PLC0415
    from recsys_fed.deployment.training import earlier_runs  # noqa: PLC0415

    there = read_calendar(own)
    if every_days is None and trainings is None:
        if there is None:
            raise ConfigurationError("There is no schedule yet. Give --every-days and --trainings.")
        return there
    if every_days is None or trainings is None:
        raise ConfigurationError("Expected --every-days and --trainings together.")
    earlier = len(earlier_runs(own, say=lambda _: None)) if builds_on else None
    each = epsilon_of_each(own, epsilon, trainings=trainings, earlier=earlier) if epsilon is not None else 0.0
    return CalendarOfTrainings(
        begins=begin or datetime.now(UTC).isoformat(timespec="seconds"),
        every_days=every_days,
        trainings=trainings,
        epsilon=each,
        builds_on=builds_on,
        retries=retrying[0],
        retry_minutes=retrying[1],
    )


def _ask_to_keep_going() -> bool:
    """At Ctrl-C in a terminal, whether the training is to go on by itself; nobody can answer for a signal."""
    if not sys.stdin.isatty():
        return False
    return not typer.confirm("Stop the training?", default=True, err=True)


@contextmanager
def _interrupt_on_sigterm() -> Iterator[None]:
    """SIGTERM is as Ctrl-C."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@app.command()
def stop(
    folder: Folder,
    now: Annotated[
        bool, typer.Option("--now", help="Do not wait for the end of its round, which masked silos then pay again.")
    ] = False,
) -> None:
    """Stop the training that goes on after its round; `train --resume` goes on with the next."""
    from recsys_fed.deployment.federation import FederationFolder  # noqa: PLC0415
    from recsys_fed.deployment.training import LONGEST_ROUND, stop_trainings  # noqa: PLC0415
    from recsys_fed.report.deployment import say  # noqa: PLC0415

    stopped = stop_trainings(FederationFolder(folder), say=say, patience=0.0 if now else LONGEST_ROUND)
    say("the training is stopped" if stopped else "no training goes on")


@app.command()
def status(
    folder: Folder,
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Again and again, until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between two looks.")] = 5.0,
    as_json: AsJson = False,
) -> None:
    """Server, certificate, silos and trainings."""
    from recsys_fed.deployment.federation import FederationFolder  # noqa: PLC0415
    from recsys_fed.deployment.status import federation_status  # noqa: PLC0415
    from recsys_fed.report.deployment import print_federation_status  # noqa: PLC0415

    while True:
        record = federation_status(FederationFolder(folder))
        emit(record) if as_json else print_federation_status(record)
        if not watch:
            return
        time.sleep(every)


@app.command()
def check(folder: Folder, *, as_json: AsJson = False) -> None:
    """Settings, certificates, what silos are handed, roster, port, disk. Exit code 1 if one of them is not good."""
    from recsys_fed.deployment.checking import check_federation  # noqa: PLC0415
    from recsys_fed.deployment.federation import FederationFolder  # noqa: PLC0415
    from recsys_fed.report.deployment import print_findings  # noqa: PLC0415

    findings = check_federation(FederationFolder(folder))
    records = [vars(finding) for finding in findings]
    emit(records) if as_json else print_findings(records)
    raise typer.Exit(0 if all(finding.good for finding in findings) else 1)


@app.command()
def backup(
    folder: Folder, file: Annotated[Path, typer.Argument(metavar="FILE", help="The backup, a new file (tar.gz).")]
) -> None:
    """Write keys, settings, rosters and trainings to one file; the server may go on meanwhile."""
    from recsys_fed.deployment.backup import back_up_federation  # noqa: PLC0415
    from recsys_fed.report.deployment import say  # noqa: PLC0415

    say(f"{back_up_federation(folder, file)} files are in {file}; it holds the federation's private keys")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A backup that `federation backup` wrote.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
) -> None:
    """Put a federation back; silos notice nothing but the pause."""
    from recsys_fed.deployment.backup import restore_federation  # noqa: PLC0415
    from recsys_fed.report.deployment import say  # noqa: PLC0415

    restore_federation(file, folder)
    say(f"the federation is in {folder}; then: recsys-fed federation serve {folder}")


@app.command("change-keys")
def change_keys(
    folder: Folder,
    *,
    reason: Annotated[str, typer.Option(help="Shown to the operators of silos.")],
) -> None:
    """Make a new key for notices, signed by the one before, and a new authority for the server's certificate.

    Silos take them in by `silo update --agree`; when all have, `federation renew-certificate` makes use of the
    authority.
    """
    from recsys_fed.deployment.federation import FederationFolder  # noqa: PLC0415
    from recsys_fed.deployment.provisioning import change_federation_keys  # noqa: PLC0415
    from recsys_fed.report.deployment import say  # noqa: PLC0415
    from recsys_fed.silo.secret import passphrase  # noqa: PLC0415

    own = FederationFolder(folder)
    _say_notice(change_federation_keys(own, reason=reason, passphrase=passphrase()))
    say("each silo: recsys-fed silo update DIR --agree, and start it again")
    say(f"when all have: recsys-fed federation renew-certificate {folder}, and start the server again")


@app.command("renew-certificate")
def renew_certificate(
    folder: Folder,
    *,
    host: Annotated[list[str] | None, typer.Option(help="Another name for the certificate; may be repeated.")] = None,
) -> None:
    """Make a new server key and certificate; silos notice nothing. Restart `federation serve` afterwards."""
    from recsys_fed.deployment.federation import FederationFolder  # noqa: PLC0415
    from recsys_fed.deployment.provisioning import renew_server_certificate  # noqa: PLC0415
    from recsys_fed.silo.secret import passphrase  # noqa: PLC0415

    renew_server_certificate(FederationFolder(folder), hosts=host or (), passphrase=passphrase())


def _synchronise(folder: Path) -> None:
    """Tell a running server who is admitted; one that does not run reads it when it starts."""
    from recsys_fed.deployment.federation import (  # noqa: PLC0415
        AUTHORITY,
        FederationFolder,
        shell_line,
        split_address,
    )
    from recsys_fed.deployment.roster import synchronise  # noqa: PLC0415
    from recsys_fed.deployment.serving import prepare_flower  # noqa: PLC0415
    from recsys_fed.flower import healthy  # noqa: PLC0415
    from recsys_fed.report.deployment import say  # noqa: PLC0415

    own = FederationFolder(folder)
    settings = own.settings()
    port = split_address(settings.address)[1]
    if settings.insecure or healthy("127.0.0.1", port, authority=own.public / AUTHORITY):
        return
    prepare_flower(own, settings)
    synchronise(own, say=lambda command: say(shell_line(command, own.flower_home)))
