"""Data sets known by name: fetched from their official addresses, checked, kept."""

from __future__ import annotations

import tarfile
from pathlib import Path

from goodfit.core.errors import DataError
from goodfit.core.fetch import Say, fetch
from goodfit.core.files import cache_folder
from goodfit.data.arrays import digits, from_idx, idx_files
from goodfit.data.pickles import from_cifar
from goodfit.data.store import Index

CIFAR = "https://www.cs.toronto.edu/~kriz/"
MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"

# The publishers give MD5 sums: they tell a damaged file from a whole one.
SOURCES: dict[str, tuple[str, dict[str, str]]] = {
    "cifar10": (CIFAR, {"cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a"}),
    "cifar100": (CIFAR, {"cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85"}),
    "mnist": (
        MNIST,
        {
            TRAIN_IMAGES: "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            TRAIN_LABELS: "d53e105ee54ea40749a09fcbcd1e9432",
            TEST_IMAGES: "9fb629c4189551a2d022fa330f9573f3",
            TEST_LABELS: "ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
    "fashion_mnist": (
        FASHION,
        {
            TRAIN_IMAGES: "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            TRAIN_LABELS: "25c81989df183df01b3e8a0aad5dffbe",
            TEST_IMAGES: "bef4ecab320f06d8554ea6380940ec79",
            TEST_LABELS: "bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
}
UNPACKED = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
NAMES = ("digits", *SOURCES)


def from_name(name: str, say: Say) -> Index:
    """The data set called `name`, fetched the first time.

    Raises:
        DataError: it cannot be fetched; the sentence says which file to put where.
    """
    if name == "digits":
        return digits()
    address, files = SOURCES[name]
    folder = cache_folder() / "downloads" / name
    if name in UNPACKED and (folder / UNPACKED[name]).is_dir():
        return from_cifar(folder / UNPACKED[name], name)
    for file, checksum in files.items():
        fetch(address + file, folder / file, checksum, "md5", say)
    if name not in UNPACKED:
        return from_idx(folder, idx_files(folder), name)
    _unpack(folder / next(iter(files)), folder / UNPACKED[name])
    return from_cifar(folder / UNPACKED[name], name)


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack beside, then rename: a killed process leaves no half folder in its place."""
    import shutil
    import tempfile

    beside = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=folder.parent))
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(beside, filter="data")
        if not folder.is_dir():
            (beside / folder.name).rename(folder)
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f'"{archive}" is damaged ({error}): remove it and run the same command again.') from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
