"""A command on a terminal: what a person sees on its screen, by an emulator."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import sys
import termios
from pathlib import Path

import pyte

from goodfit.cli import main
from tests.support.process import Forked

ROWS = 3000  # of a screen, so that nothing scrolls away


class Screen:
    """What a command left on a terminal with so many columns: its exit code, the bytes it wrote, and what they look like."""

    def __init__(self, folder: Path, columns: int, *words: str | Path, streams: tuple[int, ...] = (1, 2)) -> None:
        head, tail = pty.openpty()
        fcntl.ioctl(tail, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
        process = Forked(folder, _run, os.ttyname(tail), streams, tuple(map(str, words)))
        self.written, self.screen = b"", pyte.Screen(columns, ROWS)
        while process.poll() is None or select.select([head], [], [], 0)[0]:
            if select.select([head], [], [], 0.01)[0]:
                self.written += os.read(head, 65536)
        os.close(head)
        os.close(tail)
        self.code = process.wait()
        pyte.ByteStream(self.screen).feed(self.written)

        rows = [self.screen.buffer[row] for row in range(self.screen.cursor.y + 1)]
        self.lines = "\n".join("".join(row[k].data for k in range(columns)).rstrip() for row in rows).rstrip().split("\n")

    def color_of(self, text: str) -> str:
        """The color of the first place where a text stands."""
        row, line = next((row, line) for row, line in enumerate(self.lines) if text in line)
        return str(self.screen.buffer[row][line.index(text)].fg)


def _run(terminal: str, streams: tuple[int, ...], words: tuple[str, ...]) -> None:
    os.environ.pop("COLUMNS", None)
    opened = os.open(terminal, os.O_RDWR | os.O_NOCTTY)
    for stream in streams:
        os.dup2(opened, stream)
    sys.argv = ["goodfit", *words]
    main()
