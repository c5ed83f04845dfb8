"""The machine, the versions, and the openings of the test split."""

from __future__ import annotations

from collections.abc import Mapping

from goodfit.core import words
from goodfit.core.run_files import get
from goodfit.report.markup import NBSP, Child, Html, bullet_list, definition_list, paragraph, section, tag
from goodfit.report.record import Record, as_rows, get_number

LABELS = {"torch": "PyTorch", "numpy": "NumPy", "python": "Python", "started": "Started", "finished": "Finished"}


def render_machine(record: Record) -> Html:
    """Render the machine and the versions of the software that the run used."""
    about = record.about
    memory, cores, threads = (get_number(about, "machine", key) for key in ("memory_gb", "cores", "threads"))
    versions = get(about, "versions")
    pairs: list[tuple[str, Child]] = [
        ("Processor", get(about, "machine", "cpu")),
        ("Cores", f"{cores:,.0f}" if cores else None),
        ("Threads used", f"{threads:,.0f}" if threads else None),
        ("Memory", f"{memory:,.0f}{NBSP}GB" if memory else None),
        ("Graphics card", get(about, "machine", "gpu") or ("none" if get(about, "machine") else None)),
        ("Goodfit", get(about, "goodfit")),
        *((LABELS.get(name, str(name)), str(value)) for name, value in (versions.items() if isinstance(versions, Mapping) else ())),
        *((LABELS[word], str(time).replace("T", " ")) for word in ("started", "finished") if (time := get(about, word))),
    ]
    return section(
        "machine", "Machine and versions", definition_list((name, None if value is None else str(value)) for name, value in pairs)
    )


def render_openings(record: Record) -> Html:
    """Render how often the test split was opened, and when."""
    opened, seen = as_rows(get(record.about, "openings")), get_number(record.ensemble, "tests_seen")
    if not opened:
        images = get_number(record.about, "data", "splits", "test")
        text = "Not opened." if images is None else "There is no test split."
        if images and seen:
            text = f"Not opened, but some of the models were trained on {words.count_of(int(seen), 'image')} of it."
        elif images:
            text = f"Not opened. This run did not use its {words.count_of(int(images), 'image')}, which can still give one honest accuracy."
        return section("openings", "Test split", paragraph(text))
    text = f"Opened {words.count_of(len(opened), 'time')}."
    if len(opened) > 1:
        text += " Only the first opening is fully honest: later changes are made with its result in mind."
    lines = [tag("span", f"{row.get('time', 'at an unknown time')}: ", tag("code", str(row.get("command", "")))) for row in opened]
    return section("openings", "Test split", paragraph(text), bullet_list(lines))
