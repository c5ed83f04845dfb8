"""scikit-learn's digits as images of bytes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits


def read_digits(n: int | None = None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The first n digits, or all 1,797, as uint8 [N, 8, 8, 1], and their labels [N]."""
    data = load_digits()
    return (data.images[:n] * 255 / 16).astype(np.uint8)[..., None], data.target[:n].astype(np.int64)
