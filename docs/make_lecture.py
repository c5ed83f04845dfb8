"""Writes docs/lecture.md, the lectures' topics with commands, places and tests: `python -m docs.make_lecture`, or `make docs`."""

from __future__ import annotations

import itertools
import re
import tomllib
from pathlib import Path

from tests.support.items import read_items, read_tests_of_items

HERE = Path(__file__).parent
HEAD = """<!-- Made by docs/make_lecture.py from docs/lecture.toml and the marks of the tests: run `make docs`. -->
# From slide to command

What the lectures teach, in their order: what to type, where it is in `src/goodfit`, and the tests that hold it (by the sentence
that is each test's name). What is a claim is also tried on images: the link leads to its verdict.
Where the slides err: [errata](errata.md). Where a command says photos, name a folder of yours; runs/a is a run.
"""


def read_themes() -> dict[str, list[list[str]]]:
    """The topics of each theme: [topic, items, command, places]."""
    themes = tomllib.loads((HERE / "lecture.toml").read_text(encoding="utf-8"))["theme"]
    return {theme["name"]: theme["topics"] for theme in themes}


def expand_items(text: str) -> list[str]:
    """ "S018-S020 S023" as the four items it names."""
    spans = [span.split("-") for span in text.split()]
    return [f"S{number:03d}" for span in spans for number in range(int(span[0][1:]), int(span[-1][1:]) + 1)]


def lecture_page() -> str:
    """The page, with a table for each theme."""
    text, tests, kinds = HEAD, read_tests_of_items(), read_items()
    for theme, topics in read_themes().items():
        text += f"\n## {theme}\n\n| topic | type | where | held by |\n|---|---|---|---|\n"
        for topic, items, command, places in topics:
            held = list(dict.fromkeys(test for item in expand_items(items) for test in tests.get(item, [])))
            shown = command.replace("|", "\\|")  # else it would end the cell
            tried = [f"[{item}](claims.md#{item.lower()})" for item in expand_items(items) if kinds[item] == "claim"]
            claims = f", claims {', '.join(tried)}" if tried else ""
            text += f"| {topic} ({items}{claims}) | `{shown}` | {', '.join(map(_link, places.split('; ')))} | {_format_tests(held)} |\n"
    left = " ".join(item for item, kind in kinds.items() if kind == "out")
    return f"{text}\nNot about training, or not to be had on one machine, and therefore not here: {left}.\n"


def _link(place: str) -> str:
    """A link to the card of a part, or to a file."""
    if part := re.fullmatch(r"(\w+) \((\w+)\)", place):
        return f"[{part[1]}](parts.md#{part[1]}-{part[2]})"
    return f"[{place}](../src/goodfit/{place})"


def _format_tests(tests: list[str]) -> str:
    """Tests by file, each name as the sentence it is."""
    split = [test.split("::") for test in tests]
    return (
        "; ".join(
            f"[{file}](../tests/{file}): " + ", ".join(name.removeprefix("test_").replace("_", " ") for _, name in group)
            for file, group in itertools.groupby(sorted(split), key=lambda pair: pair[0])
        )
        or "—"
    )


if __name__ == "__main__":
    (HERE / "lecture.md").write_text(lecture_page(), encoding="utf-8")
    print("docs/lecture.md")
