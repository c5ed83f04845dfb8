"""What flows through the layers of a network, and whether it can learn: of one as it starts, with other initializations, or of a run."""

from __future__ import annotations

import dataclasses
import math
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.core.errors import UsageError, first_line
from goodfit.core.reporter import Reporter
from goodfit.core.settings import parse_size
from goodfit.data.dataset import Dataset
from goodfit.data.loader import iterate_batches
from goodfit.inspection.chance import OwnChance
from goodfit.inspection.fitting import SmallFit, fit_small_set, measure_predicted_descent
from goodfit.inspection.layer_spread import LayerSpread, NetworkSpread, measure_spread
from goodfit.layers.init import DataInit, calibrate_init
from goodfit.losses.scores import split_outputs
from goodfit.predict.images import ImagesFor
from goodfit.predict.predictor import load_classifier
from goodfit.recipe.parts import MODEL_ERRORS, load_catalog, make_model, refuse_other_tasks
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.source import open_images
from goodfit.study.networks import NetworkOptions

SEED = 0
MIN_IMAGES, MAX_IMAGES, MAX_PIXELS = 16, 64, 1 << 20  # of a batch
FADED, GROWN = 0.1, 10.0  # share of the first layer's signal in the last: beyond these it fades or grows
MAX_FIT_SECONDS = 15.0
MAX_FLAT, MAX_DEAD = 0.3, 0.5  # share of saturated outputs over all layers, of dead units in one
LECTURE = "CS231n, weight initialization"
LEARNING = "CS231n, babysitting the learning process"
CURE = "he for relu and xavier for tanh keep their size, and so does a norm after each layer"


@dataclasses.dataclass(frozen=True)
class SignalAccount:
    """The layers of a network, by the name of the network or of its initialization, how well a copy of it fits a few images, by how much a
    small step lowers the loss over what the gradient predicts (`descent`), and what all that means in sentences.
    """

    name: str
    spread: NetworkSpread
    fit: SmallFit
    descent: float

    @property
    def notes(self) -> list[str]:
        return [*describe_spread(self.spread), describe_learning(self.fit, self.descent)]

    def to_dict(self) -> dict[str, Any]:
        """What --json prints; a number that does not exist is null."""
        rows = [dataclasses.asdict(layer) for layer in self.spread.layers]
        plain = [{key: None if isinstance(x, float) and not math.isfinite(x) else x for key, x in row.items()} for row in rows]
        fit = {name: getattr(self.fit, name) for name in ("images", "right", "steps", "ran_out_of_time")}
        descent = self.descent if math.isfinite(self.descent) else None
        return {"name": self.name, "norms": self.spread.norms, "layers": plain, "fit": fit, "descent": descent, "notes": self.notes}


def account_for_signals(model: str, options: NetworkOptions, inits: Sequence[str], data: str, reporter: Reporter) -> list[SignalAccount]:
    """Measure the layers of a model part, for each of some initializations if there are any, or of a run's network.

    Images are those of `data`, for a run its own; without any they are drawn from a normal distribution, with labels drawn at random.

    Raises:
        UsageError: there is no such model, it has no `init` to replace or no weights, or it does not take such images.
        DataError: the images are gone.
    """
    if os.path.isfile(Path(model) / "recipe.toml"):  # noqa: PTH113  where a Path fails: the text of a part may be too long for a path
        if inits:
            raise UsageError(f'Expected a model part to initialize anew, received the run "{model}", whose weights are trained.')
        trained, recipe = load_classifier(model, "cpu"), Recipe.of_run(Path(model))
        dataset = ImagesFor(recipe.but(data=data) if data else recipe, reporter).prepare(trained.preprocess)
        if len(dataset.classes) != len(trained.classes):
            raise UsageError(f"Expected images of the run's {len(trained.classes)} classes, found {len(dataset.classes)} in {data}.")
        return [_measure(model, trained.model, *read_images(dataset))]
    catalog = load_catalog(options.use)
    part, size = catalog.make(model, "model"), parse_size(options.size)
    if inits and not hasattr(part, "init"):
        raise UsageError(f'"{model}" has no setting "init" to replace.')
    if data:
        dataset = open_images(Recipe(data=data, size=options.size, use=options.use), reporter)
        images, labels = read_images(dataset)
        classes, channels = len(dataset.classes), dataset.preprocess.channels
    else:
        classes, channels = options.classes, options.channels
        images, labels = draw_images(classes, channels, size, options.batch)
    parts: dict[str, Any] = {init: dataclasses.replace(part, init=catalog.make(init, "init")) for init in inits} or {model: part}  # type: ignore[type-var]
    return [_measure(name, make_started(each, classes, channels, size, images), images, labels) for name, each in parts.items()]


def make_started(part: Any, classes: int, channels: int, size: tuple[int, int], images: Tensor) -> nn.Module:
    """Make the network of a model part as it starts a training on images [B, C, H, W]."""
    with OwnChance(SEED).active():
        model = make_model(part, classes, channels, size)
        if isinstance(init := getattr(part, "init", None), DataInit):
            calibrate_init(init, model, images)
    return model


