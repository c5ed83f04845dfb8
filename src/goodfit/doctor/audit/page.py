"""The page of an audit: its findings, each with pictures of the images that show it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

from goodfit.core.device import physical_cores
from goodfit.core.words import count_of, format_duration
from goodfit.data.dataset import Dataset
from goodfit.doctor.audit.audit import Audit
from goodfit.doctor.audit.data_finding import SEVERITIES, DataFinding
from goodfit.report.frame import render_page
from goodfit.report.markup import Column, Html, details, paragraph, section, table, tag
from goodfit.report.sections.headline import format_title
from goodfit.runs.pictures import encode_as_uri, read_picture

MAX_GROUPS, MAX_IN_GROUP = 12, 6  # of images that are shown of a finding
MAX_LISTED = 200  # groups that are listed by name
TITLES = {
    "broken": "Broken files", "blank": "Blank images", "plain": "Nearly blank images", "sizes": "Odd sizes", "modes": "Mixed modes",
    "duplicates": "Duplicates", "contradictions": "Pictures with several labels", "leak": "Leakage", "groups": "Groups that are split",
    "class_missing": "Missing classes", "imbalance": "Uneven classes", "few_validation": "Few validation images",
    "labels_shifted": "Shifted labels", "label_noise": "Wrong labels", "label_confusion": "Confused classes",
    "class_order": "Order of the classes", "split_shift": "Splits that differ", "shortcut": "Shortcut", "property": "Telling files",
    "honest_score": "Honest score", "transforms": "Transforms",
}  # fmt: skip


def render_audit(audit: Audit, data: Dataset) -> str:
    """Render an audit as one HTML text, with pictures that are read from the images themselves."""
    rows = {name: row for row, name in enumerate(data.names)}
    counts = [(severity, sum(finding.severity == severity for finding in audit.findings)) for severity in SEVERITIES]
    counted = ", ".join(count_of(n, severity) for severity, n in counts if n)
    verdict = f"{counted[:1].upper()}{counted[1:]}." if counted else "Nothing was found that speaks against training on this data."
    header = tag("header", tag("p.eyebrow", "Goodfit data audit"), tag("h1", format_title(audit.data)), tag("p.verdict", verdict))
    summary = table(
        [Column("Severity"), Column("Check"), Column("Finding")],
        [[finding.severity, TITLES.get(finding.check, finding.check), finding.sentence] for finding in audit.findings],
    )
    parts = [("findings", "Findings", section("findings", "Findings", summary if audit.findings else None))]
    with ThreadPoolExecutor(physical_cores()) as pool:
        for number, finding in enumerate(audit.findings):
            if finding.groups:
                title, anchor = TITLES.get(finding.check, finding.check), f"finding-{number}"
                parts.append((anchor, title, section(anchor, title, *_render_groups(finding, data, rows, pool))))
    kind = "quick audit" if audit.is_quick else "audit"
    source = f"Made by goodfit audit: a {kind} of {count_of(audit.images, 'image')} in {format_duration(audit.seconds)}."
    return render_page(f"{format_title(audit.data)} · Goodfit data audit", header, parts, source)


def _render_groups(finding: DataFinding, data: Dataset, rows: dict[str, int], pool: ThreadPoolExecutor) -> Sequence[Html | None]:
    """The sentence, pictures of the first groups, and all names."""
    shown = [group[:MAX_IN_GROUP] for group in finding.groups[:MAX_GROUPS]]
    names = list(chain.from_iterable(shown))
    found = dict(zip(names, pool.map(lambda name: _read_uri(data, rows.get(name)), names), strict=True))
    captions = finding.captions or ("",) * len(shown)
    sets = []
    for group, caption in zip(shown, captions, strict=False):
        cards = [_render_card(name, found[name], caption or _label_of(data, rows.get(name))) for name in group]
        sets.append(tag("div.cards", *cards) if len(group) > 1 else cards[0])
    pictures = sets if any(len(group) > 1 for group in shown) else [tag("div.cards", *sets)]
    listed = finding.groups[:MAX_LISTED]
    more = f", the first {MAX_LISTED}" if len(finding.groups) > MAX_LISTED else ""
    body = [[", ".join(group[:50]), "" if len(group) <= 50 else f"and {len(group) - 50:,} more"] for group in listed]
    names_table = details(f"All {len(finding.groups):,} by name{more}", table([Column("Images"), Column("")], body))
    return [paragraph(finding.sentence), *pictures, names_table]


def _label_of(data: Dataset, row: int | None) -> str:
    return data.classes[int(data.labels[row])] if row is not None else ""


def _read_uri(data: Dataset, row: int | None) -> str:
    """The picture of a row as a data URI; empty where there is none."""
    pixels = read_picture(data, row)[0] if row is not None else None
    return "" if pixels is None else encode_as_uri(pixels)


def _render_card(name: str, uri: str, caption: str) -> Html:
    picture = (
        tag("img.pixels" if "png" in uri[:20] else "img", attrs={"src": uri, "alt": caption}) if uri else tag("div.gone", "no picture")
    )
    name_line = tag("span.dim.name", name.rpartition("/")[2], attrs={"title": name})
    return tag("figure.card", tag("div.frame", picture), tag("figcaption", tag("strong", caption), name_line))
