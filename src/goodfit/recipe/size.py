"""Sizes as they are written."""

from __future__ import annotations

from goodfit.core.errors import UsageError


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
    return numbers[0], numbers[-1]
