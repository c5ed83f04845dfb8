"""The recipe: everything that decides a training, flat and typed, as a TOML file in and out."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from goodfit.core.catalog import Part, spell
from goodfit.core.errors import UsageError, one_of
from goodfit.core.progress import Length
from goodfit.core.settings import MISFIT, Count, Natural, NonNegative, Positive, Share, check_settings, read, said, settings_of

AUTO: Any = "auto"


def says(sentence: str, default: Any) -> Any:
    """A field with its default and the sentence that explains it."""
    return dataclasses.field(default=default, metadata={"says": sentence})


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides a training. "auto" is chosen from the data and the machine, said, and frozen into the run's recipe."""

    data: str = says("Images: a folder, parquet, CSV, npz, IDX or CIFAR file, or digits, cifar10, cifar100, mnist, fashion_mnist.", "")
    limit: Natural = says("Take at most this many images per class and split; 0 takes all.", 0)
    size: int | str = says('Size the model sees: "96" or "128x96" (height x width).', AUTO)
    aspect: Literal["crop", "pad", "stretch"] = says("How images come to that shape: crop, pad or stretch.", "crop")
    channels: Literal["auto", 1, 3, 4] = says("1 gray, 3 RGB, 4 RGB with alpha.", AUTO)
    mean: Literal["auto", "data"] | tuple[float, ...] = says(
        "What is taken off each channel, on a scale of 0 to 1: numbers, or data for the mean of the training images.", AUTO
    )
    std: Literal["auto", "data"] | tuple[Positive, ...] = says("What each channel is then divided by: numbers, or data.", AUTO)
    validation: Share | str = says("Share of the training images held out for validation, or a CSV with the columns path and split.", 0.15)
    cache: Positive = says("Most gigabytes of packed pixels; above it they are stored as JPEG, or decoded on the fly.", 8.0)
    storage: Literal["auto", "raw", "jpeg", "files"] = says(
        "How prepared images are kept: raw pixels, jpeg, or files (not at all: crops are cut from the originals); auto goes by cache.",
        "auto",
    )
    model: str | Part = says("The network.", AUTO)
    source: str = says(
        "Weights to begin from (--from): a run folder, a .safetensors or .pth file, or published ones such as resnet18:imagenet.", ""
    )
    augment: str | Part = says("What is done to the training images.", AUTO)
    views: str | Part = says("Views of an image whose answers evaluate and predict average: flip_pair, ten_crop, multi_scale ...", "center")
    loss: str | Part = says("What training makes small.", "softmax")
    class_weights: str | tuple[Positive, ...] = says(
        'How much each class counts in the mean loss: none, balanced, "cat=2, dog=0.5" (the others 1), or a number for each class.', "none"
    )
    penalty: str | Part = says("Penalties on the weights, added to the loss.", "none")
    optimizer: str | Part = says("How the weights move; its lr is the peak rate.", AUTO)
    schedule: str | Part = says("The learning rate over the budget, as a factor of the peak.", AUTO)
    brake: str | Part = says("What lowers the rate further when validation stops improving: none or plateau.", "none")
    average: str | Part = says("Running average of the weights: none, ema, polyak or swa.", "none")
    snapshots: Natural | Literal["all"] = says(
        "Keep the weights at the lowest rate of so many of the schedule's last cycles, or of all, for goodfit ensemble.", 0
    )
    trainable: str | Part = says(
        "What learns: all, head, last(2), or one after the other as in head(0.2) | all; auto as `advise` says of --from.", "all"
    )
    rates: str | Part = says("Learning rates by layer: none, layer_decay, backbone or by_stage.", AUTO)
    budget: str = says('How long: "30 epochs", "5000 steps", "2e6 examples" or "10 min" (all included).', AUTO)
    stop: str | Part = says("When to stop early: none or patience(10).", "none")
    batch_size: Count | Literal["auto", "all"] = says("Images a step; all takes every training image in each.", AUTO)
    sampler: str | Part = says("Which images an epoch shows: shuffle, or balanced (every class as often as the largest).", "shuffle")
    pieces: Count | Literal["auto"] = says("Pieces a step's images are computed in, to save memory; the step stays the same.", AUTO)
    noise: Literal["refuse", "allow"] = says(
        "What to do with augmentation, dropout, batch norm, mini-batches or clipping beside newton, bfgs or lbfgs.", "refuse"
    )
    clip: NonNegative = says("Largest norm of the gradient; 0 does not clip.", 0.0)
    clip_value: NonNegative = says("Largest size of any number in the gradient, after clip; 0 does not clip.", 0.0)
    seed: Natural = says("Seed of everything random.", 0)
    split_seed: Natural = says("Seed of the splits that are made, apart from seed, so that copies differ in their training alone.", 0)
    evaluate_every: str = says('How often to evaluate: "1 epoch", "200 steps", "1 min", or a share of the budget such as "0.1".', AUTO)
    save_every: str = says("How often to save a checkpoint between evaluations.", "2 min")
    probes: str | Part = says("What is measured while training, besides loss, accuracy, rate, gradient norm and time.", "update_ratio")
    precision: Literal["auto", "fp32", "bf16"] = says("fp32, or bf16 autocast.", AUTO)
    layout: Literal["auto", "channels_last", "contiguous"] = says("Memory layout of images and weights.", AUTO)
    device: str = says("auto, cpu, cuda, cuda:1, mps, ...", AUTO)
    threads: Count | Literal["auto"] = says("Compute threads.", AUTO)
    workers: Natural = says("Threads that read batches ahead; the batches are the same for any number.", 1)
    use: tuple[str, ...] = says("Python files with your own parts.", ())

    def __post_init__(self) -> None:
        check_settings(self, "recipe")
        for key in ("budget", "evaluate_every", "save_every"):
            if (text := getattr(self, key)) != "auto":
                Length.read(text, "budget" if key == "budget" else "length")

    def but(self, **changes: Any) -> Recipe:
        """The same recipe with some fields changed.

        Raises:
            UsageError: a key is unknown, or a value is of the wrong type; the sentence lists what there is.
        """
        known = [s.name for s in settings_of(Recipe)]
        for key in changes:
            if key not in known:
                raise UsageError(one_of("recipe key", key, known))
        return dataclasses.replace(self, **changes)

    def but_text(self, texts: Mapping[str, str]) -> Recipe:
        """The same recipe with some fields changed, their values given as on a command line."""
        hints = {s.name: s.hint for s in settings_of(Recipe)}
        values = {key: read(text, hints[key]) if key in hints else text for key, text in texts.items()}
        for key, value in values.items():
            if value is MISFIT:
                raise UsageError(f'recipe: expected {key} to be {said(hints[key])}, received "{texts[key]}".')
        return self.but(**values)

    def images_a_step(self, images: int) -> int:
        """The images of a step when there are so many to train on; batch_size must be chosen."""
        return images if self.batch_size == "all" else int(self.batch_size)

    def plain(self) -> dict[str, Any]:
        """The fields as TOML and JSON have them: parts are spelled out with all their settings."""
        return {s.name: _plain(getattr(self, s.name)) for s in settings_of(Recipe)}

    def to_toml(self) -> str:
        """The recipe as a TOML file, each key under its sentence."""
        notes = {f.name: f.metadata["says"] for f in dataclasses.fields(self)}
        return "".join(f"# {notes[key]}\n{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in self.plain().items())

    @staticmethod
    def from_toml(source: str | Path) -> Recipe:
        """The recipe in a TOML file, or the preset of that name.

        Raises:
            UsageError: there is no such file or preset, it is no TOML, or a key or value is wrong.
        """
        path = Path(source)
        if not path.is_file() and not path.suffix:
            path = Path(str(resources.files("goodfit.recipe") / "presets" / f"{source}.toml"))
        if not path.is_file():
            raise UsageError(f'Expected a recipe file or preset, found none at "{source}". Presets: {", ".join(presets())}.')
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f'The recipe "{source}" is no TOML: {error}.') from error
        return Recipe().but(**values)


def presets() -> list[str]:
    """Names of the recipes that come along."""
    folder = resources.files("goodfit.recipe") / "presets"
    return sorted(path.name.removesuffix(".toml") for path in folder.iterdir() if path.name.endswith(".toml"))


def _plain(value: Any) -> Any:
    if isinstance(value, Part):
        return spell(value, full=True)
    return list(value) if isinstance(value, tuple) else value
