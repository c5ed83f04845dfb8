"""What a model answered to each of some images, kept in a file beside its run: comparisons, folds and label audits start from it."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from goodfit.core.errors import GoodfitError
from goodfit.core.files import atomic_writer

FILE = "predictions.npz"  # of a run: its answers to the validation images
MANY = 2**24  # probabilities above which they are kept in half precision


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """Answers to N images: their `names` [N], `labels` [N] int64 into `classes` [K], and `probabilities` [N, K] float32."""

    names: NDArray[np.str_]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    classes: tuple[str, ...]

    @property
    def guesses(self) -> NDArray[np.int64]:
        """The likeliest class [N] of each image."""
        best: NDArray[np.int64] = self.probabilities.argmax(1)
        return best

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether that is the image's own [N]."""
        right: NDArray[np.bool_] = self.guesses == self.labels
        return right

    def save(self, path: Path) -> None:
        """Write an .npz file with the arrays names, labels, probabilities and classes, whole or not at all.

        Raises:
            GoodfitError: the file cannot be written.
        """
        narrow = np.float16 if self.probabilities.size > MANY else np.float32
        with atomic_writer(path) as file:
            np.savez_compressed(
                file,
                names=self.names,
                labels=self.labels,
                probabilities=self.probabilities.astype(narrow),
                classes=np.array(self.classes, dtype=np.str_),
            )

    @staticmethod
    def read(path: Path) -> Predictions | None:
        """The predictions in a file; None where there is no file, as in runs of earlier versions.

        Raises:
            GoodfitError: the file is damaged.
        """
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays: dict[str, Any] = {key: file[key] for key in ("names", "labels", "probabilities", "classes")}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
            raise GoodfitError(f'The predictions in "{path}" do not read ({error}): evaluate the run again.') from error
        shares = arrays["probabilities"].astype(np.float32)
        return Predictions(arrays["names"], arrays["labels"], shares, tuple(arrays["classes"].tolist()))
