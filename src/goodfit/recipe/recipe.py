"""The recipe: everything that decides a training, flat and typed, as a TOML file in and out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from goodfit.core.dotted_names import dotted_names
from goodfit.core.errors import UsageError, first_line, unknown_name
from goodfit.core.escapes import restore_name
from goodfit.core.figures import TaskName
from goodfit.core.parts import Part, spell
from goodfit.core.progress import Length
from goodfit.core.run import Run
from goodfit.core.run_files import DamagedFile
from goodfit.core.settings import (
    INVALID,
    Count,
    Natural,
    NonNegative,
    Positive,
    Range,
    Share,
    check_settings,
    parse_setting,
    settings_of,
    type_phrase,
)
from goodfit.core.toml import change_texts, parse_toml, write_toml
from goodfit.core.trust import require_trust, trust_own_code

AUTO: Any = "auto"
MAX_WORKERS, MAX_THREADS, MAX_SNAPSHOTS = 256, 1024, 10_000  # more than help anywhere


def option(sentence: str, default: Any, kind: str = "") -> Any:
    """A field with its default and the sentence that explains it; `kind` is that of its part where the field has another name."""
    return dataclasses.field(default=default, metadata={"help": sentence, "kind": kind})


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides a training. "auto" is chosen from the data and the machine, reported, and frozen into the run's recipe."""

    data: str = option("Images: a folder, tar, parquet, CSV, npz, IDX, CIFAR file, or digits, cifar10, cifar100, mnist, fashion_mnist.", "")
    task: TaskName = option(
        "What is answered of each image: one of several classes, any of several labels, or one or more numbers.", "classes"
    )
    targets: tuple[str, ...] = option("Columns of a table or parquet file with the labels or numbers; without any, all that can be.", ())
    limit: Natural = option("Take at most this many images per class and split; 0 takes all.", 0)
    duplicates: Literal["keep", "drop"] = option(
        "Images whose bytes are those of another: keep (they are told, and in one split where it is made here) or drop all but one.", "keep"
    )
    size: int | str = option('Size the model sees: "96" or "128x96" (height x width).', AUTO)
    aspect: Literal["auto", "crop", "pad", "stretch"] = option(
        "How images come to that shape: crop, pad or stretch; auto is crop, with --from what its images were.", AUTO
    )
    channels: Literal["auto", 1, 3, 4] = option("1 gray, 3 RGB, 4 RGB with alpha.", AUTO)
    white_level: Count | Literal["auto"] = option(
        "The value of 16-bit images that is white; auto is the least of 255, 1023, 4095, 16383 and 65535 that none exceeds.", AUTO
    )
    mean: Literal["auto", "data", "image"] | tuple[float, ...] = option(
        "What is taken off, of 0 to 1: a number per channel, data for that of the training images, or image for their mean image.", AUTO
    )
    std: Literal["auto", "data"] | tuple[Positive, ...] = option("What each channel is then divided by: numbers, or data.", AUTO)
    validation: Share | str = option("Share of the training images held out for validation, or a CSV with columns path and split.", 0.15)
    cache: Positive = option("Most gigabytes of packed pixels; above it they are stored as JPEG, or decoded on the fly.", 8.0)
    storage: Literal["auto", "raw", "jpeg", "files", "stream"] = option(
        "How prepared images are kept: raw pixels, jpeg, files (not at all: crops are cut from the originals), or stream (not at all, and"
        " read shard by shard); auto goes by cache.",
        "auto",
    )
    model: str | Part = option("The network.", AUTO)
    source: str = option(
        "Weights to start from (--from): a run folder, a .safetensors or .pth file, published ones such as resnet18:imagenet, timm:NAME"
        " or hf:OWNER/NAME.",
        "",
    )
    source_by: Literal["name", "order"] = option(
        "How their tensors are matched to the model's (--from-by): name, or order for a file with other names but the same shapes.", "name"
    )
    head_init: Literal["auto", "probe", "random", "source"] = option(
        "What a head that the source does not have starts as: the linear probe of its input, or random weights.", AUTO
    )
    augment: str | Part = option("What is done to the training images.", AUTO)
    resolution: str | Part = option(
        "How large training shows the images: full (the model's size throughout), or progressive, from small ones on.", AUTO
    )
    views: str | Part = option("Views of an image whose answers evaluate and predict average: flip_pair, ten_crop, multi_scale ...", AUTO)
    loss: str | Part = option("What training makes small; auto is softmax for classes, binary for labels, mse for numbers.", AUTO)
    class_weights: str | tuple[Positive, ...] = option(
        'How much each class counts in the mean loss: none, balanced, "cat=2, dog=0.5" (the others 1), or a number for each class.', "none"
    )
    penalty: str | Part = option("Penalties on the weights, added to the loss: none, l1, l2, elastic_net, or l2_sp beside --from.", "none")
    optimizer: str | Part = option("How the weights move; its lr is the peak rate.", AUTO)
    schedule: str | Part = option("The learning rate over the budget, as a factor of the peak.", AUTO)
    plateau: str | Part = option("What lowers the rate further when validation stops improving: none or plateau.", "none")
    fork: str = option("A run, RUN or RUN@STEP, from whose checkpoint a new one goes on, by its recipe but for what is given.", "")
    steering: str | Part = option("What goodfit steer has done: lr(0.1, step=900), snapshot, finish; a rerun does it again.", "none")
    average: str | Part = option("Running average of the weights: none, ema, polyak, swa, or wise beside --from.", "none")
    snapshots: Annotated[int, Range(0, MAX_SNAPSHOTS)] | Literal["all"] = option(
        "Keep the weights at the lowest rate of so many of the schedule's last cycles, or of all, for goodfit ensemble.", 0
    )
    trainable: str | Part = option(
        "What learns: all, head, last(2), gradual, or in turn as in head(0.2) | all; auto is all, of --from what the time allows.",
        AUTO,
    )
    cached_views: Natural | Literal["auto"] = option(
        "Augmented views of each image whose features are computed once, without noise, where stages stay frozen; 0: each epoch anew.",
        AUTO,
    )
    rates: str | Part = option("Learning rates by layer: none, layer_decay, backbone or by_stage.", AUTO)
    budget: str = option('How long: "30 epochs", "5000 steps", "2e6 examples", "10 min" or "2 EUR at 1.50/h".', AUTO)
    stop: str | Part = option("When to stop early: none or patience(10).", "none")
    keep: Literal["best", "last"] = option(
        "Weights that are kept: last, or best, those of the best evaluation, where the last are worse on validation by more than noise"
        " (below its 95 % interval), worse at all beside --stop, or worse than the pretrained start.",
        "best",
    )
    batch_size: Count | Literal["auto", "all"] = option("Images a step; all takes every training image in each.", AUTO)
    sampler: str | Part = option("Which images an epoch shows: shuffle, or balanced (every class as often as the largest).", "shuffle")
    pieces: Count | Literal["auto"] = option("Pieces a step's images are computed in, to save memory; the step stays the same.", AUTO)
    sync: str | Part = option("What processes of a training average: gradients, or weights: average, post_local, elastic.", "gradients")
    sync_norms: bool | Literal["auto"] = option(
        "Whether batch norms take their statistics from the images of all processes of a training; false: each from its own, so that what"
        " is trained depends on how many there are; auto is true where sync is gradients.",
        AUTO,
    )
    noise: Literal["refuse", "allow"] = option(
        "What to do with augmentation, dropout, batch norm, mini-batches or clipping beside newton, bfgs or lbfgs.", "refuse"
    )
    clip: NonNegative = option("Largest norm of the gradient; 0 does not clip.", 0.0)
    clip_value: NonNegative = option("Largest size of any number in the gradient, after clip; 0 does not clip.", 0.0)
    seed: Natural = option("Seed of everything random.", 0)
    split_seed: Natural = option("Seed of the splits that are made, apart from seed, so that copies differ in their training alone.", 0)
    evaluate_every: str = option(
        'How often to evaluate: "1 epoch", "200 steps", "1 min", or a share of the budget such as "0.1", seldomer where that takes more'
        " than a tenth of the minutes of a budget.",
        AUTO,
    )
    save_every: str = option("How often to save a checkpoint between evaluations.", "2 min")
    probes: str | Part = option(
        "What is measured while training, besides loss, accuracy, rate, gradient norm and time.", "update_ratio", "probe"
    )
    precision: Literal["auto", "fp32", "bf16"] = option("fp32, or bf16 autocast.", AUTO)
    layout: Literal["auto", "channels_last", "contiguous"] = option("Memory layout of images and weights.", AUTO)
    device: str = option("auto, cpu, cuda, cuda:1, mps, ...", AUTO)
    threads: Annotated[int, Range(1, MAX_THREADS)] | Literal["auto"] = option("Compute threads.", AUTO)
    workers: Annotated[int, Range(0, MAX_WORKERS)] = option("Threads that read batches ahead; the batches are the same for any number.", 1)
    use: tuple[str, ...] = option("Python files with your own parts.", ())
    read_keys: frozenset[str] = dataclasses.field(default=frozenset(), repr=False, compare=False)  # no setting: which were read from files

    def __post_init__(self) -> None:
        check_settings(self, "recipe")
        for key in SEATS:
            if getattr(self, key) == "auto" != getattr(Recipe, key):
                raise UsageError(f'recipe: {key} is not chosen for you, found "auto": the default is {getattr(Recipe, key)}.')
        for key in ("budget", "evaluate_every", "save_every"):
            if (text := getattr(self, key)) != "auto":
                Length.read(text, "budget" if key == "budget" else "length")

    def but(self, **changes: Any) -> Recipe:
        """The same recipe with some fields changed.

        Raises:
            UsageError: a key is unknown, or a value is of the wrong type; the sentence lists what there is.
        """
        keys = [s.name for s in settings_of(Recipe)]
        changes = with_current_keys(changes)
        if (unknown := next((key for key in changes if key not in keys), None)) is not None:
            raise UsageError(unknown_name("recipe key", unknown, keys))
        return dataclasses.replace(self, **changes, read_keys=self.read_keys - changes.keys())

    def but_text(self, texts: Mapping[str, str]) -> Recipe:
        """The same recipe with some fields changed, their values given as on a command line."""
        hints, texts = {s.name: s.hint for s in settings_of(Recipe)}, with_current_keys(texts)
        values = {key: parse_setting(text, hints[key]) if key in hints else text for key, text in texts.items()}
        for key, value in values.items():
            if value is INVALID:
                raise UsageError(f'recipe: expected {key} to be {type_phrase(hints[key])}, received "{texts[key]}".')
        return self.but(**values)

    def require_trust(self, where: str, files: Iterable[str | Path]) -> None:
        """Refuse code in the parts, or in the `files` that define some, that may not run here (see `core.trust`); `where` names it."""
        require_trust(where, [name for key in SEATS for name in dotted_names(str(getattr(self, key)))], files)

    def trust_own_code(self) -> None:
        """Let the code run that the fields name which were not read from a file (see `core.trust`)."""
        trust_own_code([str(getattr(self, key)) for key in SEATS if key not in self.read_keys], () if "use" in self.read_keys else self.use)

    def as_read(self) -> Recipe:
        """The same recipe with every field taken as read from a file."""
        return dataclasses.replace(self, read_keys=frozenset(s.name for s in settings_of(Recipe)))

    def images_per_step(self, images: int) -> int:
        """The images of a step when there are `images` to train on; batch_size must not be "auto"."""
        return images if self.batch_size == "all" else min(int(self.batch_size), images)

    def plain(self) -> dict[str, Any]:
        """The fields as TOML and JSON hold them: parts are spelled out with all their settings."""
        return {s.name: _to_toml_value(getattr(self, s.name)) for s in settings_of(Recipe)}

    @staticmethod
    def of_run(folder: Path) -> Recipe:
        """Read the recipe of a run folder; what a run of an earlier version could not choose is as it was then.

        What its recipe.toml lacks, or all of it where that does not read, is as the run's about.json has it.

        Raises:
            UsageError: as `from_toml`.
            DamagedFile: it is cut off.
        """
        recorded = recorded_recipe(folder)
        try:
            recipe = Recipe.from_toml(folder / "recipe.toml", {**BEFORE_CHOICE, **recorded})
        except UsageError:
            if not recorded:
                raise
            return Recipe().but(**recorded).as_read()
        if recipe.threads == AUTO:  # one of its last keys, of which a run leaves none open
            raise DamagedFile(folder / "recipe.toml", "it is not whole")
        return recipe

    def to_toml(self) -> str:
        """Write the recipe as TOML, each key below its sentence."""
        notes = {f.name: f.metadata.get("help", "") for f in dataclasses.fields(self)}
        return "".join(f"# {notes[key]}\n{key} = {write_toml(value)}\n" for key, value in self.plain().items())

    @staticmethod
    def from_toml(source: str | Path, unnamed: Mapping[str, Any] | None = None) -> Recipe:
        """Read the recipe in a TOML file, or the preset of that name; fields it does not name are `unnamed`, or at their default.

        Raises:
            UsageError: there is no such file or preset, it is not TOML, or a key or value is wrong.
        """
        path = Path(source)
        if not path.is_file() and not path.suffix:
            path = Path(str(resources.files("goodfit.recipe") / "presets" / f"{source}.toml"))
        if not path.is_file():
            raise UsageError(f'Expected a recipe file or preset, found none at "{source}". Presets: {", ".join(presets())}.')
        try:
            values = parse_toml(path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise UsageError(f'The recipe "{source}" is not TOML: {first_line(error)}.') from error
        values = with_current_keys({key: change_texts(restore_name, value) for key, value in values.items()})
        return dataclasses.replace(Recipe().but(**(values := {**(unnamed or {}), **values})), read_keys=frozenset(values))


_PART_FIELDS = {setting.name for setting in settings_of(Recipe) if setting.kind}
# The fields that hold parts, each with the kind of part it holds.
SEATS = {f.name: f.metadata["kind"] or f.name for f in dataclasses.fields(Recipe) if f.name in _PART_FIELDS}

# How runs trained before there was such a field.
BEFORE_CHOICE: dict[str, Any] = {"resolution": "full", "views": "center", "sync_norms": True}
FORMER_KEYS = {"brake": "plateau"}  # what fields were called in version 0.1


def recorded_recipe(folder: Path) -> dict[str, Any]:
    """The recipe that the about.json of a run has; empty where that does not read, or is of an earlier version."""
    try:
        return with_current_keys(Run(folder).read("about.json").get("recipe", {}))
    except DamagedFile:
        return {}


def with_current_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a recipe with each key that has been renamed under its current name."""
    return {FORMER_KEYS.get(key, key): value for key, value in values.items()}


def presets() -> list[str]:
    """The names of the recipes that are included."""
    folder = resources.files("goodfit.recipe") / "presets"
    return sorted(path.name.removesuffix(".toml") for path in folder.iterdir() if path.name.endswith(".toml"))


def _to_toml_value(value: Any) -> Any:
    if isinstance(value, Part):
        return spell(value, full=True)
    return list(value) if isinstance(value, tuple) else value
