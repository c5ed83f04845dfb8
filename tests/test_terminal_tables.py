"""Tables of text: cells line up, and a table without rows is empty."""

from __future__ import annotations

from goodfit.terminal.tables import format_table


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    table = format_table([("ab", "1", "x"), ("c", "1,000", "")], "<><", ("name", "n", ""), indent="  ")
    assert table.splitlines() == ["  name      n", "  ab        1  x", "  c     1,000"]


def test_a_table_without_rows() -> None:
    assert format_table([], "<>") == ""
    assert format_table([("", "a")], "<<") == "  a", "an empty column takes no width"
