"""Weights from the Hugging Face hub, and those of timm (PyTorch Image Models), which lie there too; both packages are the user's own."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from goodfit.core.errors import DataError, UsageError, did_you_mean, first_line
from goodfit.core.fetch import Say, hash_file
from goodfit.data.preprocess import TIMM_CROP_MODES
from goodfit.models.weights.files import Weights, from_bare_file
from goodfit.models.weights.tensor_file import SAFETENSORS

TIMM, HUB = "timm:", "hf:"  # what such a source begins with
HUB_WEIGHTS, HUB_CONFIG = "model.safetensors", "config.json"
FORCE_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # by which torch.load unpickles nothing but tensors, whoever calls it


def from_timm(name: str, say: Say) -> Weights:
    """Load the pretrained weights of a model of timm, such as "resnet18" or "resnet18.a1_in1k"; timm fetches them the first time.

    Their SHA-256 is of the tensors' names and values, for timm does not say which file they are from.
    Source: timm's `create_model(name, pretrained=True)` and the `pretrained_cfg` of what it returns.

    Raises:
        UsageError: timm is not installed, or has no such model or weights.
        DataError: the weights cannot be fetched.
    """
    timm = import_package("timm", f'"{TIMM}{name}" needs timm: pip install timm.')
    say(f"Loading timm's weights of {name}")
    try:
        with only_tensors_unpickled(), hub_warnings_hidden():
            model = timm.create_model(name, pretrained=True)
    except RuntimeError as error:
        hint = "" if timm.is_model(name) else did_you_mean(name.partition(".")[0], timm.list_models())
        raise UsageError(f'timm has no weights of "{name}" ({first_line(error)}).{hint}') from error
    except Exception as error:  # timm, the client of the hub and what it is built on raise anything
        raise DataError(
            f'timm\'s weights of "{name}" cannot be fetched ({_reason(error)}): run the same command once with a connection to the'
            f" internet, or give a file of them by --from with --model \"timm.create_model('{name}')\"."
        ) from error
    config: Mapping[str, Any] = model.pretrained_cfg
    full_name = ".".join(str(config[key]) for key in ("architecture", "tag") if config.get(key)) or name
    tensors = model.state_dict()
    weights = Weights(f"{TIMM}{full_name}", hash_tensors(tensors), tensors)
    return with_pretrained_cfg(weights, {**config, "architecture": full_name})


def from_hub(place: str, say: Say) -> Weights:
    """Load the weights of a repository of the hub, "OWNER/NAME": its model.safetensors, or another such file, "OWNER/NAME/FILE".

    Where its config.json is one of timm's, it says the model, and the size, mean and std of its images.

    Raises:
        UsageError: the client of the hub is not installed, or `place` is no repository's name.
        DataError: the file cannot be fetched, or the repository has none.
    """
    client = import_package("huggingface_hub", f'"{HUB}{place}" needs the extra: pip install "goodfit[hub]".')
    owner, _, rest = place.partition("/")
    name, _, file = rest.partition("/")
    file = file or HUB_WEIGHTS
    if not name or not file.endswith(SAFETENSORS):
        raise UsageError(f'Expected {HUB}OWNER/NAME or {HUB}OWNER/NAME/FILE{SAFETENSORS}, received "{HUB}{place}".')
    repository = f"{owner}/{name}"
    say(f"Loading {file} of {repository} from the Hugging Face hub")
    path = _fetch(client, repository, file)
    if path is None:
        raise DataError(
            f'The repository "{repository}" has no {file}, and no other kind of file is opened: name another by'
            f" {HUB}{repository}/FILE{SAFETENSORS}."
        )
    weights = from_bare_file(f"{HUB}{place}", path, hash_file(path))
    config_path = _fetch(client, repository, HUB_CONFIG, is_needed=False)
    return with_pretrained_cfg(weights, _read_config(config_path)) if config_path else weights


def with_pretrained_cfg(weights: Weights, config: Mapping[str, Any]) -> Weights:
    """The weights with what a configuration of timm says: its architecture, and size, mean, std and interpolation of its images.

    Raises:
        DataError: a value is not of the form that timm gives it.
    """
    try:
        return dataclasses.replace(
            weights,
            model=f"timm.create_model({str(config['architecture'])!r})" if config.get("architecture") else "",
            size=tuple(int(side) for side in config.get("input_size", ())[1:]),
            mean=tuple(float(x) for x in config.get("mean", ())),
            std=tuple(float(x) for x in config.get("std", ())),
            aspect=next((ours for ours, theirs in TIMM_CROP_MODES.items() if theirs == config.get("crop_mode")), ""),
            has_fixed_size=bool(config.get("fixed_input_size", False)),
            interpolation=str(config.get("interpolation", "")),
        )
    except (TypeError, ValueError) as error:
        raise DataError(f'The configuration of "{weights.name}" is not of the form that timm writes ({first_line(error)}).') from error


def import_package(name: str, sentence: str) -> Any:
    """Import a package that only some sources need.

    Raises:
        UsageError: it is not installed, as the sentence says, or does not import.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise UsageError(f"{name} does not import: {first_line(error)}.") from error
        raise UsageError(sentence) from error
    except Exception as error:  # such as a build for another version of torch
        raise UsageError(f"{name} does not import: {type(error).__name__}: {first_line(error)}.") from error


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of the names, types, shapes and values of tensors, in their order."""
    total = hashlib.sha256()
    for name, x in tensors.items():
        total.update(f"{name} {x.dtype} {tuple(x.shape)}\n".encode())
        total.update(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


@contextlib.contextmanager
def only_tensors_unpickled() -> Iterator[None]:
    """Let torch.load unpickle nothing but tensors within the block, whoever calls it."""
    before = os.environ.get(FORCE_WEIGHTS_ONLY)
    os.environ[FORCE_WEIGHTS_ONLY] = "1"
    try:
        yield
    finally:
        os.environ.pop(FORCE_WEIGHTS_ONLY)
        if before is not None:
            os.environ[FORCE_WEIGHTS_ONLY] = before


@contextlib.contextmanager
def hub_warnings_hidden() -> Iterator[None]:
    """Hide the warnings of the hub's client within the block, which tell of each of its tries."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _fetch(client: Any, repository: str, file: str, is_needed: bool = True) -> Path | None:
    """Fetch a file of a repository, or find it in the client's cache; None where the repository has no such file.

    One that is not needed may also be missing in the cache while there is no connection.
    """
    errors = importlib.import_module(f"{client.__name__}.errors")
    try:
        with hub_warnings_hidden():
            return Path(client.hf_hub_download(repository, file))
    except Exception as error:  # the client and what it is built on raise anything
        is_missing = isinstance(error, errors.EntryNotFoundError)
        if is_missing and not (is_needed and isinstance(error, errors.LocalEntryNotFoundError)):
            return None
        raise DataError(
            f'{file} of "{repository}" cannot be fetched from the Hugging Face hub ({_reason(error)}): check the name, and run the same'
            " command once with a connection to the internet."
        ) from error


def _read_config(path: Path) -> dict[str, Any]:
    """What a config.json of timm says; older ones have on top what newer ones have below pretrained_cfg."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return {**config, **config.get("pretrained_cfg", {})}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f'"{path}" does not read as a configuration ({first_line(error)}).') from error


def _reason(error: Exception) -> str:
    """The first sentence of an error."""
    return first_line(error).partition(". ")[0]
