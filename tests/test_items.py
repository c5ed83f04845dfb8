"""Every item of the lecture has a test: a table of items, their kind and owner, against the marks in the tests' own source."""

from __future__ import annotations

from tests.support.items import marks, read_items, read_tests_of_items

ITEMS = read_items()
TESTED = ("check", "feature")  # kinds whose items a test shows to be there


def test_every_check_and_feature_has_a_test() -> None:
    """Whoever's it is: no owner is exempt."""
    asked = [item for item, about in ITEMS.items() if about["kind"] in TESTED]
    assert len(asked) > 150
    assert [item for item in asked if item not in read_tests_of_items()] == []


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


def test_every_item_has_a_kind_and_an_owner() -> None:
    assert {about["kind"] for about in ITEMS.values()} == {"check", "feature", "claim", "out"}
    assert all(about["owner"] for about in ITEMS.values())
