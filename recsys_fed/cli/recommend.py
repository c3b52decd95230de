"""`recsys-fed recommend`: a ranking for a history typed in by hand."""

import csv
from pathlib import Path
from typing import Annotated

import typer

from recsys_fed.cli.options import emit
from recsys_fed.errors import ConfigurationError


def recommend(
    *,
    run: Annotated[Path, typer.Option(help="Folder that `simulate --output` wrote.")],
    history: Annotated[
        list[str],
        typer.Option(
            help="Item ids with commas between them, the newest last; one with a comma as in CSV: '\"a,b\",c'."
        ),
    ],
    k: Annotated[int, typer.Option("-k", help="Length of the list.")] = 10,
    new_items: Annotated[
        Path | None,
        typer.Option(help="Items to rank, too, by their features: a catalogue, or CSV: item,title,categories,text."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fold a user in from a history and recommend; nothing leaves this machine."""
    from recsys_fed.report.run import print_recommendations  # noqa: PLC0415
    from recsys_fed.simulation.recommender import recommend_from_run  # noqa: PLC0415

    result = recommend_from_run(run, _ids(history), k=k, new_items=new_items)
    if as_json:
        emit(result)
    else:
        print_recommendations(result)


def _ids(texts: list[str]) -> list[str]:
    """Ids of an option that may be repeated, each time a line of CSV."""
    try:
        cells = [cell.strip() for line in csv.reader(texts, skipinitialspace=True, strict=True) for cell in line]
    except csv.Error as error:
        raise ConfigurationError(
            f"Expected --history as ids with commas between them, got {texts}: {error}. "
            'An id that holds a comma or a quote is written "a,b" or "say ""a""".'
        ) from error
    return [cell for cell in cells if cell]
