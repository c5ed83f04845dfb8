"""Keep torch's random numbers as they are while something else is looked at, or give a training random numbers of its own."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def keep_chance() -> Iterator[None]:
    """Restore the state of torch's default generator after the block: what is drawn within it changes nothing outside."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


@contextlib.contextmanager
def keep_all_chance() -> Iterator[None]:
    """Restore every generator that a training may draw from after the block: Python's, NumPy's, torch's, and those of its accelerators."""
    python, numpy = random.getstate(), np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        with keep_chance():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)


class OwnChance:
    """Random numbers of one training: its draws go on where they ended, whatever was drawn elsewhere in between."""

    def __init__(self, seed: int) -> None:
        with keep_chance():
            torch.manual_seed(seed)
            self._state = torch.get_rng_state()

    @contextlib.contextmanager
    def preview(self) -> Iterator[None]:
        """Draw within the block what this training will draw next, and leave it to be drawn again."""
        with keep_chance():
            torch.set_rng_state(self._state)
            yield

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Draw from this training's own state of torch's default generator within the block."""
        with keep_chance():
            torch.set_rng_state(self._state)
            try:
                yield
            finally:
                self._state = torch.get_rng_state()
