"""Rules of what the network computes, whatever its weights: its outputs, its nonlinearities, and whether images stay apart."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from goodfit.doctor.examination import PREFLIGHT_IMAGES, Examination
from goodfit.doctor.finding import Finding, Rule, Stage
from goodfit.doctor.gain import measure_gain
from goodfit.doctor.replay import Change
from goodfit.doctor.rules.initial import find_constant_init
from goodfit.inspection.chance import OwnChance, keep_chance
from goodfit.inspection.dissection import untouched
from goodfit.inspection.operations import trace
from goodfit.inspection.preflight import measure_affine_error, measure_mixing

MIN_FLOOR = 0.1  # of the loss of equal scores, that is left at one-hot probabilities which are all right
MIN_SPREAD = 1e-3  # standard deviation of outputs, below which they do not show whether they are confined
MIN_MIXING = 1e-4  # of an output's gradient that falls on another image; without mixing it is exactly zero
SMALL_FACTOR = 0.1  # in the place of factors and biases at zero
EXACTLY_AFFINE = 1e-4
LONG_RUN = 4  # weights in a row without a nonlinearity; none of the usual blocks has so many
BEND = "Put an activation, such as ReLU, behind every hidden layer."


def find_wrong_outputs(exam: Examination) -> Finding | None:
    """There are more scores than classes."""
    shape = exam.preflight.output.shape
    if len(shape) != 2 or shape[1] <= exam.classes:
        return None
    evidence = f"The network puts out {shape[1]} scores for {exam.classes} classes: {shape[1] - exam.classes} of them can never be right."
    return Finding("wrong_outputs", 0.97, evidence, f"Give the last layer {exam.classes} outputs.")


def find_softmax_twice(exam: Examination) -> Finding | None:
    """The outputs, or what the loss makes of them, are confined to 0 to 1, and the loss does not vanish where they are right."""
    shape = exam.loss_shape
    floor, even = shape["probabilities"], shape["even"]
    is_bounded = abs(shape["shifted"]) < 1e-4 and 0.5 < shape["wrong"] - shape["right"] < 1.1
    if is_bounded and shape["right"] > MIN_FLOOR * even:
        evidence = f"The loss is still {shape['right']:.2f} for scores that are 20 higher for the right class, and no more than"
        evidence += f" {shape['wrong']:.2f} for the wrong one: it makes probabilities of the scores twice."
    elif floor > MIN_FLOOR * even > 0 and are_shares(exam):
        evidence = (
            f"The outputs lie between 0 and 1 and the loss takes them for scores: if all were right, it would still be {floor:.2f}, and"
        )
        evidence += f" is {even:.2f} if all are equal."
    else:
        return None
    return Finding("softmax_twice", 0.97, evidence, "Leave the last softmax or sigmoid out: the loss applies its own to raw scores.")


def are_shares(exam: Examination) -> bool:
    """Whether outputs are confined to 0 to 1, as a softmax or a sigmoid does, for images ten times as strong as well."""
    if exam.preflight.output.are_probabilities:
        return True
    images, _ = exam.sample.train.spread(PREFLIGHT_IMAGES)
    with untouched(exam.start_model), keep_chance(), torch.no_grad():
        exam.start_model.eval()
        outputs = [exam.start_model(images * factor).float() for factor in (1, 10, -10)]
    return all(bool(((x >= 0) & (x <= 1)).all()) and float(x.std()) > MIN_SPREAD for x in outputs)


def find_missing_nonlinearity(exam: Examination) -> Finding | None:
    """Two or more weights follow one another, and nothing on the way to the scores bends."""
    network, error = exam.network, exam.preflight.affine_error
    if network.depth < 2 or find_constant_init(exam) is not None:  # units that are equal, or zero, leave nothing that bends
        return None
    is_straight = network.bends == 0
    if not is_straight and error < EXACTLY_AFFINE:  # what should bend does not; nor far out, where a weak tanh would?
        images, _ = exam.sample.train.spread(PREFLIGHT_IMAGES)
        with untouched(exam.start_model):
            exam.start_model.eval()
            is_straight = measure_affine_error(exam.start_model, 100 * images) < EXACTLY_AFFINE
    if not is_straight:
        return None
    if error < EXACTLY_AFFINE or not math.isfinite(error):
        evidence = f"The network has {network.depth} layers of weights in a row, and is an affine function of the image all the same"
        return Finding("missing_nonlinearity", 0.97, f"{evidence}: f(a + b - c) = f(a) + f(b) - f(c) up to {error:.0e}.", BEND)
    evidence = f"No activation follows any of the {network.depth} layers of weights; norms and max-pools are all that bends."
    return Finding("missing_nonlinearity", 0.93 if network.depth > 2 else 0.85, evidence, BEND)


def find_linear_run(exam: Examination) -> Finding | None:
    """Many weights follow one another without a nonlinearity in a part of the network, and ReLUs between them would help."""
    network = exam.network
    longest = max((weight.flow.run for weight in network.weights if weight.flow), default=0)
    if longest < LONG_RUN or network.bends == 0:
        return None
    gain = measure_gain(exam, Change(structure="bent"))
    if not gain.is_clear:
        return None
    evidence = (
        f"{longest} of {network.depth} layers of weights follow one another, and nothing between them bends. With ReLUs there: {gain}."
    )
    return Finding("missing_nonlinearity", 0.93, evidence, BEND)


def find_images_mixed(exam: Examination) -> Finding | None:
    """In evaluation mode, the output for an image depends on the images beside it."""
    mixing = exam.preflight.mixing
    images, _ = exam.sample.train.spread(PREFLIGHT_IMAGES)
    if not mixing > 0:
        mixing = measure_mixing_of_any_weights(exam.start_model, images, exam.source.seed)
    if not mixing > MIN_MIXING:
        return None
    with untouched(exam.start_model), keep_chance():
        exam.start_model.eval()
        operations, _ = trace(exam.start_model, images[:8])
    if any(o.training for o in operations.of_kind("norm")):
        return None  # a batch norm without statistics of its own: another matter
    evidence = "The scores of an image in evaluation mode depend on the other images of its batch: one of them gets"
    evidence += f" {100 * mixing:.0f} % as much of their gradient as the image itself."
    remedy = "Look for a view or reshape that should be a permute, and for a softmax, mean or attention over the batch."
    return Finding("images_mixed", 0.97, evidence, remedy)


def measure_mixing_of_any_weights(model: nn.Module, images: Tensor, seed: int) -> float:
    """How far images mix in a network some of whose weights start at zero, with other numbers in the place of these."""
    other = copy.deepcopy(model)
    with OwnChance(seed).active(), torch.no_grad():
        for p in other.parameters():
            if p.numel() and not p.any():
                p.normal_(0, max(p[0].numel(), 1) ** -0.5) if p.ndim >= 2 else p.fill_(SMALL_FACTOR)
    other.eval()
    return measure_mixing(other, images)


RULES = (
    Rule("wrong_outputs", Stage.START, find_wrong_outputs, {"labels_out_of_range": "there the labels, not the scores, are too many"}),
    Rule(
        "softmax_twice",
        Stage.START,
        find_softmax_twice,
        {"wrong_loss": "there a loss that takes probabilities gets them, and vanishes where they are right"},
    ),
    Rule(
        "missing_nonlinearity",
        Stage.START,
        find_missing_nonlinearity,
        {
            "capacity_too_small": "there something bends, and the network is small",
            "init_too_small": "there activations work in their linear range, and bend for stronger images",
        },
    ),
    Rule("missing_nonlinearity", Stage.EARLY, find_linear_run, {"capacity_too_small": "there ReLUs between the weights gain nothing"}),
    Rule(
        "images_mixed",
        Stage.START,
        find_images_mixed,
        {"evaluated_in_train_mode": "there only batch norm mixes images, and only in training mode"},
    ),
)
