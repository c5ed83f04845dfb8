"""The size at which training shows the images, by progress."""

from __future__ import annotations

import dataclasses

from goodfit.core.contracts import Resolution
from goodfit.core.settings import Count, Share
from goodfit.schedules.span import Span, SpanSettings, to_share


@dataclasses.dataclass(frozen=True)
class Full(Resolution):
    """Shows the images at the model's size throughout.

    Helps: any training; the control.
    Hurts: nothing.
    Cost: none.
    Source: -
    """

    def __call__(self, size: tuple[int, int], t: float) -> tuple[int, int]:
        return size


@dataclasses.dataclass(frozen=True)
class Progressive(SpanSettings, Resolution):
    """Shows smaller images early: their sides grow steadily from the share `start` of the model's size to all of it after `length`.

    Sides below the model's are multiples of `multiple` pixels. Images are shrunk after they are augmented.

    Helps: short trainings: a step on images of 20 pixels takes two fifths of one on 32, and coarse features are learned first.
    Hurts: fine detail, where little time is left for it; nets that take images of one size only, which are refused.
    Cost: less than none.
    Source: Howard 2018 (progressive resizing, DAWNBench); Tan & Le 2021 (EfficientNetV2: progressive learning).
    """

    length: Span = 0.7
    start: Share = 0.6
    multiple: Count = 4

    def __call__(self, size: tuple[int, int], t: float) -> tuple[int, int]:
        length = to_share(self.length)
        if t >= length:
            return size
        share = self.start + (1 - self.start) * t / length
        height, width = (min(side, max(1, round(side * share / self.multiple)) * self.multiple) for side in size)
        return height, width
