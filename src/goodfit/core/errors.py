"""Errors a person can act on: one sentence, and the exit code that a script can read."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

SYNONYMS = {  # what other programs call our names, without separators
    "hinge": ("svm",), "crossentropy": ("softmax",), "bce": ("binary",), "learningrate": ("lr", "optimizer"), "lr": ("optimizer",),
    "epochs": ("budget",), "batch": ("batch_size",), "imgsz": ("size",), "imagesize": ("size",), "pretrained": ("source", "from"),
    "weights": ("source", "from"), "decay": ("weight_decay",), "wd": ("weight_decay",), "batchnorm": ("batch",), "layernorm": ("layer",),
    "groupnorm": ("group",), "randomcrop": ("crop",), "horizontalflip": ("flip",), "colorjitter": ("jitter",), "randomerasing": ("erase",),
    "labelsmoothing": ("smooth",), "earlystopping": ("patience",), "knn": ("nearest",), "kaiming": ("he",), "glorot": ("xavier",),
    "swish": ("silu",),
}  # fmt: skip


class GoodfitError(Exception):
    """Something failed; the message says what was expected, what was found, where, and what to do."""

    exit_code = 1


class UsageError(GoodfitError):
    """A wrong option, recipe key, part or setting."""

    exit_code = 2


class DataError(GoodfitError):
    """The images, labels or files are not what training needs."""

    exit_code = 3


class Diverged(GoodfitError):
    """A loss, activation or gradient stopped being a finite number."""

    exit_code = 4


class Interrupted(GoodfitError):
    """Stopped by Ctrl-C; everything up to the last step is saved."""

    exit_code = 130


class Terminated(GoodfitError):
    """Stopped by SIGTERM; everything up to the last step is saved."""

    exit_code = 143


class RankLost(GoodfitError):
    """Another process of a training ended; what ended it says why."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean "x"?` for the known word nearest to `word`, else an empty string."""
    near = find_nearest(word, list(known))
    return f' Did you mean "{near}"?' if near else ""


def find_nearest(word: str, known: list[str]) -> str:
    """The known word that is meant: the same but for case and separators, what others call it, resnet(18) of resnet18, or the likest."""
    plain = {re.sub(r"[\s_-]", "", name.lower()): name for name in known}
    wanted = re.sub(r"[\s_-]", "", word.lower())
    if wanted in plain:
        return plain[wanted]
    if other := next((name for name in SYNONYMS.get(wanted, ()) if name in known), ""):
        return other
    stem, number = re.fullmatch(r"(.*?)(\d*)", wanted, re.DOTALL).groups()  # type: ignore[union-attr]
    if number and stem in plain:
        return f"{plain[stem]}({number})"
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=0.5)), "")


def unknown_name(what: str, name: object, known: Iterable[str]) -> str:
    """The sentence for an unknown name: what was received, the nearest, and all there are."""
    names = list(known)
    return f'Unknown {what} "{name}".{did_you_mean(str(name), names)} There is: {", ".join(names)}.'


def refuse_more(option: str, value: int, limit: int) -> None:
    """Refuse a number by which a command would have no end.

    Raises:
        UsageError: it is above the limit.
    """
    if value > limit:
        raise UsageError(f"Expected {option} to be {limit:,} or less, received {value:,}.")


def first_line(error: BaseException) -> str:
    """The first line of an error without its full stop, to be put into a sentence; its class where it has no text."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
