"""Tables in terminals of any width and in pipes: every word of every cell is there, whole, and lines fit."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from recsys_fed.report.console import new_console, new_table, print_table

HEADINGS = ("method", "epsilon", "frequent items", "intermediate items", "rare items", "what was found beside it")
ROW = ("popularity (not private)", "-", "0.4140", "0.6220 (0.6010 to 0.6430)", "0.0000", "nothing that anybody needs")


def printed(headings, rows, *, width, terminal=True, keys=2):
    out = io.StringIO()
    console = new_console(file=out, force_terminal=terminal, width=width, color_system=None)
    table = new_table(*headings)
    for row in rows:
        table.add_row(*map(Text, row))
    print_table(console, table, keys=keys)
    return out.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_a_terminal_gets_whole_words_in_lines_that_fit(width):
    out = printed(HEADINGS, [ROW, ROW], width=width)
    assert max(map(len, out.splitlines())) <= width
    assert "…" not in out
    words = out.split()
    for text in (*HEADINGS, *ROW):
        assert all(word in words for word in text.split())


def test_a_pipe_gets_a_row_a_line_however_long():
    out = printed(HEADINGS, [ROW, ROW], width=80, terminal=False)
    lines = [line for line in out.splitlines() if ROW[0] in line]
    assert len(lines) == 2
    assert all(cell in line for cell in ROW for line in lines)
    assert any(all(heading in line for heading in HEADINGS) for line in out.splitlines())


def test_a_table_that_is_parted_repeats_its_keys():
    rows = [("first", "1", *"abcd"), ("second", "2", *"efgh")]
    out = printed(HEADINGS, rows, width=40)
    parts = out.count("method")
    assert parts > 1
    assert out.count("first") == out.count("second") == out.count("epsilon") == parts
    assert [out.count(heading.split()[0]) for heading in HEADINGS[2:]] == [1] * 4


def test_a_word_beyond_any_column_is_folded_and_not_cut():
    key = "0123456789abcdef" * 4
    out = printed(("silo", "key"), [("silo-0", key)], width=50, keys=1)
    assert max(map(len, out.splitlines())) <= 50
    inside = "".join(line.replace("silo-0", "").strip("│ ") for line in out.splitlines()[1:])
    assert key in inside.replace(" ", "").replace("─", "")


@given(
    st.lists(st.lists(st.sampled_from(["a", "wörter", "two words", "", "0.41"]), min_size=4, max_size=4), max_size=4),
    st.integers(30, 100),
)
def test_any_cells_at_any_width_keep_their_words(rows, width):
    out = printed(("one", "two things", "three", "four"), rows, width=width, keys=1)
    assert max(map(len, out.splitlines())) <= width
    for row in rows:
        assert all(word in out.split() for cell in row for word in cell.split())
