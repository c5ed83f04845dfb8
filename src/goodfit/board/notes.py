"""What the board itself keeps: tags of runs and the alerts that were sent, in one file beside the runs."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from goodfit.core.errors import UsageError
from goodfit.core.files import lock
from goodfit.core.run_files import DamagedFile, get, read_json, write_json

NOTES_FILE, LOCK_FILE = "board.json", ".board.lock"  # in the folder of the runs
MAX_TAGS, MAX_TAG_LENGTH = 12, 40  # of a run; characters
MAX_SENT = 20_000  # alerts that are remembered


class Notes:
    """Tags by the key of a run, and the alerts that were sent; never in a run's own folder.

    A file that does not read has no tags, and is not written over: `problem` says so.
    """

    def __init__(self, root: Path) -> None:
        self.path, self._lock_path = root / NOTES_FILE, root / LOCK_FILE
        self._lock = threading.Lock()
        self.problem = ""

    def _read(self) -> tuple[dict[str, list[str]], list[str]]:
        content = read_json(self.path)
        tags, sent = get(content, "tags"), get(content, "sent")
        tags = tags if isinstance(tags, dict) else {}
        texts = {str(key): [str(tag) for tag in row] for key, row in tags.items() if isinstance(row, list)}
        return texts, [str(x) for x in sent] if isinstance(sent, list) else []

    def tags(self) -> dict[str, list[str]]:
        """The tags of each run that has some."""
        try:
            tags, self.problem = self._read()[0], ""
        except DamagedFile as error:
            tags, self.problem = {}, str(error)
        return tags

    def set_tags(self, key: str, tags: Sequence[str]) -> list[str]:
        """Give a run these tags in place of those it has; returns them without blanks and repetitions.

        Raises:
            UsageError: there are too many, or one is too long.
            GoodfitError: the file does not read, or cannot be written.
        """
        wanted = list(dict.fromkeys(" ".join(tag.split()) for tag in tags if tag.strip()))
        if len(wanted) > MAX_TAGS or any(len(tag) > MAX_TAG_LENGTH for tag in wanted):
            raise UsageError(f"Expected up to {MAX_TAGS} tags of up to {MAX_TAG_LENGTH} characters, received others.")
        with self._lock, lock(self._lock_path):
            known, sent = self._read()
            known.pop(key, None)
            write_json(self.path, {"tags": known | ({key: wanted} if wanted else {}), "sent": sent})
        return wanted

    def sent(self) -> set[str]:
        """The alerts that were sent, by their id; none where the file does not read."""
        try:
            return set(self._read()[1])
        except DamagedFile:
            return set()

    def add_sent(self, ids: Iterable[str]) -> None:
        """Remember that alerts were sent.

        Raises:
            GoodfitError: the file does not read, or cannot be written.
        """
        with self._lock, lock(self._lock_path):
            tags, sent = self._read()
            write_json(self.path, {"tags": tags, "sent": list(dict.fromkeys((*sent, *ids)))[-MAX_SENT:]})
