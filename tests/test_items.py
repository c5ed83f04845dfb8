"""Every item of the lecture has a test: a table of items, their kind and owner, against the marks in the tests' own source."""

from __future__ import annotations

import pytest

from tests.support.items import marks, read_items, read_tests_of_items

ITEMS = read_items()
FINISHED = ("house", "parts", "augment", "zoo", "study", "lab")  # owners whose work is done: each of their checks and features has a test
TESTED = ("check", "feature", "claim")


@pytest.mark.parametrize("owner", FINISHED)
def test_every_item_of_a_finished_owner_has_a_test(owner: str) -> None:
    mine = [item for item, about in ITEMS.items() if about["owner"] == owner and about["kind"] in TESTED]
    assert mine, f'no item has the owner "{owner}"'
    assert [item for item in mine if item not in read_tests_of_items()] == []


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


def test_every_item_has_a_kind_and_those_that_are_tested_an_owner_here() -> None:
    assert {about["kind"] for about in ITEMS.values()} == {"check", "feature", "claim", "out"}
    owners = {about["owner"] for about in ITEMS.values() if about["kind"] in TESTED}
    assert owners >= set(FINISHED)
