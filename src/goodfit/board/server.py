"""The board's server: its address, and its life until it is stopped."""

from __future__ import annotations

import dataclasses
import webbrowser
from collections.abc import Callable
from pathlib import Path

from goodfit.board.alerts import Webhook, check_url
from goodfit.board.notes import Notes
from goodfit.board.run_index import RunIndex
from goodfit.core.errors import UsageError
from goodfit.core.reporter import WARNING, Reporter
from goodfit.core.signals import stop_error

try:
    from goodfit.board.app import Board, make_app
    from goodfit.board.watcher import Watcher
    from goodfit.board.worker import Worker
    from goodfit.serve.listening import Server, open_address
    from goodfit.serve.metrics import Metrics
except ImportError as error:
    raise UsageError('goodfit board needs the extra: pip install "goodfit[board]".') from error

STOP_SECONDS = 1  # that requests under way have to end; pages that listen do not end by themselves


@dataclasses.dataclass(frozen=True)
class BoardOptions:
    """Options of `goodfit board`: where it listens, whether to open the browser, the address that gets alerts, the file of the token."""

    host: str = "127.0.0.1"
    port: int = 8642
    open: bool = False
    webhook: str = ""
    token_file: Path | None = None


def serve_board(root: Path, options: BoardOptions, reporter: Reporter, announce: Callable[[str], None]) -> None:
    """Serve the board of a folder of runs until SIGINT or SIGTERM; `announce` gets the URL once the page can be opened.

    Raises:
        DataError: there is no such folder.
        UsageError: the address is taken or none, or it is not this machine's own and there is no token.
        Interrupted, Terminated: it was stopped.
    """
    index = RunIndex(root)
    notes = Notes(index.root)
    webhook = Webhook(check_url(options.webhook), notes, reporter) if options.webhook else None
    address = open_address(options)
    with address.listener:
        if address.hosts is None:
            reporter.say(f"{WARNING}what the page shows and the token travel unencrypted: put a proxy with TLS before {address.url}.")
        app = make_app(Board(Watcher(index, notes, webhook), Worker()), address.hosts, address.token)

        def begin() -> None:
            announce(f"{address.url}/")
            if options.open:
                webbrowser.open(address.url)

        try:
            Server(app, Metrics(), begin, STOP_SECONDS).run([address.listener])
        except KeyboardInterrupt as stop:
            raise stop_error(stop, "Stopped; trainings go on without the board.") from None
