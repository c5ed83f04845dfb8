"""What names say: which split a folder or file is of, and what is no data."""

from __future__ import annotations

import re

from goodfit.data.index import SPLIT_WORDS

SYSTEM_FOLDERS = frozenset(("__macosx", "@eadir", "$recycle.bin", "lost+found", "system volume information"))  # that systems leave
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_FOLD = re.compile(r"(fold|cv|part|chunk|shard|batch)[ _-]?\d+", re.IGNORECASE)


def find_splits(name: str) -> set[int]:
    """The splits whose words stand in a name: {TRAIN} for "train", "seg_train", "trainImages" or "flowers-train-00000-of-00001"."""
    words = (word.lower() for word in _WORD.findall(name))
    return {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}


def is_fold(name: str) -> bool:
    """Whether a name is that of a part of the data, such as "fold1"."""
    return _FOLD.fullmatch(name) is not None


def is_data(name: str) -> bool:
    """Whether a file or folder of this name may be data: not what is hidden or what systems leave behind."""
    return not name.startswith(".") and name.lower() not in SYSTEM_FOLDERS
