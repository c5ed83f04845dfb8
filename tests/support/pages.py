"""The pages of the documentation and their blocks of code, found and not listed."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
IN_DOCS = sorted(f"docs/{file.name}" for file in ROOT.glob("docs/*.md"))
PAGES = ["README.md", "README.ko.md", "CONTRIBUTING.md", "CHANGELOG.md", *IN_DOCS, "bench/README.md"]


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language and its text."""

    language: str
    text: str

    @property
    def commands(self) -> list[tuple[str, list[str]]]:
        """The commands of a block of the shell, each with the lines of output that are shown below it.

        Where a line begins with `$`, those are the commands; else every line is one.
        """
        lines = self.text.replace("\\\n", " ").splitlines()
        has_prompts = any(line.startswith("$ ") for line in lines)
        commands: list[tuple[str, list[str]]] = []
        for line in filter(str.strip, lines):
            if not has_prompts or line.startswith("$ "):
                commands.append((line.removeprefix("$ "), []))
            else:
                commands[-1][1].append(line)
        return commands


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def table_commands(page: str) -> list[str]:
    """The commands that fill a cell of a table."""
    return [cell.replace("\\|", "|") for cell in re.findall(r"(?<=\| )`(goodfit [^`]+)`(?= \|)", read(page))]


def blocks(page: str, *languages: str) -> list[Block]:
    """The blocks of a page, in order; of some languages alone, if given."""
    found = [Block(*match) for match in re.findall(r"^```(\w*)\n(.*?)^```$", read(page), re.DOTALL | re.MULTILINE)]
    return [block for block in found if block.language in (languages or (block.language,))]
