"""Keep torch's random numbers as they are while something else is looked at, or give a training random numbers of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def keep_chance() -> Iterator[None]:
    """Restore the state of torch's default generator after the block: what is drawn within it changes nothing outside."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


class OwnChance:
    """Random numbers of one training: its draws go on where they ended, whatever was drawn elsewhere in between."""

    def __init__(self, seed: int) -> None:
        with keep_chance():
            torch.manual_seed(seed)
            self._state = torch.get_rng_state()

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Draw from this training's own state of torch's default generator within the block."""
        with keep_chance():
            torch.set_rng_state(self._state)
            try:
                yield
            finally:
                self._state = torch.get_rng_state()

    @contextlib.contextmanager
    def preview(self) -> Iterator[None]:
        """Draw within the block what `active` would draw next, and leave it to be drawn again."""
        with keep_chance():
            torch.set_rng_state(self._state)
            yield