def count_images(size: tuple[int, int], asked: int = 1) -> int:
    """How many images a batch has: as many as are asked for, if more than one, else up to a number of pixels."""
    return asked if asked > 1 else max(MIN_IMAGES, min(MAX_IMAGES, MAX_PIXELS // (size[0] * size[1])))


def draw_images(classes: int, channels: int, size: tuple[int, int], n: int) -> tuple[Tensor, Tensor]:
    """Images [N, C, H, W] from the standard normal distribution, as normalized ones are on average, and labels [N] at random."""
    generator = torch.Generator().manual_seed(SEED)
    n = count_images(size, n)
    return torch.randn(n, channels, *size, generator=generator), torch.randint(classes, (n,), generator=generator)


def read_images(data: Dataset) -> tuple[Tensor, Tensor]:
    """Training images [N, C, H, W] as a network gets them, without augmentation, and their labels [N].

    Raises:
        UsageError: the data is of another task than classes.
    """
    refuse_other_tasks(data.task.name, "--signals")
    pre = data.preprocess
    rows = data.spread_rows("train", count_images(pre.size))
    batch = next(iterate_batches(data.pixels, data.labels, rows, len(data.classes), len(rows)))
    return pre.normalize(pre.center_crop(batch.images)).contiguous(), batch.targets.argmax(1)


def _measure(name: str, model: nn.Module, images: Tensor, labels: Tensor) -> SignalAccount:
    shape = "x".join(map(str, images.shape[1:]))
    try:
        with OwnChance(SEED).active():
            spread = measure_spread(model, cross_entropy, images, labels)
            fit = fit_small_set(model, cross_entropy, images, labels, seconds=MAX_FIT_SECONDS)
            descent = measure_predicted_descent(model, cross_entropy, images, labels)
    except (*MODEL_ERRORS, NotImplementedError) as error:
        raise UsageError(f'The model "{name}" does not take images of {shape}: {first_line(error)}.') from error
    if not spread.layers:
        raise UsageError(f'The model "{name}" has no weights through which signals flow.')
    return SignalAccount(name, spread, fit, descent)


def cross_entropy(outputs: Any, labels: Tensor) -> Tensor:
    """The cross-entropy of what a network returns, with that of its auxiliary heads."""
    scores, others = split_outputs(outputs)
    return F.cross_entropy(scores, labels) + sum((weight * F.cross_entropy(x, labels) for x, weight in others), torch.zeros(()))


# ---- in words ----------------------------------------------------------------------------------------------------------------------------


def describe_spread(spread: NetworkSpread) -> list[str]:
    """What the layers of a network mean, in sentences."""
    *hidden, last = spread.layers
    if len(hidden) < 2:
        return [f"{last.name} gives the scores, with a root mean square of {last.leaves:.2g}."]
    if (silent := next((layer for layer in hidden if layer.leaves == 0), None)) is not None:
        return [f"Nothing passes {silent.name}, whose weights are zero: no gradient reaches what lies before it, nor it ({LECTURE})."]
    if not all(math.isfinite(layer.passes) for layer in hidden):
        return [f"Signals grow until they overflow: the weights start too large ({LECTURE}); {CURE}."]
    ends = f"{hidden[0].gradient:.2g} in {hidden[0].name} and {hidden[-1].gradient:.2g} in {hidden[-1].name}"
    dead = next((layer for layer in hidden if layer.dead > MAX_DEAD), None)
    return [
        _describe_signals(hidden, spread.norms),
        *([f"{100 * dead.dead:.0f} % of the units of {dead.name} are zero for every image, and do not learn."] if dead else []),
        f"The gradient over the weight is {ends}.",
    ]


def _describe_signals(hidden: Sequence[LayerSpread], norms: int) -> str:
    n = len(hidden)
    share = hidden[-1].passes / hidden[0].passes
    each = f"each layer passes on {share ** (1 / (n - 1)):.2g} times what it gets"
    flats = [layer.flat for layer in hidden if math.isfinite(layer.flat)]
    if flats and (flat := statistics.fmean(flats)) > MAX_FLAT:
        return (
            f"{100 * flat:.0f} % of the outputs of the hidden layers are saturated, at the flat ends of their activation, through which"
            f" gradients vanish: the weights start too large ({LECTURE}); {CURE}."
        )
    if share < FADED:
        return (
            f"Signals fade: {each}, and {share:.2g} of the first hidden layer's is left in the last. Where they go to zero, so do"
            f" gradients, and nothing is learned: the weights start too small ({LECTURE}); {CURE}."
        )
    if share > GROWN:
        return (
            f"Signals grow: {each}, and the last hidden layer has {share:.2g} times the first one's:"
            f" the weights start too large ({LECTURE}); {CURE}."
        )
    if norms >= n / 2:
        return f"Signals keep their size, {each}: norms set it anew, whatever the scale of the weights (CS231n, batch normalization)."
    return f"Signals keep their size: {each} ({LECTURE})."


def describe_learning(fit: SmallFit, descent: float) -> str:
    """Whether a network learns a few images by heart, and whether its gradient is that of its loss, in a sentence."""
    text = f"It {fit.describe()} ({LEARNING})"
    if not math.isfinite(descent):
        return f"{text}, and its loss has no gradient."
    return f"{text}, and a small step down the gradient lowers the loss by {descent:.2f} of what it predicts."
