"""`recsys-fed catalogue`: write the public catalogue file that a federation agrees on, with encoded text if asked."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from recsys_fed.cli.options import one_of_two

Data = Annotated[str | None, typer.Option(help="Take the items of this data set: a name, or a path.")]
Source = Annotated[Path | None, typer.Option("--catalogue", help="Take the items of this catalogue.")]
Encoder = Annotated[
    str | None,
    typer.Option(
        help='Add text vectors: "minilm", or a sentence transformer by path or name (needs recsys-fed[text]).'
    ),
]


def catalogue(
    output: Annotated[Path, typer.Argument(help="File to write, catalogue.parquet.")],
    *,
    data: Data = None,
    source: Source = None,
    encoder: Encoder = None,
) -> None:
    """Write a catalogue: ids, titles, categories, texts, and with --encoder an embedding of each text.

    A data set's items are those that occur in it: fine for a simulation, but which items occur in a silo is private.
    """
    one_of_two(data=data, catalogue=source)
    from recsys_fed.catalogue.encoder import encoded  # noqa: PLC0415
    from recsys_fed.catalogue.items import Catalogue  # noqa: PLC0415
    from recsys_fed.data.locate import open_dataset  # noqa: PLC0415

    items = Catalogue.load(source) if source is not None else open_dataset(data).catalogue
    if encoder is not None:
        items = encoded(items, encoder)
    items.save(output)
    vectors = "" if items.text_vectors is None else f", text vectors of length {items.text_vectors.shape[1]}"
    Console().print(f"{items.n_items:,} items{vectors}, hash {items.content_hash[:12]}, written to {output}")
