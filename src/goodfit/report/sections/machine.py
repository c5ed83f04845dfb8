"""The machine, the versions, and how often the test split was opened."""

from __future__ import annotations

from collections.abc import Mapping

from goodfit.core import words
from goodfit.report.markup import THIN, Child, Html, facts, listed, paragraph, section, tag
from goodfit.report.record import Record, at, number, rows

NAMES = {"torch": "PyTorch", "numpy": "NumPy", "python": "Python", "started": "Started", "finished": "Finished"}


def machine(record: Record) -> Html:
    """What the run ran on and with."""
    about = record.about
    memory, cores, threads = (number(about, "machine", key) for key in ("memory_gb", "cores", "threads"))
    versions = at(about, "versions")
    pairs: list[tuple[str, Child]] = [
        ("Processor", at(about, "machine", "cpu")),
        ("Cores", f"{cores:,.0f}" if cores else None),
        ("Threads used", f"{threads:,.0f}" if threads else None),
        ("Memory", f"{memory:,.0f}{THIN}GB" if memory else None),
        ("Graphics card", at(about, "machine", "gpu") or ("none" if at(about, "machine") else None)),
        ("Goodfit", at(about, "goodfit")),
        *((NAMES.get(name, str(name)), str(value)) for name, value in (versions.items() if isinstance(versions, Mapping) else ())),
        *((NAMES[word], str(time).replace("T", " ")) for word in ("started", "finished") if (time := at(about, word))),
    ]
    return section("machine", "Machine and versions", facts((name, None if value is None else str(value)) for name, value in pairs))


def openings(record: Record) -> Html:
    """How often the test split was looked at, and when."""
    found, seen = rows(at(record.about, "openings")), number(record.ensemble, "tests_seen")
    if not found:
        images = number(record.about, "data", "splits", "test")
        said = "Not opened." if images is None else "There is no test split, so it was not opened."
        if images and seen:
            said = f"Not opened: {words.count_of(int(seen), 'image')} of it had a part in training some of the models."
        elif images:
            said = (
                f"Not opened. Its {words.count_of(int(images), 'image')} had no part in this run, so they can still give one honest figure."
            )
        return section("openings", "Test split", paragraph(said))
    told = f"Opened {words.count_of(len(found), 'time')}."
    if len(found) > 1:
        told += " Only the first look is fully honest: what is changed after it is chosen with the test images in mind."
    lines = [tag("span", f"{row.get('time', 'at an unknown time')}: ", tag("code", str(row.get("command", "")))) for row in found]
    return section("openings", "Test split", paragraph(told), listed(lines))
