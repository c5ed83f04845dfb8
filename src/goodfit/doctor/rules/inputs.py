"""Rules of the numbers that stand for colors: their scale, and the order of the channels."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from goodfit.doctor.course import clean_labels
from goodfit.doctor.examination import Examination
from goodfit.doctor.finding import Finding, Rule, Stage
from goodfit.doctor.probe import Ridge, compare_right
from goodfit.doctor.replay import NO_CHANGE, Change
from goodfit.inspection.dissection import untouched
from goodfit.inspection.operations import BATCH_NORMS

FAR_ABOVE, FAR_BELOW, FAR_OFF = 10.0, 0.02, 10.0  # of the standard deviation, and of the mean in units of it: certain
ABOVE, BELOW, OFF = 3.0, 0.1, 3.5  # worth a trial
MIN_ENTERING = 0.5  # of the inputs' size: what must reach the first weights of it; less if the network scales inputs itself
TRIAL_STEPS, MIN_FALL = 30, 0.85  # of the loss with standardized inputs over that of the inputs as they are
MIN_Z_SURE, MIN_Z = 4.5, 3.0  # standard errors by which another order of the channels must be better
MIN_NEARER = 0.9  # of the distance to a batch norm's statistics
FIRST_COMPARED, MOST_COMPARED = 256, 1000  # images of each split


@dataclasses.dataclass(frozen=True)
class Scale:
    """The inputs by channel: their mean standard deviation, and the largest mean in units of it."""

    std: float
    offset: float


def measure_scale(exam: Examination) -> Scale:
    """Measure the images of both splits; what only one shows has another cause."""
    deviations, offsets = [], []
    for split in (exam.sample.train, exam.sample.validation):
        mean, std = split.images.double().mean((0, 2, 3)), split.images.double().std((0, 2, 3))
        deviations.append(float(std.mean()))
        offsets.append(float(mean.abs().max()) / max(deviations[-1], 1e-12))
    nearest = min(deviations, key=lambda std: abs(math.log(max(std, 1e-12))))
    return Scale(nearest, min(offsets))


def reaches_weights(exam: Examination) -> bool:
    """Whether inputs reach the first weights of the network about as they are, and not scaled by the network itself."""
    size = math.hypot(exam.preflight.input_mean, exam.preflight.input_std)
    entering = exam.preflight.layers[0].entering if exam.preflight.layers else math.nan
    return not math.isfinite(entering) or MIN_ENTERING < entering / max(size, 1e-12) < 1 / MIN_ENTERING


def learns_better_standardized(exam: Examination) -> tuple[bool, str]:
    """Whether the loss of the same steps is far lower with inputs that are standardized by channel, and the numbers."""
    own, standardized = (exam.trial(change, TRIAL_STEPS) for change in (NO_CHANGE, Change(inputs="standardized")))
    a, b = (sum(trial.losses[-8:]) / 8 if len(trial.losses) >= 8 else math.nan for trial in (own, standardized))
    return b < MIN_FALL * a or (math.isnan(a) and not math.isnan(b)), f"after {TRIAL_STEPS} steps the loss is {a:.2f}, standardized {b:.2f}"


def find_inputs_not_scaled(exam: Examination) -> Finding | None:
    """Inputs have a standard deviation far above 1, and the network does not divide them itself."""
    scale = measure_scale(exam)
    if scale.std < ABOVE or not reaches_weights(exam):
        return None
    evidence = f"Inputs run from {float(exam.sample.train.images.min()):.0f} to {float(exam.sample.train.images.max()):.0f} with a"
    evidence += f" standard deviation of {scale.std:.1f} where networks expect about 1"
    remedy = "Divide the pixels by 255 and standardize them by channel, in training and in validation alike."
    if scale.std > FAR_ABOVE:
        return Finding("inputs_not_scaled", 0.96, f"{evidence}.", remedy)
    is_better, numbers = learns_better_standardized(exam)
    return Finding("inputs_not_scaled", 0.9 if is_better else 0.3, f"{evidence}; {numbers}.", remedy, is_material=is_better)


def find_inputs_scaled_twice(exam: Examination) -> Finding | None:
    """Inputs hardly vary, or vary little around a number far from zero, and the network does not put that right itself."""
    scale = measure_scale(exam)
    is_small, is_off = scale.std < BELOW, scale.offset > OFF and scale.std < ABOVE
    if not (is_small or is_off) or not reaches_weights(exam):
        return None
    evidence = f"Inputs have a standard deviation of {scale.std:.4f} and a mean {scale.offset:.1f} times as far from zero"
    remedy = "Scale the pixels once: divide by 255, then subtract the mean and divide by the standard deviation of the training images."
    if scale.std < FAR_BELOW or scale.offset > FAR_OFF:
        return Finding("inputs_scaled_twice", 0.96, f"{evidence}, where networks expect about 1 and 0.", remedy)
    is_better, numbers = learns_better_standardized(exam)
    return Finding("inputs_scaled_twice", 0.9 if is_better else 0.3, f"{evidence}; {numbers}.", remedy, is_material=is_better)


class FeatureTrace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within a `with` block: what enters the last matrix product of a network, `features` [B, D], and how far the batch is from the
    statistics of its first batch norm: the mean absolute logarithm of the ratios of the variances, `distance`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.features: Tensor | None = None
        self.distance: float | None = None
        self._parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.rpartition("::")[2]
        if name in ("addmm", "mm", "linear"):
            entering = [x for x in args if isinstance(x, Tensor) and x.ndim == 2 and x.untyped_storage().data_ptr() not in self._parameters]
            self.features = entering[0] if entering else self.features
        if name in BATCH_NORMS and self.distance is None and isinstance(args[4], Tensor):
            x, expected = args[0], args[4]
            self.distance = float((x.transpose(0, 1).flatten(1).var(1) / expected.clamp_min(1e-9)).clamp_min(1e-9).log().abs().mean())
        return func(*args, **(kwargs or {}))


@dataclasses.dataclass(frozen=True, eq=False)
class OrderedChannels:
    """What a network makes of images whose channels come in some order: which labels [N] a probe of its features gets right, and how far
    the batch is from the statistics of its first batch norm.
    """

    order: tuple[int, ...]
    right: Tensor
    distance: float | None

    def above(self, other: OrderedChannels) -> float:
        """By how many standard errors more labels are right than with another order (McNemar)."""
        return compare_right(self.right, other.right)[1]


def try_channels(model: nn.Module, images: Tensor, labels: Tensor, classes: int, order: tuple[int, ...]) -> OrderedChannels:
    """Try an order of the channels of images [N, C, H, W] with labels [N]."""
    with untouched(model), torch.no_grad(), FeatureTrace(model) as traced:
        model.eval()
        scores = model(images[:, list(order)])
    features = traced.features if traced.features is not None and len(traced.features) == len(images) else scores.float()
    right = Ridge(features, labels, classes).scores.argmax(1) == labels
    return OrderedChannels(order, right.double(), traced.distance)


def find_channels_swapped(exam: Examination) -> Finding | None:
    """The features of a pretrained network tell the classes apart better if its inputs' channels come in another order."""
    train, validation = exam.sample.train, exam.sample.validation
    if train.images.shape[1] != 3 or bool((train.images[:, 0] == train.images[:, 1]).all()) or not exam.is_pretrained:
        return None

    def attempt(orders: list[tuple[int, ...]], n: int) -> list[OrderedChannels]:
        parts = [split.spread(n) for split in (train, validation)]
        images, labels = torch.cat([x for x, _ in parts]), torch.cat([clean_labels(y, exam.classes) for _, y in parts])
        return [try_channels(exam.start_model, images, labels, exam.classes, order) for order in orders]

    first, *others = attempt(list(itertools.permutations(range(3))), FIRST_COMPARED)
    better = [found.order for found in others if found.above(first) > 0.5]
    if not better:
        return None
    own, *others = attempt([first.order, *better], MOST_COMPARED)
    best = max(others, key=lambda found: float(found.right.mean()))
    is_nearer = own.distance is not None and best.distance is not None and best.distance < MIN_NEARER * own.distance
    z = best.above(own)
    if z < (MIN_Z if is_nearer or own.distance is None else MIN_Z_SURE):
        return None
    nearer = f", nearer its batch norm's statistics ({own.distance:.2f}, then {best.distance:.2f})" if is_nearer else ""
    order = ", ".join(map(str, best.order))
    return Finding(
        "channels_swapped",
        0.95 if z > MIN_Z_SURE or is_nearer else 0.8,
        f"Features of the pretrained network give a linear probe {100 * float(own.right.mean()):.1f} % of {len(own.right)} labels, and"
        f" {100 * float(best.right.mean()):.1f} % with the channels in the order {order}{nearer}.",
        f"Feed the channels in the order {order}, as when the weights were trained (RGB, not BGR).",
    )


RULES = (
    Rule(
        "inputs_not_scaled",
        Stage.START,
        find_inputs_not_scaled,
        {
            "init_too_large": "there inputs have a standard deviation of about 1",
            "networks that divide by 255 themselves": "there inputs are small where they reach the first weights",
        },
    ),
    Rule(
        "inputs_scaled_twice",
        Stage.START,
        find_inputs_scaled_twice,
        {"lr_too_low": "there inputs vary by about 1", "init_too_small": "there inputs vary by about 1"},
    ),
    Rule("channels_swapped", Stage.START, find_channels_swapped, {"channels_differ": "there only validation images have another order"}),
)
