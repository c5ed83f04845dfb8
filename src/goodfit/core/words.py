"""Numbers and names as text for people: counts, sizes, durations, lists."""

from __future__ import annotations

import re
from typing import Any


def count_of(n: int, noun: str, plural: str = "") -> str:
    """Format a count: `3 images`, `1 image`, `1,200 classes` (give an irregular plural)."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def with_article(noun: str) -> str:
    """Put the article before a noun: `a model`, `an augment`."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def format_bytes(n_bytes: float) -> str:
    """Format bytes in decimal units: `512 B`, `1.5 MB`, `20 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000 or unit == "GB":
            break
        n_bytes /= 1000
    return f"{n_bytes:.0f} {unit}" if unit == "B" or n_bytes >= 10 else f"{n_bytes:.1f} {unit}"


def format_duration(seconds: float) -> str:
    """Format a duration: `0.42 s`, `12 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def format_percent(share: float, digits: int = 1) -> str:
    """Format a share as a percentage: `98.5 %` from 0.985."""
    return f"{100 * share:.{digits}f} %"


def describe_communication(processes: float, bytes_sent: float, messages: float) -> str:
    """Say what each process of a training sent: `Each of 2 processes sent 1.5 MB in 12 messages to train.`"""
    return f"Each of {processes:,.0f} processes sent {format_bytes(bytes_sent)} in {count_of(round(messages), 'message')} to train."


def format_significant(x: float | None, digits: int = 6) -> str:
    """Format a number with at most so many significant digits, whole ones with all of theirs: `3`, `-0.1966`, `102,760,448`, `4.5e-05`."""
    if x is None:
        return "-"
    return f"{x:,.0f}" if abs(x) < 1e15 and float(x).is_integer() else f"{x:.{digits}g}"


def format_beside(x: float | None, printed: str) -> str:
    """Format a number beside one that was printed elsewhere, with at least as many significant digits: `0.29102777` beside `0.29102792`."""
    plain = re.fullmatch(r"-?0*\.?0*([\d.]+)", printed)
    return format_significant(x, max(6, len(plain[1].replace(".", "")) if plain else 0))


def list_some(names: list[str], most: int = 5) -> str:
    """List the first few names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


def natural_order(name: str) -> tuple[Any, ...]:
    """The key that sorts names with their numbers by size: "2" before "10", "class2" before "class10"."""
    parts = re.split(r"(\d{1,300})", name)  # Python turns no number of thousands of digits into an integer
    return tuple((int(part), "") if k % 2 else (-1, part) for k, part in enumerate(parts)), name


def hide_passwords(text: str) -> str:
    """Leave the passwords of URLs out of a text.

    >>> hide_passwords("--storage postgresql://ann:secret@db/pets")
    '--storage postgresql://ann@db/pets'
    """
    text = re.sub(r"(\w://[^\s:/@?#]*):\S*@", r"\1@", text)
    return re.sub(r"([?&]\w*password=)[^\s&'\"]*", r"\1***", text)
