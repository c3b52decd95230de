"""`recsys-fed silo opt-out` and `silo export-user`: users who leave, and what a silo holds of one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recsys_fed.cli._options import AsJson, emit

if TYPE_CHECKING:
    from recsys_fed.silo.secret import SiloSecret
    from recsys_fed.silo.settings import SiloSettings

opt_out = typer.Typer(help="Users who take no part in any later training.", no_args_is_help=True)

_Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the silo.")]


def register(silo: typer.Typer) -> None:
    """Add these commands to `recsys-fed silo`."""
    silo.add_typer(opt_out, name="opt-out")
    silo.command("export-user")(export_user)


@opt_out.command("add")
def add(
    folder: _Folder,
    users: Annotated[list[str] | None, typer.Argument(help="Ids as in the silo's data.")] = None,
    *,
    file: Annotated[Path | None, typer.Option(help="A table, or a text file with an id a line.")] = None,
    column: Annotated[str, typer.Option(help="Of --file: its name, or its position where there is no header.")] = "0",
    receipts: Annotated[Path, typer.Option(help="Folder for a signed receipt a user.")] = Path("receipts"),
) -> None:
    """Leave users out of every later training, of what the silo keeps, and of its service; write signed receipts.

    It may be repeated: what a crash left undone is done then.
    """
    from recsys_fed.data.readers.blocks import ids_in_column  # noqa: PLC0415
    from recsys_fed.deployment.leaving import leave  # noqa: PLC0415
    from recsys_fed.errors import ConfigurationError  # noqa: PLC0415
    from recsys_fed.report.deployment import say  # noqa: PLC0415

    named = [*(users or ()), *(ids_in_column(file, column) if file is not None else ())]
    if not named:
        raise ConfigurationError("Expected users to leave out, as arguments or in --file, got none.")
    settings, secret = _open_silo_folder(folder)
    for line in leave(settings, secret, named, receipts=receipts):
        say(line)


@opt_out.command("list")
def list_(folder: _Folder, *, as_json: AsJson = False) -> None:
    """Who has opted out, under pseudonyms, and since when."""
    from datetime import UTC, datetime  # noqa: PLC0415

    from recsys_fed.silo.opt_out import OptOuts  # noqa: PLC0415
    from recsys_fed.silo.secret import Pseudonyms  # noqa: PLC0415

    settings, secret = _open_silo_folder(folder)
    found = OptOuts(settings, Pseudonyms(secret)).listed()
    if as_json:
        emit([one._asdict() for one in found])
        return
    for one in found:
        typer.echo(f"{one.pseudonym} {datetime.fromtimestamp(one.since, UTC):%Y-%m-%dT%H:%M:%SZ}")


@opt_out.command("remove")
def remove(folder: _Folder, user: Annotated[str, typer.Argument(help="An id as in the silo's data.")]) -> None:
    """Let a user take part again, from the next training on."""
    from recsys_fed.silo.opt_out import OptOuts  # noqa: PLC0415
    from recsys_fed.silo.secret import Pseudonyms  # noqa: PLC0415

    settings, secret = _open_silo_folder(folder)
    OptOuts(settings, Pseudonyms(secret)).remove(user)


def export_user(
    folder: _Folder,
    user: Annotated[str, typer.Argument(help="An id as in the silo's data.")],
    output: Annotated[Path, typer.Argument(help="A new JSON file; mode 0600.")],
) -> None:
    """Write everything that the silo holds of a user: rows, history and vector, and what its service has."""
    import json  # noqa: PLC0415

    from recsys_fed.errors import ConfigurationError  # noqa: PLC0415
    from recsys_fed.files import OWNER_ONLY, write_whole  # noqa: PLC0415
    from recsys_fed.silo.user_export import user_record  # noqa: PLC0415

    settings, secret = _open_silo_folder(folder)
    text = json.dumps(user_record(settings, secret, user), indent=2, allow_nan=False) + "\n"
    try:
        write_whole(output, text, mode=OWNER_ONLY, new=True)
    except FileExistsError as error:
        raise ConfigurationError(f"There is a file at {output} already. Choose another name.") from error


def _open_silo_folder(folder: Path) -> "tuple[SiloSettings, SiloSecret]":
    from recsys_fed.silo.secret import SiloSecret, passphrase  # noqa: PLC0415
    from recsys_fed.silo.settings import read_silo_settings  # noqa: PLC0415

    settings: Any = read_silo_settings(folder)
    return settings, SiloSecret.load(Path(settings.secret_key), passphrase=passphrase())
