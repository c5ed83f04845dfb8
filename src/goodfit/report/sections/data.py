"""Data: splits, classes, files that were left out, and the digests that identify the data exactly."""

from __future__ import annotations

from goodfit.core import words
from goodfit.core.run_files import get
from goodfit.report.markup import EMPTY, Child, Column, Html, bar, bullet_list, definition_list, details, paragraph, section, table, tag
from goodfit.report.record import Record, as_number, as_texts, get_number

SPLITS = ("train", "validation", "test")
MAX_OPEN_CLASSES = 30  # classes up to which their table is not folded away
MAX_BROKEN_FILES = 200


def render_data(record: Record) -> Html:
    """Render facts, notes, images per class and split, and the files that were left out."""
    about = get(record.about, "data")
    if not isinstance(about, dict) or not about:
        return section("data", "Data", paragraph("The run has no record of its data."))
    is_run = record.ensemble is None  # the models of an ensemble may each prepare the images differently
    return section(
        "data",
        "Data",
        None if is_run else paragraph("The images and splits of the first of its models."),
        definition_list([
            ("Name", get(about, "name")),
            ("Images", _format_images(about)),
            (str(about.get("task") or "classes").capitalize(), f"{len(names):,}" if (names := as_texts(about.get("classes"))) else None),
            *((f"In {split}", f"{n:,.0f}") for split in SPLITS if (n := get_number(about, "splits", split)) is not None),
            ("Seen by the model at", _format_size(about.get("size"), about.get("channels")) if is_run else None),
            ("Stored at", _format_size(about.get("box"), None) if is_run else None),
            ("Channel means", _format_numbers(about.get("mean")) if is_run else None),
            ("Channel deviations", _format_numbers(about.get("std")) if is_run else None),
            ("Digest", tag("code", str(about["digest"])[:16]) if about.get("digest") else None),
            ("Digest of the splits", tag("code", str(about["split_digest"])[:16]) if about.get("split_digest") else None),
        ]),
        bullet_list(as_texts(about.get("notes"))),
        _render_counts(about.get("counts"), "label" if about.get("task") == "labels" else "class"),
        _render_broken(about.get("broken")),
    )  # fmt: skip


def _format_images(about: dict[str, object]) -> str | None:
    images = get_number(about, "images")
    return f"{images:,.0f}" if images is not None else None


def _format_size(value: object, channels: object) -> str | None:
    sides, depth = as_texts(value), as_number(channels)
    suffix = f", {words.count_of(int(depth), 'channel')}" if depth else ""
    return f"{' × '.join(sides)} pixels{suffix}" if sides else None


def _format_numbers(value: object) -> str | None:
    numbers = [x for item in value if (x := as_number(item)) is not None] if isinstance(value, list) else []
    return ", ".join(f"{x:.3f}" for x in numbers) or None


def _render_counts(counts: object, kind: str) -> Html:
    """Render the images per class and split, folded away if there are many classes."""
    if not isinstance(counts, dict) or not counts:
        return EMPTY
    valid = {
        str(name): [as_number(n) or 0 for n in row] for name, row in counts.items() if isinstance(row, list) and len(row) == len(SPLITS)
    }
    if not valid:
        return EMPTY
    ordered = sorted(valid.items(), key=lambda item: -item[1][0])
    largest = max(ordered[0][1][0], 1)
    body: list[list[Child]] = [[name, bar(row[0] / largest), *(f"{n:,.0f}" for n in row)] for name, row in ordered]
    columns = [Column(kind.capitalize()), Column("", "wide"), *(Column(split.capitalize(), "number") for split in SPLITS)]
    inner = table(columns, body, f"Images by {kind} and split")
    if len(ordered) <= MAX_OPEN_CLASSES:
        return inner
    (first, high), (last, low) = ordered[0], ordered[-1]
    text = (
        f"The most common {kind} in training is {first} with {words.count_of(int(high[0]), 'image')}, the rarest {last} with {low[0]:,.0f}."
    )
    return tag("div", paragraph(text), details(f"Images of all {len(ordered)} {'labels' if kind == 'label' else 'classes'}", inner))


def _render_broken(broken: object) -> Html:
    """Render the files that were left out, each with the reason."""
    if not isinstance(broken, dict) or not broken:
        return EMPTY
    body: list[list[Child]] = [[str(name), str(reason)] for name, reason in list(broken.items())[:MAX_BROKEN_FILES]]
    more = f", the first {MAX_BROKEN_FILES} of them" if len(broken) > MAX_BROKEN_FILES else ""
    title = f"{words.count_of(len(broken), 'file')} could not be read and {'was' if len(broken) == 1 else 'were'} left out"
    return details(title + more, table([Column("File"), Column("Reason")], body))
