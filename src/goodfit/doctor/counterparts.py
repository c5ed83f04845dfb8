"""Counterparts of validation images: the same ones as they lie on disk, as training images are prepared, or changed in one way."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from goodfit.doctor.comparison import Comparison, LabeledImages, Pair
from goodfit.doctor.pixels import spread, to_images
from goodfit.doctor.preparation import MAX_PLAIN_ERROR, MIN_LIKENESS, Preparation, resize, take_aligned
from goodfit.doctor.probe import PatchFeatures, Ridge, compare_right

MAX_IMAGES, FEW_IMAGES, MAX_MATCHED = 600, 400, 3000
SCALE_RATIO, SCALE_OFFSET = 1.4, 0.35  # of deviations, and of means in them, between the splits' preparations
NEIGHBORS_OF = 64  # training images of which the one on disk is looked for
MIN_Z, MIN_GAIN = 5.0, 0.08  # that a change of the images must bring
MIN_PLAIN_LIKENESS = 0.97  # correlation of inputs with what lies on disk, for images prepared by resizing and scaling alone
MAX_LEVELS = 256


class Counterparts:
    """What the validation images of a comparison could have been."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison

    @cached_property
    def _aligned(self) -> tuple[Tensor, Tensor, Tensor] | None:
        raw = self.comparison.patient.raw
        if self.comparison.raw is None or not raw:
            return None
        return take_aligned(self.comparison.sample.validation, *raw["validation"], MAX_IMAGES)

    @cached_property
    def _regressed(self) -> tuple[Preparation, float] | None:
        return Preparation.regress(self.inputs, self._aligned[1]) if self._aligned else None

    @cached_property
    def _train_preparation(self) -> Preparation | None:
        raw = self.comparison.patient.raw
        if self.comparison.raw is None or not raw:
            return None
        pixels = raw["train"][0]  # all of them, for the network gets copies and blank images, too
        images = to_images(pixels[spread(len(pixels), MAX_MATCHED)])
        return Preparation.match(self.comparison.sample.train.images, images)

    @property
    def is_known(self) -> bool:
        """Whether validation images are known as they lie on disk."""
        return self._regressed is not None and self._train_preparation is not None

    @property
    def inputs(self) -> Tensor:
        assert self._aligned is not None
        return self._aligned[0]

    @property
    def labels(self) -> Tensor:
        assert self._aligned is not None
        return self._aligned[2]

    @cached_property
    def as_training(self) -> Tensor:
        """The validation images on disk prepared as training images are, without their random transforms."""
        assert self._aligned is not None and self._train_preparation is not None
        return self._train_preparation(self._aligned[1])

    def prepare_as_validation(self) -> LabeledImages | None:
        """Training images on disk as validation images are prepared; None if that is not known, or more than resizing and scaling."""
        raw = self.comparison.raw
        if self._regressed is None or raw is None or self._regressed[1] < MIN_PLAIN_LIKENESS:
            return None
        return LabeledImages(self._regressed[0](raw.train.images), raw.train.labels)

    @property
    def validation_order(self) -> tuple[int, ...] | None:
        """Which channel on disk each channel of the validation images is; None if that is not known."""
        if not self.is_known or self._regressed is None or self._regressed[1] < MIN_LIKENESS:
            return None
        return self._regressed[0].order

    def find_difference(self, is_augmented: bool) -> str | None:
        """How validation images are made otherwise than training images from those on disk, in words; None if they are not."""
        assert self._regressed is not None and self._train_preparation is not None and self._aligned is not None
        own, train = self._regressed[0], self._train_preparation
        std = self.inputs.std((0, 2, 3)).clamp_min(1e-9)
        error = float(((own(self._aligned[1]) - self.inputs).square().mean((0, 2, 3)).sqrt() / std).mean())
        if error > MAX_PLAIN_ERROR:
            if not is_augmented and not self._is_train_plain():
                return None
            plain = "" if is_augmented else ", training images do not"
            return f"Validation images differ from those on disk, resized and scaled, by {error:.2f} standard deviations{plain}"
        if bool((own.gain * train.gain < 0).any()):
            return "Validation images are the negatives of what training images would be"
        ratio = float((own.gain.clamp_min(1e-12) / train.gain.clamp_min(1e-12)).log().mean().exp())
        moved = (own.gain - train.gain) * self._aligned[1].mean() + own.offset - train.offset
        shift = float((moved / std).abs().max())
        if max(ratio, 1 / ratio) < SCALE_RATIO and shift < SCALE_OFFSET:
            return None
        return f"Validation pixels are scaled {ratio:.2g} times as much as training pixels, and moved by {shift:.2g} standard deviations"

    def _is_train_plain(self) -> bool:
        """Whether training images are those on disk, resized and scaled."""
        raw, preparation = self.comparison.raw, self._train_preparation
        assert raw is not None and preparation is not None
        inputs = self.comparison.sample.train.spread(NEIGHBORS_OF)[0].flatten(1)
        made = preparation(raw.train.images).flatten(1)
        nearest = torch.cdist(inputs, made).min(1).values / inputs.shape[1] ** 0.5
        return float((nearest / inputs.std().clamp_min(1e-9)).quantile(0.3)) < MAX_PLAIN_ERROR

    @cached_property
    def repair(self) -> tuple[str, float, float] | None:
        """The change of the images of one split after which training images teach the validation labels: its name, and the accuracy of a
        probe before and after; None if none does.
        """
        pair = self.comparison.inputs
        before = _find_right(pair, lambda x: x, lambda x: x)
        best: tuple[str, float, float] | None = None
        for name, change_train, change_validation in make_repairs(pair):
            right = _find_right(pair, change_train, change_validation)
            gain, z = compare_right(right, before)
            after = float(right.float().mean())
            if gain > MIN_GAIN and z > MIN_Z and (best is None or after > best[2]):
                best = (name, float(before.float().mean()), after)
        return best

    @cached_property
    def has_same_levels(self) -> bool:
        """Whether the numbers of both splits are spaced alike, as those of pixels on disk that were scaled in the same way."""
        splits = (self.comparison.inputs.train, self.comparison.inputs.validation)
        steps = [_measure_spacing(split.images[:64, 0]) for split in splits]
        return None not in steps and abs(steps[0] / steps[1] - 1) < 0.01  # type: ignore[operator]


