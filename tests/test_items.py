"""Every item of the lecture has a test: a table of items and their kinds against the marks in the tests' own source."""

from __future__ import annotations

from tests.support.items import marks, read_items, read_tests_of_items

ITEMS = read_items()


def test_every_item_in_scope_has_a_test() -> None:
    in_scope = [item for item, kind in ITEMS.items() if kind != "out"]
    assert len(in_scope) > 150 and [item for item in in_scope if item not in read_tests_of_items()] == []


def test_every_mark_names_an_item_there_is() -> None:
    assert {item: tests for item, tests in read_tests_of_items().items() if item not in ITEMS} == {}


def test_marks_are_read_from_source() -> None:
    source = """
import pytest
@pytest.mark.item("S001", "S002")
@pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.item("S003"))])
def test_one(x): ...
@pytest.mark.slow
def test_none(): ...
@pytest.mark.item("S004")
def not_a_test(): ...
"""
    assert sorted(marks(source)) == [("test_one", "S001"), ("test_one", "S002"), ("test_one", "S003")]


def test_every_item_is_a_check_a_feature_a_claim_or_out_of_scope() -> None:
    assert set(ITEMS.values()) == {"check", "feature", "claim", "out"}
