"""Alerts: what is wrong with runs, by their state, the doctor's findings and the log; and a webhook that gets each new one once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import queue
import threading
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from goodfit.board.notes import Notes
from goodfit.core.errors import GoodfitError, UsageError
from goodfit.core.reporter import WARNING, Reporter
from goodfit.core.run import Run
from goodfit.report.failures import find_failures
from goodfit.report.markup import plain_text
from goodfit.report.record import FolderReader, as_items, as_rows, get_number, read_record
from goodfit.report.sections.doctor import FINDINGS_FILE

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
SURE = 0.5  # confidence of a finding from which on it is a warning
STATE_ALERTS: dict[str, tuple[Severity, str]] = {
    "diverged": ("error", "The training diverged: its loss stopped being a finite number."),
    "failed": ("error", "The training failed."),
    "killed": ("error", "The process of this training is gone: --resume auto continues it."),
    "damaged": ("error", "Files of this run do not read."),
    "interrupted": ("note", "The training was interrupted: --resume auto continues it."),
    "terminated": ("note", "The training was terminated: --resume auto continues it."),
}
SECONDS_TO_SEND, TRIES = 5.0, 3  # of one request of the webhook; then the alert is given up


@dataclasses.dataclass(frozen=True)
class Alert:
    """One thing that is wrong with a run: how bad it is, its `cause` as the doctor or the log calls it, the evidence, and what to do."""

    run: str
    severity: Severity
    cause: str
    evidence: str
    remedy: str = ""

    @property
    def id(self) -> str:
        """The same for the same cause of the same run, whatever its evidence has grown to."""
        return hashlib.sha256(f"{self.run}\n{self.cause}".encode(errors="surrogatepass")).hexdigest()[:20]

    def plain(self) -> dict[str, str]:
        """For JSON."""
        return {"id": self.id, **dataclasses.asdict(self)}


def alerts_of_state(row: dict[str, Any]) -> list[Alert]:
    """The alert that the state of a run is by itself, from its row."""
    found = STATE_ALERTS.get(row["state"]) if row["kind"] == "run" else None
    return [Alert(row["key"], found[0], row["state"], found[1])] if found else []


def alerts_of_findings(key: str, folder: Path) -> list[Alert]:
    """The alerts that the doctor's last verdict on a run holds."""
    causes = as_rows(FolderReader(folder).read_json(FINDINGS_FILE).get("causes"))
    return [
        Alert(
            key, "warning" if (get_number(row, "confidence") or 0) >= SURE else "note", str(row.get("cause", "")),
            str(row.get("evidence", "")),
            " ".join([str(row.get("remedy", "")), *(f'{name} = "{text}"' for name, text in as_items(row.get("patch")))]).strip(),
        )
        for row in causes
    ]  # fmt: skip


def alerts_of_log(key: str, folder: Path) -> list[Alert]:
    """What goes wrong in a training that has no verdict yet, by its log."""
    return [
        Alert(key, "warning" if not remark.may_be_noise else "note", remark.cause or "log", plain_text(remark.evidence, key),
              plain_text(remark.remedy, key))
        for remark in find_failures(read_record(Run(folder)))
    ]  # fmt: skip


def collect(row: dict[str, Any], folder: Path) -> list[Alert]:
    """All alerts of a run, the worst first. Each cause comes once."""
    alerts = alerts_of_state(row) + alerts_of_findings(row["key"], folder)
    if row["state"] in ("running", "paused"):
        alerts += alerts_of_log(row["key"], folder)
    return sort_alerts(list({alert.id: alert for alert in reversed(alerts)}.values()))


def sort_alerts(alerts: Iterable[Alert]) -> list[Alert]:
    """The worst first."""
    return sorted(alerts, key=lambda alert: SEVERITIES.index(alert.severity))


# ---- webhook ---------------------------------------------------------------------------------------------------------------------------


def check_url(url: str) -> str:
    """Refuse what no request can be sent to.

    Raises:
        UsageError: it is no address of http or https.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError('Expected --webhook to be an address such as "https://example.org/hook", received another.')
    return url


class Webhook:
    """Sends each new alert to an address, once, as JSON: run, severity, cause, evidence, remedy, id. A thread sends; nothing waits for it.

    Those that are there when the board first watches a folder are not new, and what was sent is remembered beside the runs.
    """

    def __init__(self, url: str, notes: Notes, reporter: Reporter) -> None:
        self.url, self.notes, self.reporter = check_url(url), notes, reporter
        self._seen: set[str] | None = notes.sent() or None
        self._queue: queue.Queue[Alert] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
        self._thread.start()

    def offer(self, alerts: Sequence[Alert]) -> None:
        """Send those that are new."""
        if self._seen is None:
            self._seen = {alert.id for alert in alerts}
            self._remember(sorted(self._seen))
            return
        for alert in alerts:
            if alert.id not in self._seen:
                self._seen.add(alert.id)
                self._queue.put(alert)

    def _run(self) -> None:
        while True:
            alert = self._queue.get()
            for trial in range(1, TRIES + 1):
                try:
                    self._send(alert)
                    break
                except OSError as error:
                    if trial == TRIES:
                        self.reporter.say(f"{WARNING}The webhook did not take an alert ({type(error).__name__}); it is given up.")
            self._remember([alert.id])
            self._queue.task_done()

    def _send(self, alert: Alert) -> None:
        body = json.dumps(alert.plain()).encode()
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"}, method="POST")
        with urllib.request.urlopen(request, timeout=SECONDS_TO_SEND):
            pass

    def _remember(self, ids: Sequence[str]) -> None:
        try:
            self.notes.add_sent([*ids, "begun"])  # so that a folder without alerts counts as watched, too
        except GoodfitError as error:
            self.reporter.say(f"{WARNING}{error}")

    def wait(self) -> None:
        """Wait until all alerts were sent or given up."""
        self._queue.join()
