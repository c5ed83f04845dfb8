"""The data: splits, classes, what was left out, and the digests that name it exactly."""

from __future__ import annotations

from goodfit.core import words
from goodfit.report.markup import NOTHING, Child, Column, Html, bar, facts, folded, listed, paragraph, section, table, tag
from goodfit.report.record import Record, at, finite, number, texts

SPLITS = ("train", "validation", "test")
MOST_CLASSES = 30
MOST_BROKEN = 200


def data(record: Record) -> Html:
    """Facts, images per class and split, notes, and the files left out."""
    found = at(record.about, "data")
    if not isinstance(found, dict) or not found:
        return section("data", "Data", paragraph("The run says nothing about its data."))
    notes = texts(found.get("notes"))
    alone = record.ensemble is None  # the models of an ensemble may each see the images in a way of their own
    return section(
        "data",
        "Data",
        None if alone else paragraph("The images and splits of the first of its models."),
        facts([
            ("Name", at(found, "name")),
            ("Images", _images(found)),
            ("Classes", f"{len(texts(found.get('classes'))):,}" if texts(found.get("classes")) else None),
            *((f"In {split}", f"{n:,.0f}") for split in SPLITS if (n := number(found, "splits", split)) is not None),
            ("Seen by the model at", _box(found.get("size"), found.get("channels")) if alone else None),
            ("Stored at", _box(found.get("box"), None) if alone else None),
            ("Channel means", _numbers(found.get("mean")) if alone else None),
            ("Channel deviations", _numbers(found.get("std")) if alone else None),
            ("Digest", tag("code", str(found["digest"])[:16]) if found.get("digest") else None),
            ("Digest of the splits", tag("code", str(found["split_digest"])[:16]) if found.get("split_digest") else None),
        ]),
        listed(notes),
        _counts(at(found, "counts")),
        _broken(found.get("broken")),
    )  # fmt: skip


def _images(found: dict[str, object]) -> str | None:
    images = number(found, "images")
    return f"{images:,.0f}" if images is not None else None


def _box(value: object, channels: object) -> str | None:
    sides, deep = texts(value), finite(channels)
    colors = f", {words.count_of(int(deep), 'channel')}" if deep else ""
    return f"{' × '.join(sides)} pixels{colors}" if sides else None


def _numbers(value: object) -> str | None:
    known = [x for item in value if (x := finite(item)) is not None] if isinstance(value, list) else []
    return ", ".join(f"{x:.3f}" for x in known) or None


def _counts(counts: object) -> Html:
    """Images per class and split, folded away when the classes are many."""
    if not isinstance(counts, dict) or not counts:
        return NOTHING
    known = {str(name): [finite(n) or 0 for n in row] for name, row in counts.items() if isinstance(row, list) and len(row) == len(SPLITS)}
    if not known:
        return NOTHING
    ordered = sorted(known.items(), key=lambda item: -item[1][0])
    most = max(ordered[0][1][0], 1)
    body: list[list[Child]] = [[name, bar(row[0] / most), *(f"{n:,.0f}" for n in row)] for name, row in ordered]
    columns = [Column("Class"), Column("", "wide"), *(Column(split.capitalize(), "number") for split in SPLITS)]
    inner = table(columns, body, "Images by class and split")
    if len(ordered) <= MOST_CLASSES:
        return inner
    (first, high), (last, low) = ordered[0], ordered[-1]
    text = (
        f"The most common class to train on is {first} with {words.count_of(int(high[0]), 'image')}, the rarest {last} with {low[0]:,.0f}."
    )
    return tag("div", paragraph(text), folded(f"Images of all {len(ordered)} classes", inner))


def _broken(broken: object) -> Html:
    """The files left out, each with the reason."""
    if not isinstance(broken, dict) or not broken:
        return NOTHING
    body: list[list[Child]] = [[str(name), str(reason)] for name, reason in list(broken.items())[:MOST_BROKEN]]
    more = f", the first {MOST_BROKEN} of them" if len(broken) > MOST_BROKEN else ""
    title = f"{words.count_of(len(broken), 'file')} could not be read and {'was' if len(broken) == 1 else 'were'} left out"
    return folded(title + more, table([Column("File"), Column("Reason")], body))
