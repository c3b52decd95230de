"""The command `recsys-fed`. Every command is one call into the library.

Exit codes: 0, it holds, fits or is done; 1, it does not hold, would exceed a budget, or was refused; 2, bad input.
"""

import sys
from typing import Annotated

import typer

from recsys_fed.cli import _catalogue, _federation, _privacy, _runs, _serving, _silo, _users
from recsys_fed.cli._options import with_plain_help
from recsys_fed.errors import BudgetExceededError, LedgerIntegrityError, RecsysFedError
from recsys_fed.report.console import let_streams_take_any_text, new_console
from recsys_fed.versions import version_of, versions, with_extra

app = typer.Typer(
    help="Federated, differentially private recommendation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # see `cli.options`
)
app.command("simulate")(_runs.simulate)
app.command("compare")(_runs.compare)
app.command("sweep")(_runs.sweep)
app.command("recommend")(_runs.recommend)
app.command("predict")(_runs.predict)
app.command("export")(_runs.export)
app.command("catalogue")(_catalogue.catalogue)
app.command("audit")(_runs.audit)
app.command("report")(_runs.report)
app.command("dossier")(_runs.dossier)
app.command("app")(_runs.app)
app.add_typer(_privacy.app, name="privacy")
app.add_typer(_federation.app, name="federation")
_serving.register(_silo.app)
_users.register(_silo.app)
app.add_typer(_silo.app, name="silo")


def _tell_versions(wanted: bool) -> None:
    if wanted:
        lines = ({"recsys-fed": version_of("recsys-fed")} | versions()).items()
        typer.echo("\n".join(f"{name} {version}" for name, version in lines))
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Tell the versions of what results depend on.", callback=_tell_versions, is_eager=True
        ),
    ] = False,
) -> None:
    """Federated, differentially private recommendation."""


def main() -> None:
    """Run the command; errors of the library are one line on standard error and exit code 1 or 2."""
    let_streams_take_any_text()
    try:
        _run()
    except RecsysFedError as error:
        console = new_console(stderr=True, highlight=False)
        console.print(f"[bold red]{type(error).__name__}[/]: ", end="")
        console.print(str(error), markup=False)
        sys.exit(1 if isinstance(error, LedgerIntegrityError | BudgetExceededError) else 2)


def _run() -> None:
    try:
        with_plain_help(typer.main.get_command(app))(prog_name="recsys-fed")
    except ModuleNotFoundError as error:
        raise with_extra(error) from error
