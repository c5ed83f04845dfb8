"""A model's predictions for the images of a split, kept in a file of its run: comparisons, folds and label audits start from it."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from goodfit.core.commit import committed
from goodfit.core.files import write_atomic
from goodfit.core.run_files import explain_damage

PREDICTIONS_FILE = "predictions.npz"  # of a run: its predictions for the validation images
MAX_FULL_PRECISION_VALUES = 2**24  # more probabilities are kept in half precision


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions for N images: their `names` [N], `labels` [N] int64 into `classes` [K], and `probabilities` [N, K] float32.

    Of another `task` than classes, `labels` [N, K] are the true labels (0 or 1) or numbers, and `probabilities` the answers.
    """

    names: NDArray[np.str_]
    labels: NDArray[Any]
    probabilities: NDArray[np.float32]
    classes: tuple[str, ...]
    task: str = "classes"

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable class [N] of each image."""
        predicted: NDArray[np.int64] = self.probabilities.argmax(1)
        return predicted

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the most probable class is the label [N]."""
        correct: NDArray[np.bool_] = self.predicted == self.labels
        return correct

    def save(self, path: Path) -> None:
        """Write an .npz file with the arrays names, labels, probabilities and classes, and its own name, completely or not at all.

        Raises:
            GoodfitError: the file cannot be written.
        """
        write_atomic(path, self.to_npz(path.name))

    def to_npz(self, name: str) -> bytes:
        """The content of the .npz file of that name; see `save`."""
        is_large = self.probabilities.size > MAX_FULL_PRECISION_VALUES and self.task != "numbers"
        dtype = np.float16 if is_large else np.float32
        file = io.BytesIO()
        arrays: dict[str, Any] = {
            "names": self.names,
            "labels": self.labels,
            "probabilities": self.probabilities.astype(dtype),
            "classes": np.array(self.classes, dtype=np.str_),
            "own_name": np.array(name),
            **({} if self.task == "classes" else {"task": np.array(self.task)}),
        }
        np.savez_compressed(file, **arrays)
        return file.getvalue()

    @staticmethod
    def read(path: Path) -> Predictions | None:
        """Read the predictions in a file; None if there is no file, as in runs of earlier versions.

        Raises:
            DamagedFile: the file is damaged.
        """
        if not (found := committed(path)).exists():
            return None
        with explain_damage(path), np.load(found, allow_pickle=False) as file:
            names, labels, probabilities, classes = (file[key] for key in ("names", "labels", "probabilities", "classes"))
            if "own_name" in file and str(file["own_name"]) != path.name:
                raise ValueError(f"it is {file['own_name']}")
            are_texts, task = names.dtype.kind == classes.dtype.kind == "U", str(file["task"]) if "task" in file else "classes"
            shape = names.shape if task == "classes" else probabilities.shape
            if not are_texts or probabilities.shape != (len(names), len(classes)) or labels.shape != shape:
                raise ValueError("its arrays do not go together")
            if task == "classes" and len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
                raise ValueError("its labels are of other classes")
            return Predictions(names, labels, probabilities.astype(np.float32), tuple(classes.tolist()), task)
