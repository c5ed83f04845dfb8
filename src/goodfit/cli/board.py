"""goodfit board: runs in a browser, live."""

from __future__ import annotations

from pathlib import Path


def board(
    runs: Path = Path("runs"),
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8642,
    open: bool = False,  # noqa: A002  the option is --open
    webhook: str = "",
    token_file: Path | None = None,
) -> None:
    """Show the runs of a folder in a browser, live: curves, mistakes, alerts; ask models, compare runs, play with the lecture.

    Nothing has to be set up in a training. The board reads the runs' folders alone; it keeps tags in board.json beside them.

    Parameters
    ----------
    runs
        The folder that holds the runs and studies, or one run.
    host
        The address to listen at. Any but this machine's own (127.0.0.1, ::1, localhost) needs a token, which the page asks for.
    port
        The port; 0 takes a free one.
    open
        Open the board in the browser.
    webhook
        An address that gets each new alert once, as JSON.
    token_file
        A file with the token. Without it, it is $GOODFIT_TOKEN if that is set.
    """
    from goodfit.board.server import BoardOptions, serve_board
    from goodfit.terminal.reporter import TerminalReporter
    from goodfit.terminal.streams import print_lines

    options = BoardOptions(host, port, open, webhook, token_file)
    serve_board(runs, options, TerminalReporter(), print_lines)
