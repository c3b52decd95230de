"""Each thing that goes wrong in files of items: line breaks and quotes in titles, letters, empty fields."""

import pytest
from doors import through_all

from recsys_fed.data.locate import open_dataset
from recsys_fed.data.readers.products import catalogue_of_table
from recsys_fed.data.readers.reading import TextFormat
from recsys_fed.errors import DataFormatError

BREAKS = {"LF": "\n", "CRLF": "\r\n", "U+2028": "\u2028", "NEL": "\x85", "FF": "\x0c", "VT": "\x0b"}


@pytest.mark.parametrize("name", BREAKS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_line_break_in_a_title_makes_no_item(name, end, tmp_path):
    between = BREAKS[name]
    title = f'"One{between}two"' if name in ("LF", "CRLF") else f"One{between}two"
    rows = ["item,title,genres", f"1,{title},A|B", '2,"say ""no""",C', '3,5" disk,']
    (tmp_path / "p.csv").write_bytes((end.join(rows) + end).encode())
    found = catalogue_of_table(tmp_path / "p.csv")
    assert found.item_ids.tolist() == ["1", "2", "3"]
    assert found.titles == ("One two" if name in ("LF", "CRLF") else f"One{between}two", 'say "no"', '5" disk')
    assert found.categories == (("A", "B"), ("C",), ())


@pytest.mark.parametrize("between", ["\u2028", "\x85", "\x0c", "\x1c", '"', "é"])
def test_titles_of_movielens_are_whole(between, tmp_path):
    for name, form, encoding in (("u.item", "100k", "utf-8"), ("movies.dat", "10m", "utf-8")):
        folder = tmp_path / form
        folder.mkdir()
        title = f"One{between}two (1995)"
        if form == "100k":
            (folder / name).write_bytes(f"1|{title}|x||y|1\n2|B|||y|0\n".encode(encoding))
            (folder / "u.genre").write_text("Drama|0\n")
            (folder / "u.data").write_text("1\t1\t5\t1\n1\t2\t5\t1\n")
        else:
            (folder / name).write_bytes(f"1::{title}::Drama\n2::B::\n".encode(encoding))
            (folder / "ratings.dat").write_text("1::1::5::1\n1::2::5::1\n")
        dataset = open_dataset(str(folder))
        assert dataset.catalogue.titles == (title, "B")
        assert dataset.catalogue.categories == (("Drama",), ())


@pytest.mark.parametrize(("encoding", "name"), [("utf-8", "10M"), ("latin-1", "1M")])
def test_titles_of_movielens_have_their_letters(encoding, name, tmp_path):
    titles = ("Léon: The Professional (1994)", "Misérables, Les (1995)", "Åsa-Nisse: åäö (1949)")
    lines = [f"{item}::{title}::Drama\n" for item, title in enumerate(titles)]
    (tmp_path / "movies.dat").write_bytes("".join(lines).encode(encoding))
    (tmp_path / "ratings.dat").write_text("".join(f"1::{item}::5::1\n" for item in range(3)))
    assert open_dataset(str(tmp_path)).catalogue.titles == titles, name


def test_tags_beside_ratings_are_not_read(tmp_path):
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,7,4.0,964982703\n")
    (tmp_path / "tags.csv").write_text("userId,movieId,tag,timestamp\n2,60756,funny,1445714994\n")
    (tmp_path / "movies.csv").write_text('movieId,title,genres\n7,"Seven, or 7 (1995)",(no genres listed)\n')
    dataset = open_dataset(str(tmp_path))
    assert dataset.interactions.user_ids.tolist() == ["1"]
    assert (dataset.catalogue.titles, dataset.catalogue.categories) == (("Seven, or 7 (1995)",), ((),))
    assert through_all(tmp_path / "ratings.csv", folder=tmp_path / "blocks").users("1")


def test_the_products_that_were_met(real):
    path = real("cases/f2_products.csv")
    found = catalogue_of_table(path, {}, TextFormat())
    assert found.item_ids.tolist() == ["sku-1", "sku-2", "sku-3"]
    assert found.titles == ("Red shoe", "Blue shoe", "Hat")
    assert found.categories == (("shoes",), ("shoes",), ("hats",))


def test_quotes_that_never_close_are_letters_of_items_too(tmp_path):
    """Many of them take no time: a quote that closes within a field is known to be none at once."""
    titles = ['"Heroes', 'say "x" y', '"Low', "plain", '5" disk', '"whole"'] * 5_000
    rows = [f"{item}\t{title}" for item, title in enumerate(titles)]
    (tmp_path / "p.tsv").write_text("\n".join(["item\ttitle", *rows]))
    found = catalogue_of_table(tmp_path / "p.tsv")
    assert found.titles == tuple(title if title != '"whole"' else "whole" for title in titles)


def test_a_field_of_several_lines_may_hold_quotes(tmp_path):
    (tmp_path / "p.csv").write_text('item,title,genres\n1,"a\n""b""\n\nc",x\n2,"d\ne"\n3,f,y\n')
    with pytest.raises(DataFormatError, match="3 fields in line 6 "):
        catalogue_of_table(tmp_path / "p.csv")
    (tmp_path / "p.csv").write_text('item,title,genres\n1,"a\n""b""\n\nc",x\n2,"d\ne",\n3,f,y\n')
    assert catalogue_of_table(tmp_path / "p.csv").titles == ('a "b" c', "d e", "f")
