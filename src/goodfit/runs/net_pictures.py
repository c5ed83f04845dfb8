"""Sheets of pictures of a trained network: its first weights, what speaks for its answers, what a layer puts out, images as points."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from goodfit.core.words import format_percent
from goodfit.inspection.attribution import CamRule, compute_cam, compute_occlusion, compute_saliency
from goodfit.inspection.embedding import MIN_POINTS, lay_out_neighbors, project_principal
from goodfit.inspection.feature_maps import find_first_layer, find_map_layer, record_output
from goodfit.predict.calibration import apply_temperature
from goodfit.predict.predictor import Classifier
from goodfit.predict.views import to_probabilities
from goodfit.recipe.transfer.features import HEAD, FeatureHooks
from goodfit.terminal.paint import (
    GROUP_COLORS,
    OTHER_COLOR,
    paint_gray,
    paint_heat,
    paint_legend,
    paint_mosaic,
    paint_plane,
    paint_weights,
    square_up,
)
from goodfit.terminal.sheet import Picture, render_sheet
from goodfit.training.evaluate import eval_batch_size

MAX_TILES, MAX_TEMPLATES, MAX_CHANNELS = 144, 60, 5  # filters of a layer, templates of classes, channels of a layer that are shown
CAPTION_WIDTH = 190  # pixels: an answer, its label and the name of the image
WINDOWS_A_SIDE = 7  # of an occlusion, which overlap by half
CAM_NAMES: dict[CamRule, str] = {"grad_cam": "Grad-CAM", "layer_cam": "LayerCAM"}

NO_CONVOLUTION = "No module of this network is a convolution, so it has no class activation map."

Layout = Literal["rows", "cards", "large"]


@dataclasses.dataclass(frozen=True)
class LabeledImages:
    """Images as a network sees them before they are normalized: uint8 `pixels` [N, C, H, W], `names` [N], and `labels` [N] if known."""

    pixels: Tensor
    names: tuple[str, ...]
    labels: tuple[int, ...] | None


@dataclasses.dataclass(frozen=True)
class Sheet:
    """Rows of pictures under a title, with a sentence that says what they are, or where there are none why not.

    `layout` is how a page lays them out: in rows, as cards, or large. `legend` names the colors of groups: (name, "#rrggbb").
    """

    name: str
    title: str
    text: str
    rows: Sequence[Sequence[Picture]] = ()
    layout: Layout = "rows"
    legend: tuple[tuple[str, str], ...] = ()

    def render(self) -> Image.Image:
        """Render the pictures as one image, with the legend beside them."""
        drawn = render_sheet(self.rows, caption_width=CAPTION_WIDTH)
        if not self.legend:
            return drawn
        legend = Image.fromarray(paint_legend(self.legend, drawn.height))
        paper = Image.new("RGB", (drawn.width + legend.width, drawn.height))
        paper.paste(drawn, (0, 0))
        paper.paste(legend, (drawn.width, 0))
        return paper


def normalize(classifier: Classifier, pixels: Tensor) -> Tensor:
    """Pixels uint8 [B, C, H, W] as the network takes them, on its device."""
    return classifier.preprocess.normalize(pixels.to(classifier.device)).contiguous()


@torch.no_grad()
def answer(classifier: Classifier, pixels: Tensor) -> Tensor:
    """The probabilities [N, K] for the center crops of images, uint8 [N, C, H, W]."""
    batches = torch.split(pixels, eval_batch_size(*pixels.shape[2:]))
    logits = torch.cat([classifier.viewer.scores(batch) for batch in batches])
    return apply_temperature(to_probabilities(classifier.loss, logits).float(), classifier.temperature)


def describe_answer(classifier: Classifier, images: LabeledImages, probabilities: Tensor, place: int) -> str:
    """The predicted class of an image with its probability, and the label if that differs."""
    predicted = int(probabilities[place].argmax())
    text = f"{classifier.classes[predicted]} ({format_percent(float(probabilities[place, predicted]), 0)})"
    if images.labels is None or images.labels[place] == predicted:
        return text
    return f"{text}, labeled {classifier.classes[images.labels[place]]}"


# ---- weights -------------------------------------------------------------------------------------------------------------------------


def draw_weights(classifier: Classifier, images: Tensor) -> Sheet:
    """Draw the weights of the first layer as images, by their effect on pixels on a scale of 0 to 1: filters, or a template per class.

    Source: CS231n, linear classification (templates) and convolutional networks (filters).
    """
    title = "Weights of the first layer"
    first = find_first_layer(classifier.model, images)
    if first is None:
        return Sheet("weights", title, "No first layer of this network takes whole images, so that no weights are pictures.")
    weights = first.weights.float().cpu()
    if weights.shape[1] == len(classifier.preprocess.std):
        weights = weights / torch.tensor(classifier.preprocess.std)[:, None, None]
    painted = paint_weights(weights.numpy())
    scale = "Gray is zero; bright speaks for a color, dark against it."
    if first.are_templates:
        text = f"The weights of {first.name}: a template for each class. {scale}"
        cards = [Picture(pixels, name) for pixels, name in zip(painted, classifier.classes, strict=True)][:MAX_TEMPLATES]
        return Sheet("weights", title, text, [cards[k : k + 10] for k in range(0, len(cards), 10)], "cards")
    height, width = weights.shape[2:]
    kinds = "units" if (height, width) == tuple(images.shape[2:]) else "filters"
    some = f", the first {MAX_TILES} of which are shown" if len(painted) > MAX_TILES else ""
    text = (
        f"The weights of {first.name}: {len(painted)} {kinds}, {height}x{width}{some}. {scale} Edges, colors and blobs are what"
        " a net should have learned; noise is left of weights that learned little."
    )
    return Sheet("weights", title, text, [[Picture(paint_mosaic(painted[:MAX_TILES]), first.name)]], "large")


# ---- evidence ------------------------------------------------------------------------------------------------------------------------


def draw_evidence(classifier: Classifier, images: LabeledImages, probabilities: Tensor, layer: str, rule: CamRule) -> Sheet:
    """Draw saliency, class activation map and occlusion for the predicted class of each image, and for the label of a wrong answer.

    Raises:
        UsageError: the layer has no maps, or the network no derivative by its images.
    """
    x, predicted = normalize(classifier, images.pixels), probabilities.argmax(1)
    labels = predicted if images.labels is None else torch.tensor(images.labels)
    saliency = compute_saliency(classifier.model, x, predicted).float().cpu().numpy()
    of_answers = _compute_heat(classifier, x, predicted, layer, rule)
    of_labels = _compute_heat(classifier, x, labels, layer, rule) if bool((labels != predicted).any()) else {}
    rows = []
    for place, name in enumerate(images.names):
        pixels = images.pixels[place].permute(1, 2, 0).numpy()
        cells = [Picture(pixels, f"{describe_answer(classifier, images, probabilities, place)}; {name.rpartition('/')[2]}")]
        cells.append(Picture(paint_gray(saliency[place]), "saliency"))
        cells += [Picture(paint_heat(pixels, values[place]), kind) for kind, values in of_answers.items()]
        if labels[place] != predicted[place]:
            label = classifier.classes[int(labels[place])]
            cells += [Picture(paint_heat(pixels, values[place]), f"{kind} for {label}") for kind, values in of_labels.items()]
        rows.append(cells)
    cam = f"{CAM_NAMES[rule]} shows where the maps of {layer} speak for the class." if layer else NO_CONVOLUTION
    text = (
        f"Saliency is bright where a change of a pixel changes the score of the class most. {cam} Occlusion is red where hiding a part of"
        " the image lowers the score, blue where it raises it. For a wrong answer the last pictures are for its label. Evidence that lies"
        " beside the object is a shortcut."
    )
    return Sheet("evidence", "Where the answers come from", text, rows)


def _compute_heat(classifier: Classifier, x: Tensor, classes: Tensor, layer: str, rule: CamRule) -> dict[str, NDArray[np.float32]]:
    """The class activation maps [N, h, w] of a layer, if there is one, and the occlusion [N, H, W] for classes [N], by their names."""
    cam = {CAM_NAMES[rule]: compute_cam(classifier.model, x, classes, layer, rule)} if layer else {}
    height, width = (-(-2 * side // (WINDOWS_A_SIDE + 1)) for side in x.shape[2:])
    stride = (max(1, height // 2), max(1, width // 2))
    maps = {**cam, "occlusion": compute_occlusion(classifier.model, x, classes, (height, width), stride)}
    return {name: values.float().cpu().numpy() for name, values in maps.items()}


# ---- activations ---------------------------------------------------------------------------------------------------------------------


def draw_activations(classifier: Classifier, images: LabeledImages, layers: Sequence[str]) -> Sheet:
    """Draw what layers put out for images: of maps the channels that differ most from place to place, else all units in a square.

    Raises:
        UsageError: there is no such layer, or it puts out no tensor.
    """
    x, title = normalize(classifier, images.pixels), "Activations"
    if not layers:
        return Sheet("activations", title, "This network has no layer between its images and scores, so there are no activations.")
    size, outputs = tuple(images.pixels.shape[2:]), {layer: record_output(classifier.model, x, layer).cpu() for layer in layers}
    rows = []
    for place, name in enumerate(images.names):
        for layer, output in outputs.items():
            values = output[place]
            cells = [Picture(images.pixels[place].permute(1, 2, 0).numpy(), f"{layer}; {name.rpartition('/')[2]}")]
            if values.ndim == 1:
                cells.append(Picture(_fill(square_up(values.numpy()), size), f"{len(values)} units"))
            else:
                order = values.std((1, 2), correction=0).argsort(descending=True, stable=True)[:MAX_CHANNELS].tolist()
                cells += [Picture(_fill(values[k].numpy(), size), f"channel {k}") for k in order]
            rows.append(cells)
    text = (
        f"The output of {' and '.join(layers)}: of maps the channels that differ most from place to place. White is the strongest of each."
    )
    return Sheet("activations", title, text, rows)


def _fill(values: NDArray[np.float32], size: tuple[int, ...]) -> NDArray[np.uint8]:
    """Paint a map as large as the images, its places as squares."""
    painted = Image.fromarray(paint_gray(values)[:, :, 0])
    return np.asarray(painted.resize((size[1], size[0]), Image.Resampling.NEAREST))[:, :, None]


def choose_layers(classifier: Classifier, images: Tensor) -> tuple[str, list[str]]:
    """The layer for class activation maps, empty without convolutions, and the layers to draw: the first with maps and that one, or
    in a network without maps what the head takes in.
    """
    maps = find_map_layer(classifier.model, images)
    if maps:
        first = find_first_layer(classifier.model, images)
        return maps, list(dict.fromkeys([*([first.name] if first is not None else []), maps]))
    hidden = [name for name, module in classifier.model.named_children() if any(True for _ in module.parameters())]
    return "", hidden[:-1][-1:]


# ---- the plane -----------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def read_features(classifier: Classifier, pixels: Tensor) -> NDArray[np.float32]:
    """What the head takes in for images uint8 [N, C, H, W]: features [N, D].

    Raises:
        UsageError: the network has no linear layer as its head.
    """
    hooks, found = FeatureHooks(classifier.model, [HEAD]), []
    try:
        for batch in torch.split(pixels, eval_batch_size(*pixels.shape[2:])):
            classifier.viewer.scores(batch)
            found.append(hooks.features[HEAD].cpu())
    finally:
        hooks.remove()
    return torch.cat(found).numpy()


def draw_plane(classifier: Classifier, images: LabeledImages, has_time: bool = True) -> Sheet:
    """Draw images as points of a plane by what the head takes in: principal components and, where there is time, t-SNE.

    Raises:
        UsageError: the network has no linear layer as its head.
    """
    title = "Images as points"
    if len(images.names) < MIN_POINTS:
        return Sheet("plane", title, f"A map of images takes {MIN_POINTS} of them or more.")
    features, predicted = read_features(classifier, images.pixels), answer(classifier, images.pixels).argmax(1)
    groups = predicted.tolist() if images.labels is None else list(images.labels)
    colored = sorted(k for k, _ in Counter(groups).most_common(len(GROUP_COLORS)))
    places = [colored.index(k) if k in colored else len(GROUP_COLORS) for k in groups]
    wrong = [guess != label for guess, label in zip(predicted.tolist(), groups, strict=True)]
    points, shown = project_principal(features)
    rows = [[Picture(paint_plane(points, places, wrong), f"principal components, {format_percent(shown, 0)} of the variance")]]
    if has_time:
        rows[0].append(Picture(paint_plane(lay_out_neighbors(features), places, wrong), "t-SNE"))
    legend = [(classifier.classes[k], _hex(GROUP_COLORS[place])) for place, k in enumerate(colored)]
    if len(set(groups)) > len(colored):
        legend.append(("other classes", _hex(OTHER_COLOR)))
    by = "predicted class" if images.labels is None else "label; a ring marks a wrong answer"
    text = (
        f"{len(images.names)} images by their {features.shape[1]} features, which the last layer takes in, in the color of their {by}."
        " Classes that lie apart are told apart; in t-SNE neighbors are alike, and the distance between groups says little."
    )
    return Sheet("plane", title, text, rows, "large", tuple(legend))


def _hex(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