def make_repairs(pair: Pair) -> list[tuple[str, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]]:
    """Changes of the training or of the validation images that could put right how the splits differ."""

    def keep(x: Tensor) -> Tensor:
        return x

    def match_scale(x: Tensor) -> Tensor:
        t, v = pair.train.images, pair.validation.images
        gain = t.std((0, 2, 3), keepdim=True) / v.std((0, 2, 3), keepdim=True).clamp_min(1e-9)
        return (x - v.mean((0, 2, 3), keepdim=True)) * gain + t.mean((0, 2, 3), keepdim=True)

    both: list[tuple[str, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = [
        ("scaling them as training images", keep, match_scale),
        ("turning them upside down", keep, lambda x: x.flip(2)),
        ("turning them by 90 degrees", keep, lambda x: x.rot90(1, (2, 3))),
        ("turning them by 270 degrees", keep, lambda x: x.rot90(3, (2, 3))),
        ("turning them by 180 degrees", keep, lambda x: x.flip(2, 3)),
    ]
    for share in (0.5, 0.65, 0.8):
        both.append((f"cropping training images to {100 * share:.0f} %", lambda x, s=share: _zoom(x, s), keep))  # type: ignore[misc]
        both.append((f"cropping them to {100 * share:.0f} %", keep, lambda x, s=share: _zoom(x, s)))  # type: ignore[misc]
    for share in (0.25, 0.4, 0.6):
        both.append((f"shrinking training images to {100 * share:.0f} % and back", lambda x, s=share: _blur(x, s), match_scale))  # type: ignore[misc]
        both.append((f"shrinking them to {100 * share:.0f} % and back", keep, lambda x, s=share: match_scale(_blur(x, s))))  # type: ignore[misc]
    return both


def _find_right(pair: Pair, change_train: Callable[[Tensor], Tensor], change_validation: Callable[[Tensor], Tensor]) -> Tensor:
    """Which validation labels a probe of some training images gets right, after changes of both."""
    train, validation = (view.images[:FEW_IMAGES] for view in (pair.train, pair.validation))
    x, y = change_train(train), change_validation(validation)
    extract = PatchFeatures(x)
    fit = Ridge(extract(x), pair.train.labels[: len(x)], pair.classes)
    right: Tensor = fit.predict(extract(resize(y, (x.shape[2], x.shape[3])))).argmax(1) == pair.validation.labels[: len(y)]
    return right


def _zoom(images: Tensor, share: float) -> Tensor:
    """The middle of images [N, C, H, W], enlarged to their size."""
    height, width = images.shape[2:]
    h, w = max(2, round(height * share)), max(2, round(width * share))
    top, left = (height - h) // 2, (width - w) // 2
    return F.interpolate(images[:, :, top : top + h, left : left + w], size=(height, width), mode="bilinear", align_corners=False)


def _blur(images: Tensor, share: float) -> Tensor:
    """Images [N, C, H, W] shrunk and enlarged again."""
    height, width = images.shape[2:]
    small = F.interpolate(images, size=(max(1, round(height * share)), max(1, round(width * share))), mode="area")
    return F.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)


def _measure_spacing(values: Tensor) -> float | None:
    """The least distance between numbers, if there are so few that they are levels of pixels."""
    levels = ((values - values.min()) / values.std().clamp_min(1e-9) * 1e5).round().unique()  # type: ignore[no-untyped-call]
    if len(levels) > MAX_LEVELS or len(levels) < 3:
        return None
    return float(levels.diff().min()) * float(values.std())
