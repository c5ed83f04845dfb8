"""Sizes as they are written."""

from __future__ import annotations

from goodfit.core.errors import UsageError

MOST = 8192  # pixels a side; more is taken for a slip of the keyboard


def parse_size(text: int | str) -> tuple[int, int]:
    """`96` or `128x96` as (height, width).

    Raises:
        UsageError: the text is no size.
    """
    try:
        numbers = [int(x) for x in str(text).lower().split("x")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or min(numbers) < 1:
        raise UsageError(f'Expected a size like "96" or "128x96" (height x width), received "{text}".')
    if max(numbers) > MOST:
        raise UsageError(f'Expected a size of at most {MOST} pixels a side, received "{text}".')
    return numbers[0], numbers[-1]
