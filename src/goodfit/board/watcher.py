"""Watches the folder of runs and tells each open page what has changed; a page that is slow to listen is told less often."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import math
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from goodfit.board.alerts import Alert, Webhook, collect, sort_alerts
from goodfit.board.forks import Forks
from goodfit.board.notes import Notes
from goodfit.board.run_index import Row, RunIndex
from goodfit.core.errors import first_line

POLL_SECONDS = 1.0  # between two looks at the folder, or ten times as long as one takes
LOG_ALERT_SECONDS = 20.0  # between two looks for alerts in the log of a run that is training
HEARTBEAT_SECONDS = 15.0  # after which a silent page gets a comment, by which a connection that is gone is noticed
MAX_CLIENTS = 64  # open pages
FOLLOW_SECONDS = 90.0  # after which a page has to connect again, so that no connection is held by one that is gone
RETRY_MILLISECONDS = 2000  # after which a page connects again


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What a look at the folder found: the rows by key, the sizes of the logs, and the alerts."""

    rows: dict[str, Row]
    sizes: dict[str, int]
    alerts: tuple[Alert, ...]


@dataclasses.dataclass(eq=False)
class Client:
    """An open page: the rows, logs and alerts that have changed since it was told last; None is a run that is gone."""

    rows: dict[str, Row | None] = dataclasses.field(default_factory=dict)
    grown: set[str] = dataclasses.field(default_factory=set)
    has_new_alerts: bool = False
    changed: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)


class Watcher:
    """The rows and alerts of all runs, up to date, and the pages that follow them."""

    def __init__(self, index: RunIndex, notes: Notes, webhook: Webhook | None = None) -> None:
        self.index, self.notes, self.forks, self.webhook = index, notes, Forks(index.root), webhook
        self.snapshot, self.problem = Snapshot({}, {}, ()), ""
        self._clients: set[Client] = set()
        self._alerts: dict[str, tuple[Any, float, list[Alert]]] = {}  # by run: of what they were made, when, and they

    # ---- looking -------------------------------------------------------------------------------------------------------------------

    def look(self) -> Snapshot:
        """Look at the folder once."""
        tags = self.notes.tags()
        rows = {row["key"]: row | {"tags": tags.get(row["key"], [])} for row in self.index.rows()}
        sizes = {key: _size(self.index.path(key) / "log.jsonl") for key, row in rows.items() if row["kind"] == "run"}
        of_runs = (alert for row in rows.values() if row["kind"] == "run" for alert in self._alerts_of(row))
        alerts = sort_alerts([*self.forks.alerts(), *of_runs])
        self._alerts = {key: known for key, known in self._alerts.items() if key in rows}
        if self.webhook:
            self.webhook.offer(alerts)
        return Snapshot(rows, sizes, tuple(alerts))

    def _alerts_of(self, row: Row) -> list[Alert]:
        """The alerts of a run; looked for again where its state or findings have changed, and now and then in a log that grows."""
        made_of, now = (row["state"], row["causes"], row["recipe"] == ""), time.monotonic()
        known = self._alerts.get(row["key"])
        is_due = row["state"] == "running" and known is not None and now - known[1] > LOG_ALERT_SECONDS
        if known is None or known[0] != made_of or is_due:
            known = made_of, now, collect_safely(row, self.index.path(row["key"]))
            self._alerts[row["key"]] = known
        return known[2]

    def publish(self, found: Snapshot) -> None:
        """Make a look what the pages see, and wake those for which something has changed."""
        before, self.snapshot = self.snapshot, found
        rows: dict[str, Row | None] = {key: row for key, row in found.rows.items() if before.rows.get(key) != row}
        rows |= {key: None for key in before.rows if key not in found.rows}
        grown = {key for key, size in found.sizes.items() if before.sizes.get(key, size) != size}
        has_new_alerts = found.alerts != before.alerts
        if not (rows or grown or has_new_alerts):
            return
        for client in self._clients:
            client.rows |= rows
            client.grown |= grown
            client.has_new_alerts |= has_new_alerts
            client.changed.set()

    async def run(self) -> None:
        """Look again and again until cancelled; a look that fails, as on a network disk that is away, is tried again."""
        while True:
            began = time.monotonic()
            try:
                self.publish(await asyncio.to_thread(self.look))
                self.problem = ""
            except Exception as error:  # whatever it is, the page says so, and the next look may go well
                self.problem = f"The folder of runs cannot be looked at now ({type(error).__name__}: {first_line(error)})."
            await asyncio.sleep(max(POLL_SECONDS, 10 * (time.monotonic() - began)))

    async def refresh(self) -> None:
        """Look now, as after a change that a page has made."""
        self.publish(await asyncio.to_thread(self.look))

    # ---- pages ---------------------------------------------------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether no further page can follow."""
        return len(self._clients) >= MAX_CLIENTS

    async def follow(self) -> AsyncIterator[str]:
        """The server-sent events of a page: `change` with rows, the keys of logs that grew, of runs that are gone, and new alerts."""
        client = Client()
        self._clients.add(client)
        try:
            yield f"retry: {RETRY_MILLISECONDS}\n\n"
            began = time.monotonic()
            while time.monotonic() - began < FOLLOW_SECONDS:
                try:
                    async with asyncio.timeout(HEARTBEAT_SECONDS):
                        await client.changed.wait()
                except TimeoutError:
                    yield ": still here\n\n"
                    continue
                yield f"event: change\ndata: {to_json(self._take_changes(client))}\n\n"
        finally:
            self._clients.discard(client)

    def _take_changes(self, client: Client) -> dict[str, Any]:
        changes = {
            "rows": [row for row in client.rows.values() if row is not None],
            "gone": [key for key, row in client.rows.items() if row is None],
            "grown": sorted(client.grown),
            "alerts": [alert.plain() for alert in self.snapshot.alerts] if client.has_new_alerts else None,
        }
        client.rows, client.grown, client.has_new_alerts = {}, set(), False
        client.changed.clear()
        return changes


def collect_safely(row: Row, folder: Path) -> list[Alert]:
    """The alerts of a run; that its files do not read, where they are such that no reader expects them."""
    try:
        return collect(row, folder)
    except Exception as error:  # a run of anyone's must not keep the board from showing the others
        return [Alert(row["key"], "error", "damaged", f"Files of this run do not read ({type(error).__name__}).")]


def to_json(content: Any) -> str:
    """JSON as browsers read it: without NaN and infinity, which files of a run may hold and which become null."""
    try:
        return json.dumps(content, allow_nan=False)
    except ValueError:
        return json.dumps(_drop_infinite(content))


def _drop_infinite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _drop_infinite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_drop_infinite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0
