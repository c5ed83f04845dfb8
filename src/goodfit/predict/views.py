"""Views at work: a model is shown each view of some images, and its answers are averaged; the same for evaluate and predict."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from goodfit.augment.views import View, Window
from goodfit.core.contracts import Loss
from goodfit.core.errors import UsageError
from goodfit.data.multiscale import frame_size
from goodfit.data.preprocess import Preprocess
from goodfit.training.heads import heads
from goodfit.training.noise import evaluating
from goodfit.training.running import running_means

PIXELS = 256 * 64 * 64  # a batch that is judged has at most so many, and 256 images

Pictures = Callable[[int], Sequence[NDArray[np.uint8]]]  # scale -> the same images at it (`data.multiscale.decode_scaled`), [h, w, C] each
Key = tuple[int, tuple[int, int], Window, bool]  # scale, frame of the picture, window, mirrored: what is equal is computed once


def at_once(height: int, width: int) -> int:
    """How many images of this size are judged at once."""
    return max(1, min(256, PIXELS // (height * width)))


def probabilities_of(loss: Any, logits: Tensor) -> Tensor:
    """Probabilities [B, K] as the loss means its scores [B, K]; the softmax for a function of the user's own."""
    return loss.probabilities(logits) if isinstance(loss, Loss) else logits.softmax(dim=1)


@dataclasses.dataclass(frozen=True)
class Viewer:
    """A model with the part that says how it looks at an image, and the loss that says how its scores become probabilities."""

    model: nn.Module
    part: Any
    preprocess: Preprocess
    loss: Any
    device: torch.device

    @property
    def views(self) -> tuple[View, ...]:
        """The views, in the order they are averaged."""
        found: tuple[View, ...] = self.part(self.preprocess.size, self.preprocess.box)
        return found

    @property
    def by_logits(self) -> bool:
        """Whether the logits are averaged, rather than the probabilities."""
        return getattr(self.part, "average", "probability") == "logit"

    def probabilities(self, pictures: Pictures) -> Tensor:
        """Probabilities [n, K] float32 of n images, averaged over all views."""
        *_, (_, mean) = self.means(pictures)
        return self.in_probabilities(mean)

    def in_probabilities(self, mean: Tensor) -> Tensor:
        """Probabilities [n, K] float32 for what `means` gives."""
        return probabilities_of(self.loss, mean).float() if self.by_logits else mean.float()

    def means(self, pictures: Pictures) -> Iterator[tuple[int, Tensor]]:
        """(number of views so far, mean [n, K] float64 of their logits or probabilities) at 1, 2, 4, ... and all views."""
        answers = self.logits(pictures)
        return running_means(answers if self.by_logits else (probabilities_of(self.loss, x) for x in answers), len(self.views))

    def logits(self, pictures: Pictures) -> Iterator[Tensor]:
        """Scores [n, K] float32 of n images by each view in turn; equal windows of an image are computed once."""
        known: dict[Key, Tensor] = {}
        scale, groups = -1, dict[tuple[int, int], tuple[list[int], Tensor]]()
        for view in self.views:
            if view.scale != scale:
                scale, groups = view.scale, _by_frame(pictures(view.scale))
            keys = {frame: (scale, frame, view.window(frame, self.preprocess.size), view.mirrored) for frame in groups}
            fresh = {key: view.cut(groups[frame][1], self.preprocess.size) for frame, key in keys.items() if key not in known}
            known |= self._asked(fresh)
            order = torch.cat([torch.tensor(places) for places, _ in groups.values()]).argsort()
            yield torch.cat([known[key] for key in keys.values()])[order]

    @torch.no_grad()
    def _asked(self, windows: dict[Key, Tensor]) -> dict[Key, Tensor]:
        """Scores [g, K] for windows uint8 [g, h, w, C]: those of a size in common batches."""
        found: dict[Key, Tensor] = {}
        with evaluating(self.model):
            for shape in dict.fromkeys(x.shape[1:] for x in windows.values()):
                alike = {key: x for key, x in windows.items() if x.shape[1:] == shape}
                images = torch.cat(list(alike.values())).permute(0, 3, 1, 2)
                logits = torch.cat([self.scores(some) for some in torch.split(images, at_once(shape[0], shape[1]))])
                found |= zip(alike, torch.split(logits, [len(x) for x in alike.values()]), strict=True)
        return found

    def scores(self, images: Tensor) -> Tensor:
        """Scores [b, K] for uint8 windows [b, C, h, w]."""
        return heads(self.model(self.preprocess.normalize(images.to(self.device))))[0].float().cpu()

    @torch.no_grad()
    def check(self) -> None:
        """Try the views on black images, before anything is decoded or trained.

        Raises:
            UsageError: a scale is too small for the model, or it does not take whole images of other sizes than its own.
        """
        wholes = sorted(view.scale for view in self.views if view.place is None)
        for scale in wholes[:1]:  # the smallest is the hardest
            height, width = frame_size(self.preprocess.size, scale) if scale else self.preprocess.box
            width += max(1, width // 4)  # photos are not square
            try:
                with evaluating(self.model):
                    self.scores(torch.zeros(1, self.preprocess.channels, height, width, dtype=torch.uint8))
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
                raise UsageError(
                    f'"{self.part}" shows the model whole images of any size, such as {height}x{width}, which it does not take ({reason}):'
                    " use ten_crop, or a model that pools its last map, such as convnet or resnet."
                ) from error


def _by_frame(pictures: Sequence[NDArray[np.uint8]]) -> dict[tuple[int, int], tuple[list[int], Tensor]]:
    """Pictures [h, w, C] of equal size together: their places in the sequence, and the stack [g, h, w, C]."""
    places: dict[tuple[int, int], list[int]] = {}
    for place, pixels in enumerate(pictures):
        places.setdefault((pixels.shape[0], pixels.shape[1]), []).append(place)
    return {frame: (own, torch.from_numpy(np.stack([pictures[i] for i in own]))) for frame, own in places.items()}
