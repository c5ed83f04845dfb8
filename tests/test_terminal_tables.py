"""Tables of text: cells line up, and a table without rows is empty."""

from __future__ import annotations

import pytest

from goodfit.terminal.tables import format_table


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    table = format_table([("ab", "1", "x"), ("c", "1,000", "")], "<><", ("name", "n", ""), indent="  ")
    assert table.splitlines() == ["  name      n", "  ab        1  x", "  c     1,000"]


def test_a_table_that_is_too_wide_wraps_text_at_words_and_stacks_what_is_left() -> None:
    rows = [("conv", "two words and more", "1,000", "12.5 %"), ("fc", "one", "2", "-")]
    header = ("name", "what it is", "n", "share")
    assert format_table(rows, "<<>>", header, columns=33).splitlines() == [
        "name  what it is        n   share",
        "conv  two words     1,000  12.5 %",
        "      and more",
        "fc    one               2       -",
    ]  # fmt: skip
    narrow = format_table(rows, "<<>>", header, columns=20).splitlines()
    assert narrow == [
        "name  what       n", "      it is", "conv  two    1,000", "      words", "      and", "      more", "fc    one        2",
        "name   share", "conv  12.5 %", "fc         -",
    ]  # fmt: skip
    assert all(len(line) <= 20 for line in narrow)


@pytest.mark.parametrize("columns", [1, 5, 17, 30, 80])
def test_at_any_width_nothing_is_lost(columns: int) -> None:
    rows = [[f"r{i}c{k}w{w}" for k in range(6) for w in [i]] for i in range(4)]
    table = format_table(rows, "<><<>>", columns=columns)
    assert {word for row in rows for word in row} == set(table.split())
    assert max(map(len, table.splitlines())) <= max(columns, len("r0c0w0  r0c0w0")), "two columns at least"


def test_a_table_without_rows() -> None:
    assert format_table([], "<>") == ""
    assert format_table([("", "a")], "<<") == "  a", "an empty column takes no width"
