"""Doctor: the verdict by the log, or what `goodfit doctor` found when it last examined the run."""

from __future__ import annotations

from goodfit.core.run_files import get
from goodfit.report.markup import EMPTY, Column, Html, format_percent, inline_code, paragraph, section, table
from goodfit.report.record import Record, as_items, as_rows, get_number

FINDINGS_FILE = "findings.json"
BY_LOG = "log"  # what a verdict rests on that `train` ends with
COLUMNS = (Column("Cause"), Column("Sure", "number"), Column("Evidence"), Column("What to do"))
SENTENCES = {
    "healthy": "The doctor found nothing that harms this training.",
    "unknown": "Something is wrong, and the doctor does not know what.",
}
LOG_SENTENCES = {
    "healthy": "The log shows nothing that harms this training.",
    "unknown": "Something went wrong, and the log does not tell its cause.",
}


def render_doctor(record: Record) -> Html:
    """Render the last verdict with its causes; nothing for a run that has none."""
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
    is_by_log = get(findings, "by") == BY_LOG
    sentence = (LOG_SENTENCES if is_by_log else SENTENCES).get(str(findings["verdict"]), "By the log alone:" if is_by_log else "")
    more = "examines images, network and first steps, confirms" if is_by_log else "confirms"
    command = f"`goodfit doctor RUN --try` {more} by short trainings with one thing changed, and tries the remedy."
    return section(
        "doctor",
        "Doctor",
        paragraph(inline_code(f"{sentence} {command}".strip(), record.shell_path)),
        table(COLUMNS, rows) if rows else None,
    )
