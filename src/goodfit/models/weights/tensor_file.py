"""Reading the tensors of a .safetensors or torch file, by name, out of what training scripts put around them."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from goodfit.core.errors import DataError, first_line

SAFETENSORS = ".safetensors"
WEIGHT_SUFFIXES = (SAFETENSORS, ".pth", ".pt")
# Under which training scripts save the tensors. Averaged ones come first: where a file has both, they are the better net.
WRAPPER_KEYS = (
    *("state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "ema"),
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights"),
)


class TensorFile(NamedTuple):
    """The tensors of a file by name, and the keys they lie under there, such as "state_dict", outermost first.

    `others` are keys beside those, under which the file has tensors too. `is_sorted` says that the file keeps its tensors sorted by name,
    as .safetensors files do, so that their order is not that of the net.
    """

    tensors: dict[str, Tensor]
    keys: tuple[str, ...]
    others: tuple[str, ...]
    is_sorted: bool


def read_tensors(path: Path) -> TensorFile:
    """Read the tensors of a .safetensors or a torch file; nothing but tensors is ever unpickled.

    Raises:
        DataError: the file cannot be read, or holds something else.
    """
    is_sorted = path.suffix == SAFETENSORS
    try:
        content: Any = load_file(path) if is_sorted else torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        what = f"holds code ({code[1]}), which could run anything" if code else "is no file of tensors"
        raise DataError(f'"{path}" {what}, so it is not opened: expected a state_dict() alone, or a .safetensors file.') from error
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        raise DataError(f'"{path}" cannot be read as weights ({first_line(error)}).') from error
    keys, others = list[str](), list[str]()
    while wrappers := _wrappers(content):
        keys.append(wrappers[0])
        others += wrappers[1:]
        content = content[wrappers[0]]
    if not isinstance(content, dict) or not content:
        raise DataError(f'Expected tensors by name in "{path}", received {"none" if content == {} else f"a {type(content).__name__}"}.')
    for name, x in content.items():
        if not isinstance(name, str) or not isinstance(x, Tensor):
            raise DataError(f'Expected tensors by name in "{path}", received a {type(x).__name__} at {name!r}.')
    return TensorFile(content, tuple(keys), tuple(others), is_sorted)


def _wrappers(content: Any) -> list[str]:
    """The keys of a file's content under which there are tensors by name, the best first."""
    return [key for key in WRAPPER_KEYS if _holds_tensors(content.get(key))] if isinstance(content, dict) else []


def _holds_tensors(content: Any) -> bool:
    return isinstance(content, dict) and any(isinstance(x, Tensor) or _holds_tensors(x) for x in content.values())
