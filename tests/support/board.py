"""A board over folders of runs, asked as a browser on this machine asks it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from goodfit.board.app import Board, make_app
from goodfit.board.notes import Notes
from goodfit.board.run_index import RunIndex
from goodfit.board.watcher import Watcher
from goodfit.board.worker import Worker

HOSTS = ("localhost", "127.0.0.1", "::1")


class Asked:
    """A board and a client of it, with the token of its page."""

    def __init__(self, client: TestClient, board: Board) -> None:
        self.client, self.board = client, board

    @property
    def page_token(self) -> str:
        found = re.search(r'name="board-token" content="([^"]+)"', self.client.get("/").text)
        assert found
        return found[1]

    def get(self, path: str, **query: Any) -> Any:
        """The JSON at a path that answers."""
        answer = self.client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Any, **query: Any) -> Any:
        """The answer to a change that the board's own page makes."""
        given = {"content": body} if isinstance(body, bytes) else {"json": body}
        return self.client.post(path, params=query, headers={"X-Board-Token": self.page_token}, **given)


@contextlib.contextmanager
def open_board(root: Path, hosts: tuple[str, ...] | None = HOSTS, token: str = "") -> Iterator[Asked]:
    """A board of the runs in a folder."""
    index = RunIndex(root)
    board = Board(Watcher(index, Notes(index.root)), Worker())
    with TestClient(make_app(board, hosts, token), base_url="http://127.0.0.1:8642") as client:
        yield Asked(client, board)
