"""`recsys-fed catalogue`: write the public catalogue file that a federation agrees on, with encoded text if asked."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recsys_fed.cli._options import one_of_two, run_options
from recsys_fed.errors import ConfigurationError
from recsys_fed.report.console import new_console

if TYPE_CHECKING:
    from recsys_fed.catalogue.items import Catalogue

Table = Annotated[
    Path | None, typer.Option(help="Take the items of a .csv, .tsv or .parquet table of products, a row an item.")
]
Columns = Annotated[
    str | None,
    typer.Option(help="Of the table: item=NAME[,title=NAME][,categories=NAME][,text=NAME], where they differ."),
]
Data = Annotated[str | None, typer.Option(help="Take the items of this data set: a name, or a path.")]
Source = Annotated[Path | None, typer.Option("--catalogue", help="Take the items of this catalogue.")]
PublicUsers = Annotated[
    Path | None,
    typer.Option(
        help="Add histories that their owners made public: a table of user, item, and consent, what each agreed to."
    ),
]
Encoder = Annotated[
    str | None,
    typer.Option(
        help='Add text vectors: "minilm", or a sentence transformer by path or name (needs recsys-fed[text]).'
    ),
]
Vectors = Annotated[
    list[Path] | None,
    typer.Option(
        help="Add vectors of items from a Parquet table (item, and a list of numbers); may be given several times."
    ),
]


@run_options("format")
def catalogue(  # noqa: PLR0913  (one argument a flag)
    output: Annotated[Path, typer.Argument(help="File to write, catalogue.parquet.")],
    *,
    given: dict[str, Any],
    table: Table = None,
    columns: Columns = None,
    data: Data = None,
    source: Source = None,
    encoder: Encoder = None,
    vectors: Vectors = None,
    public_users: PublicUsers = None,
) -> None:
    """Write a catalogue: ids, titles, categories, texts, and with --encoder an embedding of each text.

    It is public, so it must not be made from private data. A data set's items are those that occur in it: fine for a
    simulation, but which items occur in a silo is private.
    """
    one_of_two(table=table, data=data, catalogue=source)
    if output.exists():
        raise ConfigurationError(f"There is a file at {output} already.")
    if table is None and (columns is not None or given):
        raise ConfigurationError("Expected --columns and --format beside --table only. Leave them out.")
    items = _read_table(table, columns or "", given.get("format", "")) if table is not None else _items(data, source)
    if encoder is not None:
        from recsys_fed.catalogue.features import encode_text  # noqa: PLC0415

        new_console(stderr=True).print(f"encoding the texts of {items.n_items:,} items")
        items = encode_text(items, encoder)
    if vectors:
        from recsys_fed.catalogue.features import add_vectors  # noqa: PLC0415

        for file in vectors:
            items = add_vectors(items, file)
    if public_users is not None:
        from recsys_fed.data.readers.products import add_public_users  # noqa: PLC0415

        items, _ = add_public_users(items, public_users)
    items.save(output)
    length = "" if items.text_vectors is None else f", vectors of length {items.text_vectors.shape[1]}"
    written = f"{items.n_items:,} items{length}, hash {items.content_hash[:12]}, written to {output}"
    new_console().print(written, markup=False)
    if items.public_users is not None:
        new_console().print(f"public users: {items.public_users.sentence()}", markup=False)


def _read_table(table: Path, columns: str, form: str) -> "Catalogue":
    from recsys_fed.data.readers.products import catalogue_of_table  # noqa: PLC0415
    from recsys_fed.data.readers.reading import text_format_of  # noqa: PLC0415

    pairs = [pair.partition("=") for pair in columns.split(",")] if columns else []
    named = {role.strip(): name for role, _, name in pairs}
    return catalogue_of_table(table, named, text_format_of(form))


def _items(data: str | None, source: Path | None) -> "Catalogue":
    from recsys_fed.catalogue.items import Catalogue  # noqa: PLC0415
    from recsys_fed.data.locate import open_dataset  # noqa: PLC0415

    return Catalogue.load(source) if source is not None else open_dataset(data).catalogue
