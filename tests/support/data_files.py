"""Small data files of every format, and the sentence that a wrong one is answered with."""

from __future__ import annotations

import gzip
import io
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from goodfit.core.errors import DataError
from goodfit.data.sources import index_images
from tests.support.photos import picture

RNG = np.random.default_rng(0)


def write_image(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture((200, 50, 40), seed, 8)).save(path)
    return path


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def error_of(data: Path | str) -> str:
    with pytest.raises(DataError) as caught:
        index_images(str(data))
    text = str(caught.value)
    assert caught.value.exit_code == 3
    assert text.endswith((".", "?")) and "\n" not in text
    return text


def write_table(root: Path, text: str, name: str = "data.csv") -> Path:
    for k in range(4):
        write_image(root / "images" / f"{k}.png", k)
    (root / name).write_text(text)
    return root / name


def write_parquet(path: Path, images: Sequence[np.ndarray], labels: Any, names: list[str] | None = None, metadata: str = "") -> None:
    """Images with Hugging Face's columns; `names` are class names, `metadata` is text in the place of theirs."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    column = pa.array([{"bytes": png(x), "path": None} for x in images], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    content = pa.table({"image": column, "label": pa.array(labels)})
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        metadata = json.dumps({"info": {"features": features}})
    if metadata:
        content = content.replace_schema_metadata({"huggingface": metadata})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(content, path, row_group_size=3)


def write_idx(path: Path, array: np.ndarray) -> None:
    content = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_cifar(folder: Path, hundred: bool = False) -> np.ndarray:
    folder.mkdir(parents=True)
    pixels = RNG.integers(0, 256, (12, 3072), dtype=np.uint8)
    files = ["train", "test"] if hundred else [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
    key, names = (b"fine_labels", b"fine_label_names") if hundred else (b"labels", b"label_names")
    for k, file in enumerate(files):
        (folder / file).write_bytes(pickle.dumps({b"data": pixels[2 * k : 2 * k + 2], key: [0, 1]}, protocol=2))
    (folder / ("meta" if hundred else "batches.meta")).write_bytes(pickle.dumps({names: [b"cat", b"dog"]}, protocol=2))
    return pixels
