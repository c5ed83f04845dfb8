"""Doctor: what `goodfit doctor` found when it last examined the run."""

from __future__ import annotations

from goodfit.core.run_files import get
from goodfit.report.markup import EMPTY, Column, Html, format_percent, inline_code, paragraph, section, table
from goodfit.report.record import Record, as_items, as_rows, get_number

FINDINGS_FILE = "findings.json"
COLUMNS = (Column("Cause"), Column("Sure", "number"), Column("Evidence"), Column("What to do"))
HEALTHY, UNKNOWN = "The doctor found nothing that harms this training.", "Something is wrong, and the doctor does not know what."


def render_doctor(record: Record) -> Html:
    """Render the verdict of the last examination with its causes; nothing for a run that was never examined."""
    findings = record.files.read_json(FINDINGS_FILE)
    if not get(findings, "verdict"):
        return EMPTY
    causes = as_rows(get(findings, "causes"))
    rows = [
        (
            str(cause.get("cause", "")).replace("_", " "),
            format_percent(get_number(cause, "confidence") or 0.0, 0),
            str(cause.get("evidence", "")),
            " ".join([str(cause.get("remedy", "")), *(f'{name} = "{text}"' for name, text in as_items(cause.get("patch")))]),
        )
        for cause in causes
    ]
    sentence = {"healthy": HEALTHY, "unknown": UNKNOWN}.get(str(findings["verdict"]), "")
    command = "`goodfit doctor RUN --try` confirms by short trainings with one thing changed, and tries the remedy."
    return section(
        "doctor",
        "Doctor",
        paragraph(inline_code(f"{sentence} {command}".strip(), record.shell_path)),
        table(COLUMNS, rows) if rows else None,
    )
