"""Built-in datasets: scikit-learn's digits, and those fetched from their official addresses, checked and kept."""

from __future__ import annotations

import importlib.util
import shutil
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from goodfit.core.errors import DataError
from goodfit.core.fetch import Say, fetch
from goodfit.core.files import cache_folder
from goodfit.data.arrays import find_idx_files, index_idx
from goodfit.data.cifar import index_cifar
from goodfit.data.index import UNASSIGNED, Index, IntArray
from goodfit.data.store import Array, ArrayStore, hash_fields

CIFAR_URL = "https://www.cs.toronto.edu/~kriz/"
MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"

# The publishers give MD5 sums, which are enough to notice a damaged file.
DOWNLOADS: dict[str, tuple[str, dict[str, str]]] = {
    "cifar10": (CIFAR_URL, {"cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a"}),
    "cifar100": (CIFAR_URL, {"cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85"}),
    "mnist": (
        MNIST_URL,
        {
            TRAIN_IMAGES: "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            TRAIN_LABELS: "d53e105ee54ea40749a09fcbcd1e9432",
            TEST_IMAGES: "9fb629c4189551a2d022fa330f9573f3",
            TEST_LABELS: "ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
    "fashion_mnist": (
        FASHION_URL,
        {
            TRAIN_IMAGES: "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            TRAIN_LABELS: "25c81989df183df01b3e8a0aad5dffbe",
            TEST_IMAGES: "bef4ecab320f06d8554ea6380940ec79",
            TEST_LABELS: "bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
}
ARCHIVE_FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
BUILTIN_NAMES = ("digits", *DOWNLOADS)


def index_builtin(name: str, say: Say) -> Index:
    """Index the built-in dataset `name`, which is fetched the first time.

    Raises:
        DataError: it cannot be fetched; the message tells which file to put where.
    """
    if name == "digits":
        return index_digits()
    address, files = DOWNLOADS[name]
    folder = cache_folder() / "downloads" / name
    if name in ARCHIVE_FOLDERS and (folder / ARCHIVE_FOLDERS[name]).is_dir():
        return index_cifar(folder / ARCHIVE_FOLDERS[name], name)
    for file, checksum in files.items():
        fetch(address + file, folder / file, checksum, "md5", say)
    if name not in ARCHIVE_FOLDERS:
        return index_idx(folder, find_idx_files(folder), name)
    _unpack(folder / next(iter(files)), folder / ARCHIVE_FOLDERS[name])
    return index_cifar(folder / ARCHIVE_FOLDERS[name], name)


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack into a temporary folder and rename it, so that a killed process leaves no incomplete folder."""
    temporary = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=folder.parent))
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(temporary, filter="data")
        if not folder.is_dir():
            (temporary / folder.name).rename(folder)
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f'"{archive}" is damaged ({error}): remove it and run the same command again.') from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def index_digits() -> Index:
    """Index scikit-learn's 1,797 handwritten digits, 8x8 gray; their levels from 0 to 16 become 0 to 255."""
    levels, labels = _read_digits()
    images = np.rint(levels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    splits = np.full(len(labels), UNASSIGNED, dtype=np.int8)
    names = [f"digits#{k}" for k in range(len(labels))]
    store = ArrayStore(lambda: images, hash_fields("digits", images.tobytes()))
    return Index("digits", tuple(str(k) for k in range(10)), labels, splits, names, store)


def _read_digits() -> tuple[Array, IntArray]:
    """Read levels [1797, 64] and labels [1797] from scikit-learn's file where possible: importing all of scikit-learn takes a second."""
    spec = importlib.util.find_spec("sklearn")
    file = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz" if spec and spec.origin else Path()
    if file.is_file():
        table = np.loadtxt(file, delimiter=",")
        return table[:, :-1], table[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits

    levels, labels = load_digits(return_X_y=True)
    return levels, labels.astype(np.int64)
