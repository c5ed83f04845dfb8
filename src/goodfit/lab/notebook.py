"""The notebook of the claims: each experiment is written down as it ends, so that a killed command goes on where it was."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from goodfit.core.files import explain_write_errors
from goodfit.lab.claim import Claim, Replicate

FILE = "experiments.jsonl"
SHARED = ("laboratory.py", "nets.py")  # that every experiment may use


@dataclasses.dataclass(frozen=True)
class Page:
    """An experiment that was done: the claim's item, the seed, and what it was done with (see `Notebook.key`)."""

    item: str
    seed: int
    key: str
    replicate: Replicate
    seconds: float
    machine: str
    date: str

    def to_line(self) -> str:
        """A line of JSON; `from_line` reads it."""
        content = dataclasses.asdict(self)
        content["replicate"]["curves"] = [[*name, points] for name, points in self.replicate.curves.items()]
        return json.dumps(content) + "\n"

    @staticmethod
    def from_line(line: str) -> Page:
        """Read a line of `to_line`; raises ValueError, KeyError or TypeError for anything else."""
        content = json.loads(line)
        kept = content.pop("replicate")
        curves = {(chart, x, name): [(a, b) for a, b in points] for chart, x, name, points in kept["curves"]}
        return Page(**content, replicate=Replicate(tuple(map(float, kept["effects"])), kept["numbers"], curves))


class Notebook:
    """The experiments in a folder that were done on these data and to this extent, by code as it is now."""

    def __init__(self, folder: Path, data: Sequence[str], extent: str) -> None:
        self.path, self.data, self.extent = folder / FILE, tuple(data), extent
        self.pages = {(page.item, page.seed, page.key): page for page in self._read()}

    def key(self, claim: Claim) -> str:
        """A hash of all that an experiment's result depends on, but for its seed and the machine."""
        package = resources.files("goodfit.lab")
        sources = [(package / "claims" / f"{claim.module}.py").read_bytes(), *((package / name).read_bytes() for name in SHARED)]
        told = json.dumps([claim.item, self.data, self.extent]).encode()
        return hashlib.sha256(b"\0".join([told, *sources])).hexdigest()[:16]

    def find(self, claim: Claim, seed: int) -> Page | None:
        """The experiment of a claim with a seed, if it was done."""
        return self.pages.get((claim.item, seed, self.key(claim)))

    def add(self, page: Page) -> None:
        """Write an experiment down.

        Raises:
            GoodfitError: the folder cannot be written.
        """
        self.pages[page.item, page.seed, page.key] = page
        with explain_write_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(page.to_line())

    def _read(self) -> list[Page]:
        """The pages that read: of a line that a kill has cut off, the experiment is done again."""
        pages: list[Page] = []
        if not self.path.is_file():
            return pages
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                pages.append(Page.from_line(line))
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
        return pages
