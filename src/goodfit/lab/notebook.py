"""The notebook of the claims: each experiment is written down as it ends, so that a killed command goes on where it was."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from goodfit.core.files import explain_write_errors
from goodfit.lab.claim import Claim
from goodfit.lab.replicate import Replicate

FILE = "experiments.jsonl"
SHARED = ("laboratory.py", "nets.py")  # that every experiment may use


@dataclasses.dataclass(frozen=True)
class Entry:
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
    def from_line(line: str) -> Entry:
        """Read a line of `to_line`; raises ValueError, KeyError, TypeError or AttributeError for anything else."""
        content = json.loads(line)
        found = content.pop("replicate")
        curves = {(chart, x, name): [(a, b) for a, b in points] for chart, x, name, points in found["curves"]}
        replicate = Replicate(tuple(map(float, found["effects"])), dict(found["numbers"]), curves, tuple(found["bounds"]))
        return Entry(**content, replicate=replicate)


class Notebook:
    """The experiments in a folder that were done on these data and to this extent, by code as it is now."""

    def __init__(self, folder: Path, data: Sequence[str], extent: str) -> None:
        self.path, self.data, self.extent = folder / FILE, tuple(data), extent
        self.entries = {(entry.item, entry.seed, entry.key): entry for entry in self._read()}

    def key(self, claim: Claim) -> str:
        """A hash of the experiment's code (not of what it trains with), the extent, and where its images are (not of their bytes)."""
        package = resources.files("goodfit.lab")
        sources = [(package / "claims" / f"{claim.module}.py").read_bytes(), *((package / name).read_bytes() for name in SHARED)]
        told = json.dumps([claim.item, claim.select_images(self.data), self.extent]).encode()
        return hashlib.sha256(b"\0".join([told, *sources])).hexdigest()[:16]

    def find(self, claim: Claim, seed: int) -> Entry | None:
        """The experiment of a claim with a seed, if it was done."""
        return self.entries.get((claim.item, seed, self.key(claim)))

    def add(self, entry: Entry) -> None:
        """Write an experiment down, on a line of its own though a kill has cut off the last one.

        Raises:
            GoodfitError: the folder cannot be written.
        """
        self.entries[entry.item, entry.seed, entry.key] = entry
        with explain_write_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as file:
                file.seek(max(0, file.tell() - 1))
                is_cut = file.read(1) not in (b"", b"\n")
                file.write(b"\n" * is_cut + entry.to_line().encode())

    def _read(self) -> list[Entry]:
        """The entries that read: of a line that a kill has cut off, the experiment is done again."""
        entries: list[Entry] = []
        if not self.path.is_file():
            return entries
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entries.append(Entry.from_line(line))
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
        return entries
