"""`recsys-fed recommend`: a ranking for a history typed in by hand."""

from pathlib import Path
from typing import Annotated

import typer

from recsys_fed.cli.options import emit


def recommend(
    *,
    run: Annotated[Path, typer.Option(help="Folder that `simulate --output` wrote.")],
    history: Annotated[str, typer.Option(help="Item ids, separated by commas.")],
    k: Annotated[int, typer.Option("-k", help="Length of the list.")] = 10,
    new_items: Annotated[
        Path | None,
        typer.Option(help="Items to rank, too, by their features: a catalogue, or CSV: item,title,categories,text."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fold a user in from a history and recommend; nothing leaves this machine."""
    from recsys_fed.report.terminal import print_recommendations  # noqa: PLC0415
    from recsys_fed.simulation.recommend import recommend_from_run  # noqa: PLC0415

    result = recommend_from_run(
        run, [item.strip() for item in history.split(",") if item.strip()], k=k, new_items=new_items
    )
    if as_json:
        emit(result)
    else:
        print_recommendations(result)
