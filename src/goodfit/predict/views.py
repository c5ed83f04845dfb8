"""Running a model on several views of each image and averaging its answers; the same for evaluate and predict."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from goodfit.augment.views import ImageView, Window
from goodfit.core.errors import UsageError, first_line
from goodfit.core.task import to_probabilities
from goodfit.data.multiscale import frame_size
from goodfit.data.preprocess import Preprocess
from goodfit.losses.scores import split_outputs
from goodfit.recipe.parts import MODEL_ERRORS
from goodfit.training.evaluate import eval_batch_size, running_means
from goodfit.training.noise import evaluating

Pictures = Callable[[int], Sequence[NDArray[np.uint8]]]  # scale -> the same images at it (`data.scaled.picture`), [h, w, C] each
Key = tuple[int, tuple[int, int], Window, bool]  # scale, frame of the picture, window, mirrored: what is equal is computed once


@dataclasses.dataclass(frozen=True)
class Viewer:
    """A model with the part that gives the views of an image, and the loss that turns its scores into probabilities."""

    model: nn.Module
    part: Any
    preprocess: Preprocess
    loss: Any
    device: torch.device

    @property
    def views(self) -> tuple[ImageView, ...]:
        """The views, in the order they are averaged."""
        views: tuple[ImageView, ...] = self.part(self.preprocess.size, self.preprocess.box)
        return views

    @property
    def averages_logits(self) -> bool:
        """Whether the logits are averaged, rather than the probabilities."""
        return getattr(self.part, "average", "probability") == "logit"

    def probabilities(self, pictures: Pictures) -> Tensor:
        """Probabilities [n, K] float32 of n images, averaged over all views."""
        *_, (_, mean) = self.means(pictures)
        return self.mean_to_probabilities(mean)

    def mean_to_probabilities(self, mean: Tensor) -> Tensor:
        """Turn a mean that `means` yields into probabilities [n, K] float32."""
        return to_probabilities(self.loss, mean).float() if self.averages_logits else mean.float()

    def means(self, pictures: Pictures, center: Tensor | None = None) -> Iterator[tuple[int, Tensor]]:
        """Yield (number of views so far, mean [n, K] float64 of their logits or probabilities) at 1, 2, 4, ... and all views.

        The scores [n, K] of the `center` crops are not computed again where they are known.
        """
        answers = self.logits(pictures, center)
        return running_means(answers if self.averages_logits else (to_probabilities(self.loss, x) for x in answers), len(self.views))

    def logits(self, pictures: Pictures, center: Tensor | None = None) -> Iterator[Tensor]:
        """Yield the scores [n, K] float32 of n images for each view in turn; equal windows of an image are computed once."""
        box, size = self.preprocess.box, self.preprocess.size
        computed: dict[Key, Tensor] = {} if center is None else {(0, box, ImageView().window(box, size), False): center}
        scale, groups = -1, dict[tuple[int, int], tuple[list[int], Tensor]]()
        for view in self.views:
            if view.scale != scale:
                scale, groups = view.scale, _group_by_frame(pictures(view.scale))
            keys = {frame: (scale, frame, view.window(frame, self.preprocess.size), view.mirrored) for frame in groups}
            new = {key: view.crop(groups[frame][1], self.preprocess.size) for frame, key in keys.items() if key not in computed}
            computed |= self._score_windows(new)
            order = torch.cat([torch.tensor(places) for places, _ in groups.values()]).argsort()
            yield torch.cat([computed[key] for key in keys.values()])[order]

    @torch.no_grad()
    def _score_windows(self, windows: dict[Key, Tensor]) -> dict[Key, Tensor]:
        """Score windows uint8 [g, h, w, C] as [g, K]: those of the same size in common batches."""
        scores: dict[Key, Tensor] = {}
        with evaluating(self.model):
            for shape in dict.fromkeys(x.shape[1:] for x in windows.values()):
                alike = {key: x for key, x in windows.items() if x.shape[1:] == shape}
                images = torch.cat(list(alike.values())).permute(0, 3, 1, 2)
                logits = torch.cat([self.scores(batch) for batch in torch.split(images, eval_batch_size(shape[0], shape[1]))])
                scores |= zip(alike, torch.split(logits, [len(x) for x in alike.values()]), strict=True)
        return scores

    def scores(self, images: Tensor) -> Tensor:
        """Score uint8 windows [b, C, h, w] as [b, K] float32."""
        return split_outputs(self.model(self.preprocess.normalize(images.to(self.device))))[0].float().cpu()

    @torch.no_grad()
    def check(self) -> None:
        """Try the views on black images, before anything is decoded or trained.

        Raises:
            UsageError: a scale is too small for the model, or it does not take whole images of other sizes than its own.
        """
        whole_scales = sorted(view.scale for view in self.views if view.place is None)
        for scale in whole_scales[:1]:  # the smallest is the hardest
            height, width = frame_size(self.preprocess.size, scale) if scale else self.preprocess.box
            width += max(1, width // 4)  # photos are not square
            try:
                with evaluating(self.model):
                    self.scores(torch.zeros(1, self.preprocess.channels, height, width, dtype=torch.uint8))
            except MODEL_ERRORS as error:
                raise UsageError(
                    f'"{self.part}" shows the model whole images of any size, such as {height}x{width}, which it does not take'
                    f" ({first_line(error)}):"
                    " use ten_crop, or a model that pools its last map, such as convnet or resnet."
                ) from error


def _group_by_frame(pictures: Sequence[NDArray[np.uint8]]) -> dict[tuple[int, int], tuple[list[int], Tensor]]:
    """Group pictures [h, w, C] by size: their places in the sequence, and the stack [g, h, w, C]."""
    places: dict[tuple[int, int], list[int]] = {}
    for place, pixels in enumerate(pictures):
        places.setdefault((pixels.shape[0], pixels.shape[1]), []).append(place)
    return {frame: (own, torch.from_numpy(np.stack([pictures[i] for i in own]))) for frame, own in places.items()}
