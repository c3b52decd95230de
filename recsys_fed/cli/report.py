"""`recsys-fed report`: one HTML page of whatever lies in a folder."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    place: Annotated[
        str, typer.Argument(metavar="DIR", help="Folder of a run, of several runs or of an audit; or a ledger.")
    ],
    *,
    output: Annotated[Path | None, typer.Option(help="The page; by default report.html in the folder.")] = None,
) -> None:
    """Write one self-contained HTML page: guarantee, budget, quality, audit, certificates, configuration."""
    from recsys_fed.report.report_file import write_report  # noqa: PLC0415

    typer.echo(str(write_report(place, output=output)))
